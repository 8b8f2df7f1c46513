"""Accelerators that are not here: what they hold, and compiling for them.

For TPUs XLA compiles ahead of time with `libtpu` (`pip install
'user_llm[tpu]'`), on any Linux machine. For GPUs it cannot: as many CPU devices
stand for them, which gives the same shardings and sizes, but collectives and
temporaries of the CPU's compiler, in float32.
"""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Some devices of one kind.

  Attributes:
    num_devices: Chips, or GPUs.
    layout: As libtpu names it, 'v5e:4x4'; '': CPU devices stand for them.
    hbm_gib: Memory of a device, GiB.
    peak_tflops: Of a device, bfloat16.
  """

  num_devices: int
  layout: str
  hbm_gib: float
  peak_tflops: float

  @property
  def is_compiled_for(self) -> bool:
    """Whether programs are compiled for these very devices."""
    return bool(self.layout)


def _v5e(layout: str, num: int) -> Topology:
  return Topology(
      num_devices=num, layout=f'v5e:{layout}', hbm_gib=16, peak_tflops=197
  )


def _v5p(layout: str, num: int) -> Topology:
  return Topology(
      num_devices=num, layout=f'v5p:{layout}', hbm_gib=95, peak_tflops=459
  )


def _v6e(layout: str, num: int) -> Topology:
  return Topology(
      num_devices=num, layout=f'v6e:{layout}', hbm_gib=32, peak_tflops=918
  )


# By the names of their vendors: those of v5p count cores, two a chip. Memory and
# peaks: cloud.google.com/tpu/docs/{v5e,v5p,v6e}; NVIDIA's H100 SXM data sheet
# (dense).
TOPOLOGIES = {
    'v5e-4': _v5e('2x2', 4),
    'v5e-8': _v5e('2x4', 8),
    'v5e-16': _v5e('4x4', 16),
    'v5e-32': _v5e('4x8', 32),
    'v5e-64': _v5e('8x8', 64),
    'v5e-256': _v5e('16x16', 256),
    'v5p-8': _v5p('2x2x1', 4),
    'v5p-16': _v5p('2x2x2', 8),
    'v5p-32': _v5p('2x2x4', 16),
    'v5p-64': _v5p('2x4x4', 32),
    'v5p-128': _v5p('4x4x4', 64),
    'v6e-8': _v6e('2x4', 8),
    'v6e-16': _v6e('4x4', 16),
    'v6e-64': _v6e('8x8', 64),
    'h100-8': Topology(
        num_devices=8, layout='', hbm_gib=80e9 / GIB, peak_tflops=989
    ),
}
# What JAX calls a device, with its peak: of TPU7x half a chip. Besides those
# above cloud.google.com/tpu/docs/{v4,tpu7x}; NVIDIA's data sheets of A100 SXM,
# H200, L4 and B200 (dense).
_PEAKS = {
    'TPU v4': 275, 'TPU v5 lite': 197, 'TPU v5': 459, 'TPU v6 lite': 918,
    'TPU7x': 2307 / 2,
    'NVIDIA A100-SXM4-40GB': 312, 'NVIDIA A100-SXM4-80GB': 312,
    'NVIDIA L4': 121,
    'NVIDIA H100 80GB HBM3': 989, 'NVIDIA H200': 989, 'NVIDIA B200': 2250,
}


def peak_flops(device_kind: str) -> float | None:
  """bfloat16 FLOP/s of a device, if it is known."""
  tflops = _PEAKS.get(device_kind)
  return None if tflops is None else tflops * 1e12


def get(name: str) -> Topology:
  """The topology of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in TOPOLOGIES:
    raise ValueError(f'--topology={name}: one of {", ".join(TOPOLOGIES)}.')
  return TOPOLOGIES[name]


def prepare(name: str) -> None:
  """What must be set before JAX has found its devices."""
  topology = get(name)
  os.environ['JAX_PLATFORMS'] = 'cpu'
  # Else libtpu asks the cloud's metadata server what machine this is.
  os.environ |= {
      'TPU_SKIP_MDS_QUERY': '1',
      'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
      'TPU_WORKER_HOSTNAMES': 'localhost',
  }
  if not topology.is_compiled_for:
    import jax  # pylint: disable=g-import-not-at-top

    jax.config.update('jax_num_cpu_devices', topology.num_devices)


def devices(name: str) -> Sequence[Any]:
  """Devices to make a mesh of; nothing can be put on those of a TPU.

  Raises:
    ValueError: libtpu is not installed.
  """
  import jax  # pylint: disable=g-import-not-at-top
  from jax.experimental import topologies  # pylint: disable=g-import-not-at-top

  topology = get(name)
  if not topology.is_compiled_for:
    return jax.devices()
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=topology.layout
    )
  except (AttributeError, RuntimeError) as error:
    raise ValueError(
        f'--topology={name} is compiled for by libtpu, which cannot be used '
        f"here ({error}): pip install 'user_llm[tpu]'. One that needs none: "
        'h100-8.'
    ) from error
  return found.devices

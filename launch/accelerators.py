"""Facts about TPU slices and GPU machines, from accelerators.toml."""

from collections.abc import Mapping
import dataclasses
import functools
import math
import pathlib
import tomllib
from typing import Any

from launch import spec as spec_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
  """One slice of TPU, or one machine with GPUs.

  Attributes:
    gke: Value of GKE's node label for the accelerator.
    machine: Google Compute Engine's machine type.
    topology: Of a TPU's chips, '4x4'; '' for GPUs.
    chips: Of the slice or machine.
    hosts: Machines of the slice.
    runtime_version: Of a Cloud TPU VM; '' if it is not known.
  """

  gke: str
  machine: str
  topology: str = ''
  chips: int
  hosts: int = 1
  runtime_version: str = ''

  @property
  def chips_per_host(self) -> int:
    return self.chips // self.hosts


@functools.cache
def _table() -> Mapping[str, Any]:
  path = pathlib.Path(__file__).with_name('accelerators.toml')
  return tomllib.loads(path.read_text(encoding='utf-8'))


@functools.cache
def tpus() -> dict[str, Accelerator]:
  """{'v6e-16': ...}, every type that is known."""
  found = {}
  for generation, row in _table()['tpu'].items():
    for topology in row['topologies']:
      chips = math.prod(map(int, topology.split('x')))
      per_host = max(n for n in map(int, row['machines']) if n <= chips)
      found[f'{generation}-{chips * row["cores_per_chip"]}'] = Accelerator(
          gke=row['gke'],
          machine=row['machines'][str(per_host)],
          topology=topology,
          chips=chips,
          hosts=chips // per_host,
          runtime_version=row['runtime_version'],
      )
  return found


def gpus() -> dict[str, Accelerator]:
  """{'h100-80gb-8': ...}."""
  return {name: Accelerator(**row) for name, row in _table()['gpu'].items()}


def of_job(spec: spec_lib.JobSpec, key: str) -> Accelerator:
  """What `--tpu` or `--gpu` names; raises ValueError if it is not known."""
  known = tpus() if key == 'tpu' else gpus()
  name = getattr(spec, key)
  if name not in known:
    raise spec_lib.error(
        spec, key, 'is not in launch/accelerators.toml.'
        + (spec_lib.suggestion(name, known) or f' It has {", ".join(known)}')
    )
  return known[name]

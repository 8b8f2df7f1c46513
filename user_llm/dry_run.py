"""What a run would use: parameters, shardings, shapes, memory."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
from rich import console as rich_console
from rich import table as rich_table

from user_llm import collectives
from user_llm import topologies
from user_llm import train_state
from user_llm import trainer as trainer_lib


def report(
    trainer: trainer_lib.Trainer,
    batch_spec: Mapping[str, Any],
    topology: str | None = None,
) -> None:
  """Prints parameters, the batch, and what the compiled step takes and does.

  Args:
    trainer: Its mesh may be of devices that are not here.
    batch_spec: Shapes of a batch.
    topology: The name of these devices.
  """
  console = rich_console.Console()
  if not console.is_terminal:
    console.width = 120  # Paths are long, and a file has no edge.
  console.print(_parameter_table(trainer.abstract_state(batch_spec)))
  console.print(_batch_table(batch_spec))
  found = plan(trainer, batch_spec)
  console.print(_memory_table(found))
  console.print(_work_table(found))
  if topology is not None:
    console.print(_verdict(found, topology, trainer.mesh))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What a training step takes and does, a device.

  Attributes:
    state: Bytes of each part of the state.
    arguments: Bytes of the compiled step's arguments.
    temporaries: Bytes of what it needs besides, gradients among them.
    flops: Of the matrix products of a step, over all devices.
    collectives: By kind.
  """

  state: Mapping[str, int]
  arguments: int
  temporaries: int
  flops: int
  collectives: Mapping[str, collectives.Traffic]

  @property
  def peak(self) -> int:
    """Bytes that a device must hold."""
    return self.arguments + self.temporaries


def plan(trainer: trainer_lib.Trainer, batch_spec: Mapping[str, Any]) -> Plan:
  """Compiles a step; nothing is allocated."""
  state = trainer.abstract_state(batch_spec)
  compiled = trainer.compile_step(state, batch_spec)
  memory = compiled.memory_analysis()
  return Plan(
      state=state_bytes(state),
      arguments=memory.argument_size_in_bytes,
      temporaries=memory.temp_size_in_bytes,
      flops=trainer.step_flops(batch_spec),
      collectives=collectives.traffic(compiled.as_text()),
  )


def _memory_table(found: Plan) -> rich_table.Table:
  sizes = {
      **found.state,
      'step: arguments': found.arguments,
      'step: temporaries, gradients among them': found.temporaries,
  }
  table = rich_table.Table(title='Memory a device')
  table.add_column('what')
  table.add_column('MiB', justify='right')
  for name, size in sizes.items():
    table.add_row(name, f'{size / 2**20:,.2f}')
  return table


def _work_table(found: Plan) -> rich_table.Table:
  table = rich_table.Table(
      title=f'A step: {found.flops / 1e12:,.3g} TFLOP in matrix products, all '
      'devices together, recomputation included'
  )
  table.add_column('sent between devices')
  table.add_column('operations', justify='right')
  table.add_column('MiB a device', justify='right')
  for kind, traffic in found.collectives.items():
    table.add_row(
        kind, f'{traffic.count:,}', f'{traffic.num_bytes / 2**20:,.2f}'
    )
  if not found.collectives:
    table.add_row('nothing', '0', '0')
  return table


def _verdict(found: Plan, topology: str, mesh: jax.sharding.Mesh) -> str:
  """In words: whether it fits, and how fast it can be at best."""
  target = topologies.get(topology)
  held, room = found.peak / 2**30, target.hbm_gib
  secs = found.flops / (target.num_devices * target.peak_tflops * 1e12)
  sizes = ' x '.join(f'{k} {v}' for k, v in mesh.shape.items())
  return (
      f'{topology}, {sizes}: {held:,.2f} of {room:.0f} GiB a device, which '
      + ('fits' if held <= room else 'does NOT fit: more devices on data or '
         'model, a smaller BATCH_SIZE, num_microbatches or REMAT')
      + f'. At the peak of bfloat16 a step would take {1e3 * secs:,.3g} ms.'
      + ('' if target.is_compiled_for else ' Compiled for CPU devices in '
         'float32: temporaries and traffic are other than on GPUs.')
  )


def state_bytes(state: train_state.TrainState) -> dict[str, int]:
  """What each part of an (abstract) state takes on a device."""
  return {
      'parameters that train': _device_bytes(state.trainable),
      'frozen parameters': _device_bytes(state.frozen),
      'optimizer state': _device_bytes(state.opt_state),
  }


def _parameter_table(state: train_state.TrainState) -> rich_table.Table:
  trainable = train_state.flatten(state.trainable)
  flat = {**trainable, **train_state.flatten(state.frozen)}
  total = sum(math.prod(x.shape) for x in flat.values())
  training = sum(math.prod(x.shape) for x in trainable.values())
  table = rich_table.Table(
      title=f'Parameters: {total:,}, of which {training:,} train'
  )
  table.add_column('path', overflow='fold')
  for name in ('shape', 'trains', 'sharding'):
    table.add_column(name)
  table.add_column('bytes a device', justify='right')
  for path, x in sorted(flat.items()):
    table.add_row(
        path,
        str(tuple(x.shape)),
        'yes' if path in trainable else '-',
        str(tuple(x.sharding.spec)),
        f'{_device_bytes(x):,}',
    )
  return table


def _batch_table(batch_spec: Mapping[str, Any]) -> rich_table.Table:
  table = rich_table.Table(title='Batch')
  for name in ('key', 'shape', 'dtype'):
    table.add_column(name)
  for key, x in batch_spec.items():
    table.add_row(key, str(tuple(x.shape)), str(x.dtype))
  return table


def _device_bytes(tree: Any) -> int:
  return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree)
  )

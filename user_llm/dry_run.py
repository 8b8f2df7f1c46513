"""What a run would use: parameters, shardings, shapes, memory."""

from collections.abc import Mapping
import math
from typing import Any

import jax
from rich import console as rich_console
from rich import table as rich_table

from user_llm import train_state
from user_llm import trainer as trainer_lib


def report(
    trainer: trainer_lib.Trainer, batch_spec: Mapping[str, Any]
) -> None:
  """Prints the parameter table, the batch and the compiled step's memory."""
  console = rich_console.Console()
  if not console.is_terminal:
    console.width = 120  # Paths are long, and a file has no edge.
  state = trainer.abstract_state(batch_spec)
  console.print(_parameter_table(state))
  console.print(_batch_table(batch_spec))
  sizes = state_bytes(state)
  memory = trainer.compile_step(state, batch_spec).memory_analysis()
  sizes['step: arguments'] = memory.argument_size_in_bytes
  sizes['step: temporaries, gradients among them'] = memory.temp_size_in_bytes
  table = rich_table.Table(title='Memory a device')
  table.add_column('what')
  table.add_column('MiB', justify='right')
  for name, size in sizes.items():
    table.add_row(name, f'{size / 2**20:,.2f}')
  console.print(table)


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

"""seqio tasks of a prepared dataset.

`register(data_dir=...)` adds `<name>_events` to seqio's registry, for use as
`seqio.get_task(name).get_dataset(...)`. The trainer's own batches come from
the same tasks over a source that reads in the run's order (`pipeline.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import examples
from user_llm.data import order as order_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import windowing

TASKS = ('events', 'next_item', 'favourite_genre', 'text')


class Examples(NamedTuple):
  """The numbered examples of one split and how to read one.

  Attributes:
    table: Says how many there are and where each lies.
    cut: Reads the example that lies there.
  """

  table: examples.PackedRows | examples.Windows
  cut: windowing.Cut


class ExampleSource(seqio.DataSource):
  """Yields examples in a stated order, from any place on.

  Without an order, as in seqio's registry, it yields one epoch of the split:
  permuted by the seed if shuffled, then sharded.
  """

  def __init__(
      self,
      splits: Mapping[str, Examples],
      host_order: order_lib.HostOrder | None = None,
  ):
    """Initialises it.

    Args:
      splits: The examples of each split.
      host_order: What this host reads in a run.
    """
    self._examples = dict(splits)
    self._order = host_order
    super().__init__(
        splits=tuple(splits),
        # Left unsaid for a run: seqio would cache a small split in memory.
        num_input_examples=None if host_order else {
            split: len(e.table) for split, e in splits.items()
        },
        caching_permitted=False,
        performs_internal_shuffling=True,
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def _blocks(
      self,
      num_examples: int,
      shuffle: bool,
      seed: int | None,
      shard_info: seqio.ShardInfo | None,
  ) -> Iterator[np.ndarray]:
    if self._order is not None:
      yield from self._order.blocks(num_examples)
      return
    ids = np.arange(num_examples)
    if shuffle:
      ids = order_lib.example_indices(num_examples, seed or 0, 0, num_examples)
    if shard_info is not None:
      ids = ids[shard_info.index :: shard_info.num_shards]
    yield ids

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      *,
      sequence_length: Mapping[str, int] | None = None,
      use_cached: bool = False,
      num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    """See `seqio.DataSource`; an order given at construction overrules."""
    del sequence_length, use_cached, num_epochs
    table, cut = self._examples[split]

    def descriptions() -> Iterator[dict[str, np.ndarray]]:
      for ids in self._blocks(len(table), shuffle, seed, shard_info):
        yield {'example_id': ids, **table.describe(ids)}

    empty = {'example_id': 0, **table.describe(np.zeros(0, np.int64))}
    return (
        tf.data.Dataset.from_generator(
            descriptions,
            output_signature={
                k: tf.TensorSpec([None], tf.int64) for k in empty
            },
        )
        .unbatch()
        .map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    )


def event_splits(
    log: records.EventLog,
    *,
    modalities: tuple[str, ...],
    split_rule: schema_lib.SplitRule,
    history_length: int,
    packed: bool = True,
) -> dict[str, Examples]:
  """Examples of encoder pretraining: packed rows; one row a user to evaluate."""
  rows = examples.packed_rows(log, split_rule, history_length, packed=packed)
  splits = {
      'train': Examples(rows, windowing.cut_packed_rows(log, modalities, rows))
  }
  for split in ('validation', 'test'):
    splits[split] = Examples(
        examples.windows(log, split_rule, split, history_length),
        windowing.cut_windows(log, modalities),
    )
  return splits


def _ids(rank: int = 1) -> seqio.Feature:
  return seqio.Feature(
      vocabulary=seqio.PassThroughVocabulary(size=0),
      add_eos=False,
      rank=rank,
      dtype=tf.int32,
  )


def events_task(
    name: str, source: ExampleSource, modalities: tuple[str, ...]
) -> seqio.Task:
  """A task whose examples are histories of ids, each feature int32[n]."""
  keys = (*modalities, 'positions', 'segment_ids')
  return seqio.Task(
      name,
      source=source,
      output_features={key: _ids() for key in keys},
      preprocessors=[],
      shuffle_buffer_size=None,
  )

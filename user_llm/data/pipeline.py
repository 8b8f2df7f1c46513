"""The batches that the trainer and the evaluators read.

A batch goes: seqio task over a source in the run's order → feature converter →
batch. It is a pure function of (dataset, seed, step), on any number of hosts.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from user_llm.data import feature_converters
from user_llm.data import order as order_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import tasks

Batch = dict[str, np.ndarray]


class ArraySpec(NamedTuple):
  """Shape and dtype of one entry of a batch."""

  shape: tuple[int, ...]
  dtype: np.dtype


def _with_options(ds: tf.data.Dataset) -> tf.data.Dataset:
  options = tf.data.Options()
  options.deterministic = True
  # The cores belong to the training step.
  options.threading.private_threadpool_size = 2
  options.threading.max_intra_op_parallelism = 1
  options.autotune.enabled = False
  return ds.with_options(options)


def _pad_rows(batch: Batch, rows: int) -> Batch:
  """Adds empty rows, of `example_id` -1."""
  padded = {}
  for key, value in batch.items():
    missing = rows - len(value)
    fill = -1 if key == 'example_id' else 0
    pads = [(0, missing)] + [(0, 0)] * (value.ndim - 1)
    padded[key] = np.pad(value, pads, constant_values=fill)
  return padded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """One task on one prepared dataset.

  Attributes:
    data_dir: The prepared dataset.
    task: 'events|next_item|favourite_genre|text'.
    history_length: L, events of a row.
    split_rule: Which events are held out.
    modalities: Those that a batch has; None for all.
    packed: Whether training rows of 'events' hold several users.
  """

  data_dir: str
  task: str
  history_length: int
  split_rule: schema_lib.SplitRule = schema_lib.LEAVE_ONE_OUT
  modalities: tuple[str, ...] | None = None
  packed: bool = True

  def __post_init__(self):
    if self.task not in tasks.TASKS:
      raise ValueError(
          f'TASK is {self.task!r}; it must be one of {", ".join(tasks.TASKS)}.'
      )
    if self.history_length <= 0:
      raise ValueError(
          f'HISTORY_LENGTH is {self.history_length}; it must be positive.'
      )
    bound = self.split_rule.max_history
    if bound is not None and self.history_length > bound:
      raise ValueError(
          f'HISTORY_LENGTH is {self.history_length}; the split rule '
          f'{self.split_rule.name!r} allows {bound} events at most.'
      )

  @functools.cached_property
  def schema(self) -> schema_lib.EventSchema:
    """The modalities that a batch has."""
    return schema_lib.load_schema(
        data_dir=self.data_dir, modalities=self.modalities
    )

  @property
  def log(self) -> records.EventLog:
    """All events, every modality."""
    return records.load_events(self.data_dir)

  @property
  def catalogue(self) -> tuple[schema_lib.CatalogueItem, ...]:
    return self.log.catalogue

  @property
  def name(self) -> str:
    return f'{self.schema.name}_{self.task}'

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the split; the same for every task with this data and rule."""
    return self.log.split_fingerprint(self.split_rule)

  @functools.cached_property
  def _splits(self) -> Mapping[str, tasks.Examples]:
    return tasks.event_splits(
        self.log,
        modalities=self.schema.names,
        split_rule=self.split_rule,
        history_length=self.history_length,
        packed=self.packed,
    )

  def num_examples(self, split: str) -> int:
    """Rows of an epoch of a split.

    Args:
      split: 'train|validation|test'.

    Raises:
      ValueError: There is none.
    """
    if split not in self._splits:
      raise ValueError(
          f'Task {self.name!r} has no split {split!r}; it has '
          f'{", ".join(self._splits)}.'
      )
    size = len(self._splits[split].table)
    if not size:
      raise ValueError(
          f'The {split} split of {self.name!r} is empty under the rule '
          f'{self.split_rule.name!r}: no user of {self.data_dir} has more '
          f'than {self.split_rule.min_events} events. Choose another '
          'SPLIT_RULE or another DATA_DIR.'
      )
    return size

  def _dataset(
      self, split: str, host_order: order_lib.HostOrder
  ) -> tf.data.Dataset:
    """One host's rows, converted and batched; the last batch may be short."""
    train = split == 'train'
    source = tasks.ExampleSource(self._splits, host_order)
    task = tasks.events_task(self.name, source, self.schema.names)
    converter = feature_converters.EventsConverter(
        self.schema.names, train=train
    )
    lengths = {k: self.history_length for k in converter.TASK_FEATURES}
    if not train:
      lengths['seen_item'] = max(1, self._splits[split].table.max_seen)
    ds = task.get_dataset(
        split=split,
        shuffle=False,
        trim_output_features=False,
        try_in_mem_cache=False,
    )
    ds = converter(ds, lengths).batch(host_order.rows)
    return _with_options(ds.prefetch(2))

  def batch_spec(self, split: str, batch_size: int) -> dict[str, ArraySpec]:
    """Shape and dtype of each entry of a global batch."""
    self.num_examples(split)
    order = order_lib.HostOrder(batch_size=batch_size, seed=None)
    return {
        k: ArraySpec(
            (batch_size, *spec.shape[1:]), np.dtype(spec.dtype.as_numpy_dtype)
        )
        for k, spec in self._dataset(split, order).element_spec.items()
    }

  def train_batches(
      self,
      *,
      batch_size: int,
      seed: int,
      start_step: int = 0,
      host: int = 0,
      num_hosts: int = 1,
  ) -> Iterator[Batch]:
    """Yields this host's rows of the batches of steps start_step, ...

    Args:
      batch_size: Rows of a global batch, B.
      seed: Of the order.
      start_step: Where a run (re)starts.
      host: Gets the rows host * B / H .. (host + 1) * B / H - 1.
      num_hosts: H.

    Yields:
      Arrays [B / H, ...] by batch key, without end.
    """
    self.num_examples('train')
    order = order_lib.HostOrder(
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )
    yield from self._dataset('train', order).as_numpy_iterator()

  def eval_batches(
      self, *, split: str, batch_size: int, host: int = 0, num_hosts: int = 1
  ) -> Iterator[Batch]:
    """Yields a split once, in order; every host as many batches.

    Args:
      split: 'validation|test'.
      batch_size: Rows of a global batch, B.
      host: Gets the rows host * B / H .. (host + 1) * B / H - 1.
      num_hosts: H.

    Yields:
      Arrays [B / H, ...] by batch key; rows past the end have `example_id` -1
      and zeros.
    """
    size = self.num_examples(split)
    order = order_lib.HostOrder(
        batch_size=batch_size, seed=None, host=host, num_hosts=num_hosts
    )
    spec = self.batch_spec(split, batch_size)
    batches = self._dataset(split, order).as_numpy_iterator()
    empty = {k: np.zeros((0, *s.shape[1:]), s.dtype) for k, s in spec.items()}
    for _ in range(-(-size // batch_size)):
      yield _pad_rows(next(batches, empty), order.rows)

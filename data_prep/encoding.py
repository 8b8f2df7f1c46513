"""Ids for values, and a dataset as the library sees it."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib

import numpy as np
import polars as pl

from user_llm.data import schema

UNKNOWN = 'unknown'
_EVENTS_PER_SHARD = 2_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
  """The events of all or some users, each user's oldest first.

  Attributes:
    offsets: int64[U + 1]; user u has events offsets[u]:offsets[u + 1].
    columns: int32[E] ids of each modality, and int64[E] timestamps.
  """

  offsets: np.ndarray
  columns: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedDataset(Histories):
  """A dataset as the library sees it.

  Attributes:
    schema: Its modalities and texts.
    catalogue: id, source_id, title, labels (joined), count and is_described
      (whether upstream says what it is) of each item, in id order.
    users: The users' ids, in record order: by shard, then in natural order.
    shard_sizes: int64[S], users of each shard.
    seq: int64[E], which raw event each is.
  """

  schema: schema.EventSchema
  catalogue: pl.DataFrame
  users: pl.Series
  shard_sizes: np.ndarray
  seq: np.ndarray


def num_shards(num_events: int) -> int:
  """Record files of a dataset of that many events."""
  return max(1, -(-num_events // _EVENTS_PER_SHARD))


def shard_of(user: str, count: int) -> int:
  """The record file that holds a user, of that many."""
  return int(hashlib.sha256(user.encode()).hexdigest()[:8], 16) % count


def shards_of(users: pl.Series, count: int) -> np.ndarray:
  """int64[U]: `shard_of` each."""
  if count == 1:
    return np.zeros(len(users), np.int64)
  return np.fromiter((shard_of(user, count) for user in users), np.int64)


def ids_by_count(counts: np.ndarray) -> np.ndarray:
  """int32[N] of int64[N]: 1, 2, ... by falling count, then place; 0 if none."""
  order = np.argsort(-counts, kind='stable')[: np.count_nonzero(counts)]
  ids = np.zeros(len(counts), np.int32)
  ids[order] = np.arange(1, len(order) + 1)
  return ids


def categories(
    name: str, values: Sequence[str], counts: np.ndarray
) -> tuple[np.ndarray, schema.Modality]:
  """Ids by falling count, then value.

  Args:
    name: The modality.
    values: In their own order.
    counts: int64[len(values)], events with each.

  Returns:
    int32[len(values)] ids, and the modality.
  """
  ids = ids_by_count(counts)
  kept = sorted((i, v) for i, v in zip(ids.tolist(), values) if i)
  return ids, _modality(name, [value for _, value in kept])


def numbers(
    name: str, values: np.ndarray, counts: np.ndarray, num_buckets: int | None
) -> tuple[np.ndarray, schema.Modality]:
  """Ids in the order of the numbers; what is missing has the last one.

  The numbers 1, 2, 2, 4, 8, NaN in 2 buckets have the quantiles 1, 2, 8, so
  their ids are 1, 2, 2, 2, 2, 3 and stand for '[1.0, 2.0)', '[2.0, 8.0]' and
  'unknown'. Without buckets they are 1, 2, 2, 3, 4, 5, the first for '1.0'.

  Args:
    name: The modality.
    values: float32[N], different numbers, rising; the last may be NaN.
    counts: int64[N], events with each.
    num_buckets: At most so many quantile buckets; None for one a value.

  Returns:
    float32[...] the numbers with which ids start, for `number_ids`; and the
    modality.
  """
  is_missing = np.isnan(values)
  present, counts = values[~is_missing], counts[~is_missing]
  if num_buckets is None or not len(present):
    starts = present
    names = [str(number) for number in starts]
  else:
    # Quantiles are numbers that occur, so that equal input gives equal text.
    places = np.linspace(0, 1, num_buckets + 1)
    edges = np.unique(present[places_of_quantiles(counts, places)])
    starts = edges[:-1] if len(edges) > 1 else edges
    names = [f'[{low!s}, {high!s})' for low, high in zip(edges, edges[1:])]
    names[-1:] = [f'[{starts[-1]!s}, {edges[-1]!s}]']
  if is_missing.any():
    names.append(UNKNOWN)
  return starts, _modality(name, names)


def places_of_quantiles(
    counts: np.ndarray, quantiles: Sequence[float] | np.ndarray
) -> np.ndarray:
  """Where quantiles are, among sorted values of which each occurs often.

  The same as numpy's method 'higher' on all values one by one.

  Args:
    counts: int64[N], how often each value occurs.
    quantiles: In [0, 1].

  Returns:
    int64[len(quantiles)] places of values.
  """
  stops = np.cumsum(counts)
  ranks = np.ceil((stops[-1] - 1) * np.asarray(quantiles)).astype(np.int64)
  return np.searchsorted(stops, ranks, side='right')


def number_ids(starts: np.ndarray, values: np.ndarray) -> np.ndarray:
  """int32[E] ids of float32[E] numbers, NaN where missing; see `numbers`."""
  ids = np.searchsorted(starts, values, side='right').astype(np.int32)
  ids[np.isnan(values)] = len(starts) + 1
  return ids


def encode_labels(
    name: str, catalogue: pl.DataFrame
) -> tuple[np.ndarray, schema.Modality]:
  """Ids by falling count of events, then text; a value is all labels of items.

  Args:
    name: The modality.
    catalogue: `labels`, joined by '|', and `count`, in the order of the ids.

  Returns:
    int32[I + 1], the value's id of each item id; and the modality.
  """
  values = (
      catalogue.group_by('labels')
      .agg(pl.col('count').sum())
      .sort('count', 'labels', descending=[True, False])['labels']
  )
  ids = catalogue['labels'].replace_strict(
      values, range(1, len(values) + 1), return_dtype=pl.Int32
  )
  modality = _modality(name, values.to_list(), separator='|')
  return np.concatenate([np.zeros(1, np.int32), ids.to_numpy()]), modality


def _modality(
    name: str, values: Sequence[str], separator: str | None = None
) -> schema.Modality:
  return schema.Modality(
      name=name, size=len(values) + 1, values=tuple(values), separator=separator
  )

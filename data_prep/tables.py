"""The raw Parquet files behind SQL: numbering of strings, joins, big sorts."""

from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from data_prep import encoding
from data_prep import progress
from data_prep import raw as raw_lib

_BATCH_ROWS = 100_000
_SHOWN_IDS = 5
# Written as Python would write the integer, so that '7' and '07' are two ids.
INTEGER = '0|-?[1-9][0-9]{0,17}'


class Tables:
  """The events and items of a `RawDataset`; a context manager.

  Attributes:
    num_events: Events.
    numbers: The columns of numbers, and into how many buckets they go.
    categories: The columns of strings that are ids.
  """

  def __init__(
      self, raw: raw_lib.RawDataset, *, scratch: pathlib.Path, memory_gib: float
  ):
    self._raw = raw
    self._memory_gib = memory_gib
    self._db = duckdb.connect(
        config={
            'memory_limit': f'{memory_gib}GiB',
            'temp_directory': str(scratch / 'duckdb'),
            'threads': len(os.sched_getaffinity(0)),
            # Order is made where it counts; to keep it everywhere costs memory.
            'preserve_insertion_order': False,
        }
    )
    parts = sorted(map(str, raw.events.glob('*.parquet')))
    self._db.read_parquet(parts).create_view('events')
    (self.num_events,) = self._one('SELECT count(*) FROM events')
    columns = self._db.sql('FROM events').columns
    self.numbers = raw.numbers(columns)
    self.categories = raw.categories

  def __enter__(self) -> 'Tables':
    return self

  def __exit__(
      self, kind: object, error: BaseException | None, traceback: object
  ) -> None:
    self._db.close()
    if isinstance(error, (duckdb.OutOfMemoryException, duckdb.IOException)):
      raise ValueError(
          f'--memory_gib {self._memory_gib:g} is too little, or the disk of '
          f'--output: {str(error).splitlines()[0]}'
      ) from error

  def _one(self, query: str) -> tuple[Any, ...]:
    # Not fetchone: it leaves the result open, and the connection blocked.
    (row,) = self._db.execute(query).fetchall()
    return row

  def _value(self, name: str) -> str:
    """SQL of what an event has in a column of strings."""
    if name in self.categories:
      return f"coalesce(nullif(events.\"{name}\", ''), '{encoding.UNKNOWN}')"
    return f'events."{name}"'

  def number_values(self) -> None:
    """Gives users, items and categories codes 0, 1, ... in their own order."""
    for name in ('user', 'item', *self.categories):
      self._db.execute(
          'CREATE OR REPLACE TABLE seen AS '
          f'SELECT DISTINCT {self._value(name)} AS value FROM events'
      )
      (are_integers,) = self._one(
          f"SELECT bool_and(regexp_full_match(value, '{INTEGER}')) FROM seen"
      )
      self._db.execute(
          f'CREATE TABLE "{name}_codes" AS SELECT value, (row_number() OVER '
          f'(ORDER BY {"value::BIGINT" if are_integers else "value"}) - 1)'
          '::INTEGER AS code FROM seen'
      )
    self._db.execute('DROP TABLE seen')

  def value_names(self, name: str) -> pl.Series:
    """What the codes of 'user', 'item' or a category stand for."""
    table = self._db.sql(f'SELECT value FROM "{name}_codes" ORDER BY code')
    return pl.from_arrow(table.to_arrow_table())['value']

  def read_events(self) -> dict[str, np.ndarray]:
    """The events' narrow columns, in the order of `seq`.

    Returns:
      int64[E] seq and timestamp; int32[E] codes of user, item and each
      category; float32[E] numbers, NaN where missing.
    """
    coded = ('user', 'item', *self.categories)
    types = {
        'seq': np.int64,
        'timestamp': np.int64,
        **dict.fromkeys(coded, np.int32),
        **dict.fromkeys(self.numbers, np.float32),
    }
    columns = {n: np.empty(self.num_events, t) for n, t in types.items()}
    selected = ', '.join(
        f'"{n}_codes".code AS "{n}"' if n in coded else f'events."{n}"'
        for n in types
    )
    joins = ' '.join(
        f'JOIN "{n}_codes" ON "{n}_codes".value = {self._value(n)}'
        for n in coded
    )
    start = 0
    for batch in self._db.sql(
        f'SELECT {selected} FROM events {joins}'
    ).to_arrow_reader(_BATCH_ROWS):
      stop = start + batch.num_rows
      for name, column in columns.items():
        part = batch.column(name)
        column[start:stop] = part.to_numpy(zero_copy_only=False)
      start = stop
    assert start == self.num_events, (start, self.num_events)
    if (np.diff(columns['seq']) < 0).any():
      # Stable, since that is quick where long runs are in order.
      order = np.argsort(columns['seq'], kind='stable')
      columns = {name: column[order] for name, column in columns.items()}
    return columns

  def catalogue(self, ids: np.ndarray, counts: np.ndarray) -> pl.DataFrame:
    """`describe_items` of the items, by their codes."""
    names = self.value_names('item')
    return describe_items(self._db, self._raw, names, ids, counts)

  def read_texts(
      self, names: Sequence[str], seq: np.ndarray
  ) -> Iterator[Mapping[str, list[str]]]:
    """Texts of the events `seq`, in that order, a batch of events at a time."""
    self._db.register(
        'kept', pa.table({'seq': seq, 'place': np.arange(len(seq))})
    )
    texts = ', '.join(
        f'coalesce(events."{n}", \'\') AS "{n}"' for n in names
    )
    for batch in self._db.sql(
        f'SELECT {texts} FROM events JOIN kept ON events.seq = kept.seq '
        'ORDER BY kept.place'
    ).to_arrow_reader(_BATCH_ROWS):
      yield batch.to_pydict()
    self._db.unregister('kept')


def describe_items(
    db: duckdb.DuckDBPyConnection,
    raw: raw_lib.RawDataset,
    names: pl.Series,
    ids: np.ndarray,
    counts: np.ndarray,
) -> pl.DataFrame:
  """What is known of the items that have an id.

  Args:
    db: DuckDB.
    raw: Describes items.
    names: Upstream's ids of items.
    ids: int32[I], their ids, 0 for none.
    counts: int64[I], events of each.

  Returns:
    id, source_id, title, labels (joined), count and is_described (by
    upstream), in the order of the ids.

  Raises:
    ValueError: Items are described, but not one of these.
  """
  kept = pl.DataFrame({'id': ids, 'source_id': names, 'count': counts})
  kept = kept.filter(pl.col('id') > 0)
  db.register('kept', kept.to_arrow())
  db.read_parquet(str(raw.items)).create_view('described', replace=True)
  labels = "''" if raw.label_name is None else 'labels'
  table = db.sql(
      f"""SELECT kept.id::BIGINT AS id, source_id,
      coalesce(title, source_id) AS title, coalesce({labels}, '') AS labels,
      count, title IS NOT NULL AS is_described
      FROM kept LEFT JOIN described ON described.item = source_id
      ORDER BY kept.id"""
  ).to_arrow_table()
  db.unregister('kept')
  assert table.num_rows == len(kept), 'an item is described twice'
  catalogue = pl.from_arrow(table)
  _check_described(raw, catalogue)
  return catalogue


def _check_described(raw: raw_lib.RawDataset, catalogue: pl.DataFrame) -> None:
  """Warns of items without a description, if the source has any at all."""
  described = pl.read_parquet(raw.items, columns=['item'], n_rows=100)
  bare = catalogue.filter(~pl.col('is_described'))['source_id']
  if described.is_empty() or bare.is_empty():
    return
  ids = _shown(bare)
  if len(bare) == len(catalogue):
    raise ValueError(
        f'{raw.name}: no item of the events is described. They have {ids}; '
        f'the descriptions have {_shown(described["item"])}. Is it the right '
        'column (of a table, `item` in [events] and in [items]), and are the '
        'ids spelt alike? Without descriptions ids are the titles.'
    )
  progress.warn(
      f'{len(bare):,} of {len(catalogue):,} items are not described, their '
      f'title is their id: {ids}'
  )


def _shown(ids: pl.Series) -> str:
  shown = [repr(id_) for id_ in ids.head(_SHOWN_IDS)]
  return ', '.join([*shown, '...'] if len(ids) > _SHOWN_IDS else shown)

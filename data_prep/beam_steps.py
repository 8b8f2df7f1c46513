"""Cleaning as Beam pipelines, a user or an item at a time.

What is done for one user is done by the functions that the local engine uses
for all of them. Nothing depends on the order in which a runner brings values.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any

import apache_beam as beam
from apache_beam.io import parquetio
import numpy as np
import pyarrow as pa

from data_prep import cleaning as cleaning_lib
from data_prep import encoding
from data_prep import tables

Row = dict[str, Any]
Types = Mapping[str, pa.DataType]

# The dot keeps it apart from a source's own columns.
REPEAT = '.is_repeat'
EVENT_TYPES = {
    'seq': pa.int64(),
    'user': pa.string(),
    'item': pa.string(),
    'timestamp': pa.int64(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
  """The columns of events beside `EVENT_TYPES`.

  Attributes:
    numbers: Those of numbers, and into how many buckets they go.
    categories: Those of strings that are ids.
  """

  numbers: Mapping[str, int | None]
  categories: Sequence[str]

  @property
  def edge_types(self) -> Types:
    """What is known of an event while the cleaning goes on."""
    return {
        **EVENT_TYPES,
        REPEAT: pa.bool_(),
        **dict.fromkeys(self.numbers, pa.float32()),
        **dict.fromkeys(self.categories, pa.string()),
    }

  @property
  def coded(self) -> Sequence[str]:
    """Columns whose values get ids that depend on how often they occur."""
    return ('user', 'item', *self.categories)


def read_rows(
    pipeline: beam.Pipeline,
    pattern: str,
    key: str,
    columns: Sequence[str] | None = None,
) -> beam.PCollection[tuple[str, Row]]:
  """The rows of Parquet files, by a column of strings."""
  return (
      pipeline
      | f'Read {pattern}' >> parquetio.ReadFromParquet(pattern, columns=columns)
      | f'Key {pattern}' >> by(key)
  )


def by(key: str) -> beam.PTransform:
  return beam.Map(lambda row: (row[key], row)).with_output_types(
      tuple[str, Row]
  )


def write_rows(
    rows: beam.PCollection[Row], directory: str, name: str, types: Types
) -> None:
  _ = rows | f'Write {name}' >> parquetio.WriteToParquet(
      f'{directory}/{name}',
      pa.schema(list(types.items())),
      file_name_suffix='.parquet',
      codec='zstd',
  )


def parts(directory: str, name: str) -> str:
  """A pattern of the files that a step wrote."""
  return f'{directory}/{name}-*-of-*.parquet'


def _count(
    values: beam.PCollection[Any], directory: str, name: str, dtype: pa.DataType
) -> None:
  """Writes the values and how often each is there."""
  rows = (
      values
      | f'Count {name}' >> beam.combiners.Count.PerElement()
      | f'Rows {name}'
      >> beam.MapTuple(lambda value, count: {'value': value, 'count': count})
  )
  write_rows(rows, directory, name, {'value': dtype, 'count': pa.int64()})


def drop_copies(
    pipeline: beam.Pipeline, directory: str, *, events: str, columns: Columns
) -> None:
  """From events to `edges`; and which columns' values `are_integers`."""
  types = {k: v for k, v in columns.edge_types.items() if k != REPEAT}
  rows = read_rows(pipeline, events, 'user', list(types))
  edges = (
      rows
      | beam.GroupByKey()
      | beam.FlatMap(_without_copies, categories=columns.categories)
  )
  write_rows(edges, directory, 'edges', columns.edge_types)
  for name in columns.coded:
    values = rows | f'Look at {name}' >> beam.Map(
        lambda keyed, name=name: _is_integer(keyed[1][name])
    )
    _count(values, directory, f'are_integers-{name}', pa.bool_())


def _is_integer(value: str | None) -> bool:
  return bool(re.fullmatch(tables.INTEGER, value or encoding.UNKNOWN))


def _without_copies(
    of_user: tuple[str, Iterable[Row]], categories: Sequence[str]
) -> Iterator[Row]:
  """One user's events but for those that are there already."""
  rows = sorted(of_user[1], key=lambda row: row['seq'])
  codes: dict[str, int] = {}
  items = [codes.setdefault(row['item'], len(codes)) for row in rows]
  is_copy, is_repeat = cleaning_lib.duplicates(
      np.zeros(len(rows), np.int32),
      np.array(items, np.int32),
      np.array([row['timestamp'] for row in rows]),
  )
  for row, copy, repeat in zip(rows, is_copy, is_repeat.tolist()):
    if not copy:
      named = {name: row[name] or encoding.UNKNOWN for name in categories}
      yield {**row, **named, REPEAT: repeat}


def k_core_round(
    pipeline: beam.Pipeline,
    directory: str,
    *,
    edges: str,
    columns: Columns,
    config: cleaning_lib.CleaningConfig,
) -> None:
  """Drops users with too few events, then items with too few users."""
  left = (
      read_rows(pipeline, edges, 'user')
      | 'Users' >> beam.GroupByKey()
      | beam.FlatMap(_of_user, least=config.min_user_events)
      | by('item')
      | 'Items' >> beam.GroupByKey()
      | beam.FlatMap(_of_item, least=config.min_item_events)
  )
  write_rows(left, directory, 'edges', columns.edge_types)


def _of_user(
    of_user: tuple[str, Iterable[Row]], least: int
) -> Iterable[Row]:
  edges = list(of_user[1])
  return edges if len(edges) >= least else ()


def _of_item(
    of_item: tuple[str, Iterable[Row]], least: int
) -> Iterable[Row]:
  """Read twice rather than held: an item may have a tenth of all events."""
  _, edges = of_item
  num_users = sum(not edge[REPEAT] for edge in edges)
  return edges if num_users >= least else ()


def count_values(
    pipeline: beam.Pipeline, directory: str, *, edges: str, columns: Columns
) -> None:
  """How often each value occurs; and how many users have how many events."""
  rows = read_rows(pipeline, edges, 'user') | beam.Values()
  for name, dtype in columns.edge_types.items():
    if name not in ('seq', 'user', 'timestamp', REPEAT):
      values = rows | f'Take {name}' >> beam.Map(
          lambda row, name=name: row[name]
      )
      _count(values, directory, f'values-{name}', dtype)
  lengths = (
      rows
      | beam.Map(lambda row: row['user'])
      | beam.combiners.Count.PerElement()
      | 'Lengths' >> beam.Values()
  )
  _count(lengths, directory, 'lengths', pa.int64())

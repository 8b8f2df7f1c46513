"""From counted values to ids, on the machine that drives the pipelines."""

import dataclasses
import tempfile

import duckdb
import numpy as np
import polars as pl

from data_prep import beam_records
from data_prep import beam_steps
from data_prep import beam_work
from data_prep import encoding
from data_prep import raw as raw_lib
from data_prep import tables
from user_llm.data import schema


class Values:
  """The values of the edges' columns, and how often each is there."""

  def __init__(self, duplicates: str, counts: str):
    """Reads them when they are asked for.

    Args:
      duplicates: Where `beam_steps.drop_copies` has written, and
      counts: where `beam_steps.count_values` has.
    """
    self._duplicates = duplicates
    self._counts = counts

  def lengths(self) -> pl.DataFrame:
    """value, a number of events, and count, how many users have as many."""
    return self._read('lengths')

  def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """float32[N] rising, NaN at last if any is missing; and int64[N] counts."""
    values = self._read(f'values-{name}').sort('value', nulls_last=True)
    return values['value'].to_numpy(), values['count'].to_numpy()

  def strings(self, name: str) -> pl.DataFrame:
    """value and count, in the natural order of the values."""
    key = pl.col('value')
    if self.are_integers(name):
      key = key.cast(pl.Int64)
    return self._read(f'values-{name}').sort(key)

  def are_integers(self, name: str) -> bool:
    """Whether all values are, also those that the cleaning dropped."""
    pattern = beam_steps.parts(self._duplicates, f'are_integers-{name}')
    return beam_work.read_columns(pattern)['value'].all()

  def _read(self, name: str) -> pl.DataFrame:
    return beam_work.read_columns(beam_steps.parts(self._counts, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """What the ids stand for, and what gives them.

  Attributes:
    schema: The modalities.
    catalogue: See `encoding.EncodedDataset`.
    items: Of each item (as upstream has it) its id, and its label's.
    encoder: Makes records.
  """

  schema: schema.EventSchema
  catalogue: pl.DataFrame
  items: pl.DataFrame
  encoder: beam_records.Encoder


def number_values(
    raw: raw_lib.RawDataset,
    columns: beam_steps.Columns,
    values: Values,
    max_events: int | None,
) -> Vocabulary:
  """Gives items, labels, numbers and categories their ids.

  Args:
    raw: What the columns are.
    columns: Those beside the items.
    values: Of the edges that stay.
    max_events: Of a user; None for no bound.
  """
  items = values.strings('item')
  ids = encoding.ids_by_count(items['count'].to_numpy())
  with (
      tempfile.TemporaryDirectory() as scratch,
      duckdb.connect(config={'temp_directory': scratch}) as db,
  ):
    catalogue = tables.describe_items(
        db, raw, items['value'], ids, items['count'].to_numpy()
    )
  modalities = [schema.Modality(name='item', size=len(catalogue) + 1)]
  labels = np.zeros(len(catalogue) + 1, np.int32)
  if raw.label_name is not None:
    labels, modality = encoding.encode_labels(raw.label_name, catalogue)
    modalities.append(modality)
  starts, ids_of = {}, {}
  for name, num_buckets in columns.numbers.items():
    starts[name], modality = encoding.numbers(
        name, *values.numbers(name), num_buckets
    )
    modalities.append(modality)
  for name in columns.categories:
    found = values.strings(name)
    ids, modality = encoding.categories(
        name, found['value'], found['count'].to_numpy()
    )
    ids_of[name] = dict(zip(found['value'], ids.tolist()))
    modalities.append(modality)
  encoder = beam_records.Encoder(
      name=raw.name,
      label_name=raw.label_name,
      starts=starts,
      ids=ids_of,
      texts=raw.texts,
      max_events=max_events,
      num_shards=encoding.num_shards(num_kept(values.lengths(), max_events)),
      ticks_per_sec=raw.ticks_per_sec,
      users_are_integers=values.are_integers('user'),
  )
  event_schema = schema.EventSchema(
      name=raw.name,
      modalities=tuple(modalities),
      texts=raw.texts,
      item_noun=raw.item_noun,
  )
  return Vocabulary(
      schema=event_schema,
      catalogue=catalogue,
      items=catalogue.select('id', item='source_id', label=labels[1:]),
      encoder=encoder,
  )


def num_kept(lengths: pl.DataFrame, max_events: int | None) -> int:
  """Events of all users, of each at most so many; see `Values.lengths`."""
  kept = lengths['value'].clip(upper_bound=max_events)
  return int((kept * lengths['count']).sum())

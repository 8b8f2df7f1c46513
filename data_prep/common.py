"""From a table of events to a prepared dataset: cleaning, ids, files.

Every source (`movielens.py`, `sequences.py`, ...) makes a `RawDataset`; from
there on all of them are treated alike.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np
import polars as pl

from data_prep import progress
from data_prep import rows
from data_prep import writing
from user_llm.data import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawDataset:
  """One source, parsed.

  Attributes:
    name: The dataset's name; a prefix of its tasks' names.
    events: user, item (both Int64 or both String), timestamp (Int64) and
      perhaps rating (Float32), in file order.
    items: item, title and perhaps genre (labels joined by '|'), of at least
      the items in `events`.
    rejects: Rows that were put aside; see `rows.REJECT_SCHEMA`.
    sources: sha256 and bytes of each file read.
  """

  name: str
  events: pl.DataFrame
  items: pl.DataFrame
  rejects: pl.DataFrame
  sources: Mapping[str, Mapping[str, str | int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleaningConfig:
  """Which events stay.

  Attributes:
    min_user_events: Fewest events of a user, and
    min_item_events: of an item, in what is left (the k-core).
  """

  min_user_events: int = 1
  min_item_events: int = 1

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value < 1:
        raise ValueError(f'--{name} must be at least 1, got {value}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedDataset:
  """A dataset as the library sees it.

  Attributes:
    schema: Its modalities.
    catalogue: One entry an item, in id order.
    users: The users' upstream ids, in record order.
    offsets: i64[users + 1]; user u has events offsets[u]:offsets[u + 1].
    columns: i32[events] ids of each modality, and i64[events] timestamps.
  """

  schema: schema.EventSchema
  catalogue: tuple[schema.CatalogueItem, ...]
  users: tuple[str, ...]
  offsets: np.ndarray
  columns: Mapping[str, np.ndarray]


def prepare(
    raw: RawDataset,
    *,
    directory: pathlib.Path,
    cleaning: CleaningConfig,
    options: Mapping[str, Any],
    extra_files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Cleans, encodes and writes a dataset.

  Args:
    raw: The parsed source.
    directory: An empty directory.
    cleaning: Which events stay.
    options: The command's options, for the manifest.
    extra_files: Further files: name to text.

  Returns:
    The manifest.
  """
  with progress.stage('clean') as stage:
    events, steps = clean(raw, cleaning)
    stage.rows = len(raw.events)
  with progress.stage('encode and sort') as stage:
    encoded = encode(raw.name, events, raw.items)
    stage.rows = len(events)
  del events
  with progress.stage('split'):
    splits = {
        rule.name: describe_split(encoded, rule)
        for rule in schema.SPLIT_RULES.values()
    }
  writing.write_records(encoded, directory)
  writing.write_texts(encoded, directory, extra_files or {})
  raw.rejects.write_ndjson(directory / writing.REJECTS_FILE)
  return writing.write_manifest(
      directory,
      name=raw.name,
      counts={
          'users': len(encoded.users),
          'items': len(encoded.catalogue),
          'events': int(encoded.offsets[-1]),
          'rejects': len(raw.rejects),
      },
      cleaning=steps,
      rejects=rows.count_rejects(raw.rejects),
      splits=splits,
      source=raw.sources,
      options=options,
  )


def clean(
    raw: RawDataset, config: CleaningConfig
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
  """Applies the cleaning steps.

  Returns:
    The events that stay, in file order, and for each step its name, the events
    before, and the events it dropped.

  Raises:
    ValueError: No event stays.
  """
  steps = []
  events = raw.events
  for name, step in (
      ('exact_duplicates', drop_duplicates),
      ('k_core', lambda frame: k_core(frame, config)),
  ):
    before = len(events)
    events = step(events)
    steps.append(
        {'step': name, 'events': before, 'dropped': before - len(events)}
    )
  if not len(events):
    told = ', '.join(f'{s["step"]} dropped {s["dropped"]:,}' for s in steps)
    raise ValueError(
        f'{raw.name}: nothing is left of {len(raw.events):,} good events '
        f'({told}). Lower --min_user_events and --min_item_events.'
    )
  return events, steps


def drop_duplicates(events: pl.DataFrame) -> pl.DataFrame:
  """Keeps the first of rows that agree in every column."""
  # Nearly always there is none, and asking so takes a tenth of the memory.
  pairs = events.select(pl.struct('user', 'item').hash()).to_series()
  if pairs.n_unique() == len(events):
    return events
  return events.unique(keep='first', maintain_order=True)


def k_core(events: pl.DataFrame, config: CleaningConfig) -> pl.DataFrame:
  """Drops rare users and items until all that is left have enough events."""
  if config == CleaningConfig():
    return events
  while True:
    kept = events.filter(
        pl.len().over('user') >= config.min_user_events,
        pl.len().over('item') >= config.min_item_events,
    )
    if len(kept) == len(events):
      return events
    events = kept


def encode(
    name: str, events: pl.DataFrame, items: pl.DataFrame
) -> EncodedDataset:
  """Numbers the values and sorts the events by user, then time.

  Items and genre strings get the ids 1, 2, ... by falling count, then by
  upstream's order; ratings in their own order. Users are in upstream's order;
  a user's events of one timestamp stay in file order.
  """
  items = _with_ids(items, events)
  modalities = [schema.Modality(name='item', size=len(items) + 1)]
  if 'genre' in items.columns:
    items, modality = _encode_genres(items)
    modalities.append(modality)
  if 'rating' in events.columns:
    events, modality = _encode_ratings(events)
    modalities.append(modality)
  ids = [name for name in items.columns if name.endswith('_id')]
  events = (
      events.join(
          items.select('item', pl.col(ids).cast(pl.Int32)),
          on='item',
          how='left',
          maintain_order='left',
      )
      .drop('item')
      .rename({name: name.removesuffix('_id') for name in ids})
      .sort('user', 'timestamp', maintain_order=True)
  )
  users = events.group_by('user', maintain_order=True).len()
  return EncodedDataset(
      schema=schema.EventSchema(name=name, modalities=tuple(modalities)),
      catalogue=_catalogue(items),
      users=tuple(str(user) for user in users['user']),
      offsets=np.concatenate(
          [[0], users['len'].cast(pl.Int64).cum_sum().to_numpy()]
      ),
      columns={
          column: events[column].to_numpy()
          for column in (*(m.name for m in modalities), schema.TIMESTAMP_KEY)
      },
  )


def _with_ids(items: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
  """Adds count and item_id, in whose order it is; drops what has no event."""
  counts = events.group_by('item').agg(count=pl.len())
  return (
      items.join(counts, on='item')
      .sort('count', 'item', descending=[True, False])
      .with_row_index('item_id', offset=1)
  )


def _encode_genres(
    items: pl.DataFrame,
) -> tuple[pl.DataFrame, schema.Modality]:
  """Adds genre_id; a value is an item's whole genre string."""
  genres = (
      items.group_by('genre')
      .agg(events=pl.col('count').sum())
      .sort('events', 'genre', descending=[True, False])
      .with_row_index('genre_id', offset=1)
  )
  modality = schema.Modality(
      name='genre',
      size=len(genres) + 1,
      values=tuple(genres['genre']),
      separator='|',
  )
  items = items.join(genres.drop('events'), on='genre').sort('item_id')
  return items, modality


def _encode_ratings(
    events: pl.DataFrame,
) -> tuple[pl.DataFrame, schema.Modality]:
  """Puts ids in the order of the ratings in their place."""
  ratings = events['rating'].unique().sort()
  ids = pl.int_range(1, len(ratings) + 1, eager=True)
  modality = schema.Modality(
      name='rating',
      size=len(ratings) + 1,
      values=tuple(f'{rating:.1f}' for rating in ratings),
  )
  events = events.with_columns(
      pl.col('rating').replace_strict(ratings, ids, return_dtype=pl.Int32)
  )
  return events, modality


def _catalogue(items: pl.DataFrame) -> tuple[schema.CatalogueItem, ...]:
  return tuple(
      schema.CatalogueItem(
          id=row['item_id'],
          source_id=str(row['item']),
          title=row['title'],
          labels=tuple(row['genre'].split('|')) if 'genre' in row else (),
          count=row['count'],
      )
      for row in items.iter_rows(named=True)
  )


def describe_split(
    encoded: EncodedDataset, rule: schema.SplitRule
) -> dict[str, Any]:
  """The rule's fingerprint, and how many examples it makes of the users."""
  offsets = encoded.offsets
  timestamps = encoded.columns[schema.TIMESTAMP_KEY]
  held_out = list(
      schema.held_out_items(
          rule,
          offsets,
          timestamps,
          encoded.columns['item'],
          [item.source_id for item in encoded.catalogue],
      )
  )
  examples = {}
  for split in ('train', 'validation', 'test'):
    first, stop = rule.label_bounds(offsets, timestamps, split)
    examples[split] = int((stop - first).sum())
  return {
      'fingerprint': schema.split_fingerprint(held_out),
      'users': len(held_out),
      **examples,
  }


def natural_ids(*columns: pl.Series) -> tuple[pl.Series, ...]:
  """Ids as integers if all of them are written like one, so that 9 < 10."""
  numbers = [column.cast(pl.Int64, strict=False) for column in columns]
  for column, number in zip(columns, numbers):
    # '007' and '7' are two ids.
    if not (number.cast(pl.String) == column).fill_null(False).all():
      return columns
  return tuple(numbers)

"""Cleans, encodes and writes a dataset on one machine, of any length.

DuckDB groups, joins and sorts the wide columns, since its operators spill to
disk at a memory limit (Polars' streaming engine has no such limit); NumPy does
the integer edges, since a k-core is a loop over arrays of some 40 bytes an
event.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np
import polars as pl

from data_prep import cleaning as cleaning_lib
from data_prep import description
from data_prep import encoding
from data_prep import progress
from data_prep import raw as raw_lib
from data_prep import tables
from data_prep import tallies
from data_prep import writing
from user_llm.data import schema

_Columns = dict[str, np.ndarray]
_Step = dict[str, Any]


def prepare(
    raw: raw_lib.RawDataset,
    *,
    directory: pathlib.Path,
    scratch: pathlib.Path,
    cleaning: cleaning_lib.CleaningConfig,
    options: Mapping[str, Any],
    memory_gib: float = 2.0,
) -> dict[str, Any]:
  """Cleans, encodes and writes a dataset.

  Args:
    raw: The parsed source.
    directory: Where to write.
    scratch: Where to put what does not fit in memory.
    cleaning: Which events stay.
    options: The command's options, for the manifest.
    memory_gib: For the wide columns.

  Returns:
    The manifest.

  Raises:
    ValueError: No event stays.
  """
  if not any(raw.events.iterdir()):
    raise ValueError(cleaning_lib.nothing_left(raw.name, [raw.parse_step]))
  with tables.Tables(raw, scratch=scratch, memory_gib=memory_gib) as source:
    encoded, steps = clean_and_encode(raw, source, cleaning)
    texts = tallies.TextTallies(raw.texts)
    batches = source.read_texts(raw.texts, encoded.seq) if raw.texts else ()
    writing.write_records(encoded, texts.watch(batches), directory)
  return description.write(
      raw,
      directory=directory,
      event_schema=encoded.schema,
      catalogue=encoded.catalogue,
      parts=[encoded],
      texts=texts.counts,
      steps=steps,
      options=options,
  )


def clean_and_encode(
    raw: raw_lib.RawDataset,
    source: tables.Tables,
    config: cleaning_lib.CleaningConfig,
) -> tuple[encoding.EncodedDataset, list[_Step]]:
  """Takes the steps of the cleaning, and numbers what is left.

  Args:
    raw: The parsed source.
    source: Its tables.
    config: Which events stay.

  Returns:
    The dataset; and for each step its name, the events before it and the
    events it dropped. Those add up to the rows that were read.

  Raises:
    ValueError: No event stays.
  """
  steps = [raw.parse_step]
  with progress.stage('number values') as stage:
    source.number_values()
    stage.rows = source.num_events
  with progress.stage('load edges') as stage:
    columns = source.read_events()
    stage.rows = source.num_events
  columns = _clean(columns, config, steps)
  if not len(columns['seq']):
    raise ValueError(cleaning_lib.nothing_left(raw.name, steps))
  with progress.stage('encode and sort') as stage:
    encoded = _encode(raw, source, columns, config, steps)
    stage.rows = len(encoded.seq)
  return encoded, steps


def _drop(
    columns: _Columns,
    is_dropped: np.ndarray,
    steps: list[_Step],
    step: str,
) -> _Columns:
  """Takes events away, and counts them as one step of the cleaning."""
  dropped = int(np.count_nonzero(is_dropped))
  steps.append({'step': step, 'events': len(is_dropped), 'dropped': dropped})
  if not dropped:
    return columns
  return {name: column[~is_dropped] for name, column in columns.items()}


def _clean(
    columns: _Columns,
    config: cleaning_lib.CleaningConfig,
    steps: list[_Step],
) -> _Columns:
  with progress.stage('duplicates') as stage:
    stage.rows = len(columns['seq'])
    is_copy, columns['is_repeat'] = cleaning_lib.duplicates(
        columns['user'], columns['item'], columns['timestamp']
    )
    columns = _drop(columns, is_copy, steps, 'duplicates')
  with progress.stage('k-core') as stage:
    stage.rows = len(columns['seq'])
    stays = cleaning_lib.k_core(
        columns['user'],
        columns['item'],
        columns.pop('is_repeat'),
        config,
        on_round=lambda left: stage.describe(f'k-core, {left:,} left'),
    )
    return _drop(columns, ~stays, steps, 'k_core')


def _encode(
    raw: raw_lib.RawDataset,
    source: tables.Tables,
    columns: _Columns,
    config: cleaning_lib.CleaningConfig,
    steps: list[_Step],
) -> encoding.EncodedDataset:
  """Numbers the values, sorts by user and time, and cuts long histories.

  Items and categories get the ids 1, 2, ... by falling count, then in their
  own order; numbers in their own order. A user's events of one timestamp stay
  in file order.
  """
  catalogue, ids, modalities = _number(raw, source, columns)
  users, shard_sizes, record = _place_users(
      source.value_names('user'), columns['user'], config.max_events_per_user
  )
  order = cleaning_lib.by_user_and_time(record, columns['timestamp'])
  timestamps, seq = columns['timestamp'], columns['seq']
  placed = {**ids, schema.TIMESTAMP_KEY: timestamps, 'seq': seq}
  placed = {name: column[order] for name, column in placed.items()}
  placed[schema.TIMESTAMP_KEY] //= raw.ticks_per_sec
  lengths = np.bincount(record)
  is_cut = ~cleaning_lib.most_recent(
      _offsets(lengths), config.max_events_per_user
  )
  placed = _drop(placed, is_cut, steps, 'length_cap')
  if config.max_events_per_user is not None:
    lengths = np.minimum(lengths, config.max_events_per_user)
  return encoding.EncodedDataset(
      schema=schema.EventSchema(
          name=raw.name,
          modalities=tuple(modalities),
          texts=raw.texts,
          item_noun=raw.item_noun,
      ),
      catalogue=catalogue,
      users=users,
      shard_sizes=shard_sizes,
      offsets=_offsets(lengths),
      seq=placed.pop('seq'),
      columns=placed,
  )


def _number(
    raw: raw_lib.RawDataset, source: tables.Tables, columns: _Columns
) -> tuple[pl.DataFrame, _Columns, list[schema.Modality]]:
  """The catalogue; the ids of each modality, in file order; the modalities."""
  counts = _counts(source, columns, 'item')
  item_ids = encoding.ids_by_count(counts)
  catalogue = source.catalogue(item_ids, counts)
  ids = {'item': item_ids[columns['item']]}
  modalities = [schema.Modality(name='item', size=len(catalogue) + 1)]
  if raw.label_name is not None:
    value_of, modality = encoding.encode_labels(raw.label_name, catalogue)
    ids[raw.label_name] = value_of[ids['item']]
    modalities.append(modality)
  for name, num_buckets in source.numbers.items():
    starts, modality = encoding.numbers(
        name, *np.unique(columns[name], return_counts=True), num_buckets
    )
    ids[name] = encoding.number_ids(starts, columns[name])
    modalities.append(modality)
  for name in source.categories:
    id_of, modality = encoding.categories(
        name, source.value_names(name), _counts(source, columns, name)
    )
    ids[name] = id_of[columns[name]]
    modalities.append(modality)
  return catalogue, ids, modalities


def _counts(
    source: tables.Tables, columns: _Columns, name: str
) -> np.ndarray:
  return np.bincount(columns[name], minlength=len(source.value_names(name)))


def _offsets(lengths: np.ndarray) -> np.ndarray:
  return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _place_users(
    names: pl.Series, user: np.ndarray, max_events: int | None
) -> tuple[pl.Series, np.ndarray, np.ndarray]:
  """The users who stay, in record order; shard sizes; each event's record."""
  lengths = np.bincount(user, minlength=len(names))
  codes = np.flatnonzero(lengths)
  num_shards = encoding.num_shards(int(lengths.clip(max=max_events).sum()))
  names = names.gather(codes)
  shards = encoding.shards_of(names, num_shards)
  order = np.argsort(shards, kind='stable')
  record_of = np.empty(len(lengths), np.int32)
  record_of[codes[order]] = np.arange(len(codes))
  shard_sizes = np.bincount(shards, minlength=num_shards)
  return names.gather(order), shard_sizes, record_of[user]

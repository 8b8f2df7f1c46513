"""Writes the files that say what a dataset holds, whichever engine made it."""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np
import polars as pl

from data_prep import cleaning
from data_prep import data_card
from data_prep import encoding
from data_prep import progress
from data_prep import raw as raw_lib
from data_prep import splits
from data_prep import tallies as tallies_lib
from data_prep import writing
from user_llm.data import schema


def write(
    raw: raw_lib.RawDataset,
    *,
    directory: pathlib.Path,
    event_schema: schema.EventSchema,
    catalogue: pl.DataFrame,
    parts: Iterable[encoding.Histories],
    texts: Mapping[str, np.ndarray],
    steps: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes all files but the records, over which the manifest is the last.

  Args:
    raw: The parsed source.
    directory: Where the records are.
    event_schema: What they hold.
    catalogue: See `encoding.EncodedDataset`.
    parts: All users; read several times, one part after another.
    texts: Lengths of the texts; see `tallies.Tallies`.
    steps: Of the cleaning: name, events before, events dropped.
    options: The command's options.

  Returns:
    The manifest.
  """
  with progress.stage('splits'):
    described = splits.describe_splits(
        parts, catalogue['source_id'].to_list(), has_times=raw.has_times
    )
  tallies = tallies_lib.tally(event_schema, parts, texts)
  num_events = int(tallies.values['item'].sum())
  cleaning.check_account(steps, num_events)
  rejects = {kind: raw.rejects.counts(kind) for kind in ('events', 'items')}
  sections = {
      'name': raw.name,
      'counts': {
          'users': int(tallies.lengths.sum()),
          'items': len(catalogue),
          'events': num_events,
          'rejects': sum(sum(counts.values()) for counts in rejects.values()),
          'item_rows': raw.num_item_rows,
          'items_without_metadata': int((~catalogue['is_described']).sum()),
      },
      'cleaning': steps,
      'rejects': rejects,
      'has_times': raw.has_times,
      'times': tallies_lib.span(tallies.days) if raw.has_times else None,
      'splits': described,
      'source': raw.sources,
      'options': options,
      'user_key_id': raw.user_key_id,
      'forgotten': [],
  }
  writing.write_files(raw, event_schema, catalogue, directory)
  with progress.stage('data card'):
    card = data_card.render(
        sections,
        event_schema=event_schema,
        catalogue=catalogue,
        tallies=tallies,
    )
  (directory / data_card.CARD_FILE).write_text(
      card, encoding='utf-8', newline='\n'
  )
  return writing.write_manifest(directory, **sections)

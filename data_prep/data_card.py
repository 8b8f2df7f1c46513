"""One self-contained HTML page about a prepared dataset.

It shows counts only: no user, and nothing that a user wrote.
"""

import collections
from collections.abc import Mapping
import pathlib
from typing import Any

import jinja2
import numpy as np
import polars as pl

from data_prep import card_plots
from data_prep import tallies as tallies_lib
from user_llm.data import schema

CARD_FILE = 'data_card.html'
_TEMPLATE = 'data_card.html.j2'
_TOP_ITEMS = 10
_STEPS = {
    'parse': ('parse', 'rows that are no event, by reason below'),
    'duplicates': (
        'duplicates', 'same user, item and time; the first one stays'
    ),
    'k_core': ('k-core', 'users and items too rare, until none is left'),
    'length_cap': ('length cap', "older than the user's most recent ones"),
}
_SPLITS = {
    'leave_one_out': 'last event of a user tests, the one before validates',
    'paper_windows': 'the same, after histories of 50 events',
    'global_time': 'all training before all validation before all tests',
}


def render(
    manifest: Mapping[str, Any],
    *,
    event_schema: schema.EventSchema,
    catalogue: pl.DataFrame,
    tallies: tallies_lib.Tallies,
) -> str:
  """The page as text, the same for the same dataset wherever it was made.

  Args:
    manifest: The manifest's sections, but for the files, one of which this is.
    event_schema: What events have.
    catalogue: title, labels and count of the items, in id order.
    tallies: The dataset's.
  """
  labels = event_schema.label_modality
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True,
      trim_blocks=True,
      lstrip_blocks=True,
      undefined=jinja2.StrictUndefined,
  )
  environment.filters['n'] = '{:,}'.format
  environment.filters['share'] = _share
  return environment.get_template(_TEMPLATE).render(
      manifest=manifest,
      facts=_facts(manifest, tallies),
      account=_account(manifest['cleaning']),
      steps=_STEPS,
      splits=_SPLITS,
      label_name=labels.name if labels else None,
      top_items=catalogue.head(_TOP_ITEMS).to_dicts(),
      charts=_charts(event_schema, tallies),
  )


def _share(part: int, whole: int) -> str:
  """'12.5 %'; what is little is not called nothing."""
  if not part:
    return ''
  share = part / whole
  return '< 0.1 %' if share < 0.0005 else f'{share:.1%}'.replace('%', ' %')


def _account(steps: list[dict[str, Any]]) -> dict[str, int]:
  """Where the rows went; every one of them is accounted for."""
  return {
      'read': steps[0]['events'],
      'kept': steps[-1]['events'] - steps[-1]['dropped'],
      'rejected': steps[0]['dropped'],
      'dropped': sum(step['dropped'] for step in steps[1:]),
  }


def _facts(
    manifest: Mapping[str, Any], tallies: tallies_lib.Tallies
) -> list[tuple[str, str]]:
  counts = manifest['counts']
  users, items, events = (counts[k] for k in ('users', 'items', 'events'))
  facts = [
      ('users', f'{users:,}'),
      ('items', f'{items:,}'),
      ('events', f'{events:,}'),
      ('events a user, median', f'{_median(tallies.lengths):,}'),
      ('events an item, mean', f'{events / items:,.1f}'),
      ('density', f'{100 * events / users / items:.2g} %'),
  ]
  if _has_times(tallies):
    facts += zip(('from', 'to'), tallies_lib.span(tallies.days))
  return facts


def _median(lengths: np.ndarray) -> int:
  """The smaller of the two in the middle, of an even number of users."""
  cumulative = np.cumsum(lengths)
  return int(np.searchsorted(cumulative, (cumulative[-1] + 1) // 2))


def _has_times(tallies: tallies_lib.Tallies) -> bool:
  """Sources without times count events: 0, 1, 2, ..., seconds of one day."""
  return np.count_nonzero(tallies.days) > 1


def _charts(
    event_schema: schema.EventSchema, tallies: tallies_lib.Tallies
) -> list[dict[str, str]]:
  items = tallies.values['item'][1:]
  longest = len(tallies.lengths) - 1
  charts = [
      {
          'title': 'Events a user',
          'note': f'shortest {np.flatnonzero(tallies.lengths)[0]:,}, median '
          f'{_median(tallies.lengths):,}, longest {longest:,}',
          'svg': card_plots.history_lengths(tallies.lengths),
      },
      {
          'title': 'Popularity of items',
          'note': _popularity_note(items),
          'svg': card_plots.popularity(items),
      },
  ]
  if _has_times(tallies):
    svg, busiest = card_plots.times(tallies.days)
    charts.append({'title': 'Time', 'note': busiest, 'svg': svg})
  for modality in event_schema.modalities[1:]:
    charts.append(_values_chart(modality, tallies.values[modality.name][1:]))
  if any(counts[1:].any() for counts in tallies.texts.values()):
    charts.append({
        'title': 'Length of texts',
        'note': ', '.join(
            f'{name}: {_share(counts[0], counts.sum()) or "none"} missing'
            for name, counts in tallies.texts.items()
        ),
        'svg': card_plots.text_lengths(tallies.texts),
    })
  return charts


def _popularity_note(counts: np.ndarray) -> str:
  num_top = max(1, len(counts) // 100)
  top = np.partition(counts, -num_top)[-num_top:].sum()
  return (
      f'top {num_top:,} ({_share(num_top, len(counts))}) of {len(counts):,} '
      f'items: {_share(top, counts.sum())} of events'
  )


def _values_chart(
    modality: schema.Modality, counts: np.ndarray
) -> dict[str, str]:
  """A chart of a modality's values or, if they are sets of labels, of those."""
  unit = 'events'
  names = modality.values
  if modality.separator is not None:
    by_label = collections.Counter()
    for labels, count in zip(modality.labels(), counts.tolist()):
      for label in labels or ('(none)',):
        by_label[label] += count
    ranked = sorted(by_label.items(), key=lambda pair: (-pair[1], pair[0]))
    names, counts = zip(*ranked)
  shown = card_plots.most_bars(names)
  note = f'{len(names):,} values'
  if len(names) > shown:
    most = np.argsort(-np.asarray(counts), kind='stable')[:shown]
    names, counts = zip(*((names[i], counts[i]) for i in most))
    note = f'{shown} most frequent of {note}'
  if modality.separator is not None:
    note += '; an event counts for each of its labels'
  return {
      'title': modality.name.capitalize(),
      'note': note,
      'svg': card_plots.values(names, np.asarray(counts), unit),
  }

"""A table's leading metric in slices of its examples.

Shapes: N examples.
"""

from collections.abc import Iterator, Mapping, Sequence
import collections
import dataclasses

import numpy as np

from user_llm import metrics as metrics_lib
from user_llm import per_example as per_example_lib
from user_llm.report import results
from user_llm.report import rows as rows_lib

# First and last number of visible events of a slice.
_HISTORY = ((1, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, None))
# Each has a third of the training events: the most popular items, others, the
# rarest. An item that training never saw is in none of them.
_POPULARITY = ('head', 'torso', 'tail')
_LABELS = 'labels/'
_MAX_LABELS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slicing:
  """One way to divide the examples.

  Attributes:
    title: Such as 'history, events'.
    names: Of the slices, in reading order.
    counts: How many examples each has.
    estimates: By row, of each slice: over its examples, of several seeds over
      the examples' means.
    is_ordered: Whether the slices have an order of their own.
  """

  title: str
  names: tuple[str, ...]
  counts: tuple[int, ...]
  estimates: Mapping[rows_lib.Row, tuple[metrics_lib.Estimate, ...]]
  is_ordered: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slices:
  """All slicings of a table.

  Attributes:
    metric: The leading one.
    slicings: Over the same examples; none where no evaluation kept them.
    left_out: Rows of other examples, or of none that were kept.
  """

  metric: str
  slicings: tuple[Slicing, ...]
  left_out: tuple[rows_lib.Row, ...]


def make(table: results.Table) -> Slices:
  """Slices of those rows that most have their examples in common with."""
  metric = table.leading
  groups = collections.defaultdict(list)
  for row in table.rows:
    if metric in row.values:
      groups[row.per_example.identity].append(row)
  rows = max(groups.values(), key=len, default=[])
  masks = _masks([row.per_example for row in rows]) if rows else ()
  return Slices(
      metric=metric,
      slicings=tuple(
          Slicing(
              title=title,
              names=tuple(of_slice),
              counts=tuple(int(m.sum()) for m in of_slice.values()),
              estimates={
                  row: tuple(
                      metrics_lib.estimate(row.values[metric][mask_N])
                      for mask_N in of_slice.values()
                  )
                  for row in rows
              },
              is_ordered=is_ordered,
          )
          for title, of_slice, is_ordered in masks
          if len(of_slice) > 1
      ),
      left_out=tuple(
          row for row in table.rows if row not in rows and not row.is_ceiling
      ),
  )


def _masks(
    kept: Sequence[per_example_lib.PerExample],
) -> Iterator[tuple[str, dict[str, np.ndarray], bool]]:
  """(title, bool[N] by name, whether they are ordered); no empty slices.

  Rows have the same examples, but not all may see as much of their history: the
  events are those of the row that sees most.
  """
  facts = kept[0].facts
  events = [k.facts['history_events'] for k in kept if 'history_events' in k.facts]
  if events:
    yield 'history, events', _some(_history(np.maximum.reduce(events))), True
  if 'label_popularity' in facts:
    found = _popularity(facts['label_popularity'], facts['label_count'])
    yield 'popularity of the item', _some(found), True
  for name, fact in facts.items():
    if name.startswith(_LABELS):
      yield name.removeprefix(_LABELS), _labels(fact), False


def _some(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: mask_N for name, mask_N in masks.items() if mask_N.any()}


def _history(events_N: np.ndarray) -> dict[str, np.ndarray]:
  return {
      f'{first}–{last}' if last else f'{first}+': (events_N >= first)
      & (events_N <= (last or np.inf))
      for first, last in _HISTORY
  }


def _popularity(
    share_N: np.ndarray, count_N: np.ndarray
) -> dict[str, np.ndarray]:
  """Example: 40 % of the events have a more popular item: in the torso."""
  third_N = np.minimum(np.floor(share_N * 3), 2)
  masks = {
      name: (third_N == i) & (count_N > 0) for i, name in enumerate(_POPULARITY)
  }
  return masks | {'never trained': count_N == 0}


def _labels(labels_N: np.ndarray) -> dict[str, np.ndarray]:
  """The most frequent labels; an example is in each of its own."""
  sets = [set(labels.split('\n')) - {''} for labels in labels_N.tolist()]
  counts = collections.Counter(
      label for found in sets for label in sorted(found)
  )
  return {
      label: np.array([label in found for found in sets])
      for label, _ in counts.most_common(_MAX_LABELS)
  }

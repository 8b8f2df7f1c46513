"""What the data card draws, counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from data_prep import encoding
from user_llm.data import schema

DAY_SECS = 86_400
# The last is 2100-01-01, for all that is later and so no time in seconds.
_NUM_DAYS = 47_483
# Ten to a decade, up to 100,000 characters and more.
TEXT_EDGES = np.unique(np.geomspace(1, 1e5, 51).round().astype(np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tallies:
  """How often what occurs in a prepared dataset.

  Attributes:
    lengths: int64[longest + 1], users with so many events.
    days: int64[...], events on each day from 1970 on.
    values: Of each modality int64[size], events with each id.
    texts: Of each text int64[len(TEXT_EDGES) + 1], events by length in
      characters: [0] of those without, [i] from TEXT_EDGES[i - 1] on.
  """

  lengths: np.ndarray
  days: np.ndarray
  values: Mapping[str, np.ndarray]
  texts: Mapping[str, np.ndarray]


def tally(
    event_schema: schema.EventSchema,
    parts: Iterable[encoding.Histories],
    texts: Mapping[str, np.ndarray],
) -> Tallies:
  """Counts a dataset.

  Args:
    event_schema: Its modalities.
    parts: Its users.
    texts: See `Tallies`; of `TextTallies`.
  """
  lengths = np.zeros(1, np.int64)
  days = np.zeros(_NUM_DAYS, np.int64)
  values = {m.name: np.zeros(m.size, np.int64) for m in event_schema.modalities}
  for part in parts:
    of_part = np.bincount(np.diff(part.offsets))
    longest = max(len(lengths), len(of_part))
    lengths = sum(np.pad(n, (0, longest - len(n))) for n in (lengths, of_part))
    days += tally_days(part.columns[schema.TIMESTAMP_KEY])
    for name, counts in values.items():
      counts += np.bincount(part.columns[name], minlength=len(counts))
  return Tallies(lengths=lengths, days=days, values=values, texts=texts)


def tally_days(timestamps: np.ndarray) -> np.ndarray:
  """int64[...] events on each day, as `Tallies.days`."""
  return np.bincount(day_of(timestamps), minlength=_NUM_DAYS)


def span(days: np.ndarray) -> tuple[str, str]:
  """First and last date of `Tallies.days` that has events: '2016-08-31'."""
  first, last = np.flatnonzero(days)[[0, -1]].tolist()
  return str(np.datetime64(first, 'D')), str(np.datetime64(last, 'D'))


def day_of(timestamps: np.ndarray) -> np.ndarray:
  """int64[E] days from 1970 on; all that are later than the last are it."""
  return (timestamps // DAY_SECS).clip(0, _NUM_DAYS - 1)


class TextTallies:
  """Counts texts by their lengths as they pass by.

  Attributes:
    counts: As `Tallies.texts`, of those that have passed.
  """

  def __init__(self, names: Iterable[str]):
    self.counts = {
        name: np.zeros(len(TEXT_EDGES) + 1, np.int64) for name in names
    }

  def watch(
      self, batches: Iterable[Mapping[str, Sequence[str]]]
  ) -> Iterator[Mapping[str, Sequence[str]]]:
    """Yields the batches: of each name, the texts of some events."""
    for batch in batches:
      for name, counts in self.counts.items():
        lengths = np.fromiter(map(len, batch[name]), np.int64)
        bins = np.searchsorted(TEXT_EDGES, lengths, side='right')
        counts += np.bincount(bins, minlength=len(counts))
      yield batch

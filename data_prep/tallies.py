"""What the data card draws, counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses

import numpy as np

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
    offsets: np.ndarray,
    columns: Mapping[str, np.ndarray],
    texts: Mapping[str, np.ndarray],
) -> Tallies:
  """Counts a dataset.

  Args:
    event_schema: Its modalities.
    offsets: int64[U + 1]; user u has events offsets[u]:offsets[u + 1].
    columns: int32[E] ids of each modality, and int64[E] timestamps.
    texts: See `Tallies`; of `TextTallies`.
  """
  days = columns[schema.TIMESTAMP_KEY] // DAY_SECS
  return Tallies(
      lengths=np.bincount(np.diff(offsets)),
      days=np.bincount(days.clip(0, _NUM_DAYS - 1), minlength=_NUM_DAYS),
      values={
          modality.name: np.bincount(
              columns[modality.name], minlength=modality.size
          )
          for modality in event_schema.modalities
      },
      texts=texts,
  )


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

"""Favourite labels: by hand, and as plain counting finds them."""

import collections
import types

import numpy as np
import pytest

from user_llm.data import answers
from user_llm.data import favourites
from user_llm.data import schema

GENRE = schema.Modality(
    name='genre',
    size=6,
    values=('Comedy', 'Comedy|Drama', 'Drama', 'War|Drama', ''),
    separator='|',
)
COMEDY, DRAMA = 1, 2


def _log(*users, timestamps=None):
  """Events of users, each a list of genre ids."""
  offsets = np.cumsum([0] + [len(u) for u in users])
  return types.SimpleNamespace(
      offsets=offsets,
      values={'genre': np.concatenate(users).astype(np.int32)},
      timestamps=timestamps,
  )


def _favourites(log, begins, ends):
  return favourites.favourites(
      log, GENRE, np.array(begins), np.array(ends)
  ).tolist()


def test_worked_example():
  # Drama; Drama 2 of 2; Comedy and Drama have 2, Comedy was seen last.
  log = _log([3, 2, 1])
  assert _favourites(log, [0, 0, 0], [1, 2, 3]) == [DRAMA, DRAMA, COMEDY]


def test_labels_of_one_event_tie_by_their_order():
  assert _favourites(_log([2]), [0], [1]) == [COMEDY]


def test_a_span_without_labels_has_no_favourite():
  log = _log([5, 1], [1, 5, 5])
  assert _favourites(log, [0, 0, 3, 2], [1, 2, 5, 2]) == [0, COMEDY, 0, 0]
  assert _favourites(_log([5, 5]), [0], [2]) == [0]


def _by_hand(values):
  counts, last = collections.Counter(), {}
  for when, value in enumerate(values):
    for label in GENRE.labels()[value - 1]:
      counts[label] += 1
      last[label] = when
  if not counts:
    return 0
  names = answers.label_names(GENRE)
  best = max(counts, key=lambda x: (counts[x], last[x], -names.index(x)))
  return names.index(best) + 1


@pytest.mark.parametrize('chunk', [1, 20, 10_000])
def test_favourites_are_those_counted_by_hand(monkeypatch, chunk):
  monkeypatch.setattr(favourites, '_CHUNK_EVENTS', chunk)
  rng = np.random.default_rng(0)
  log = _log(*(rng.integers(1, 6, rng.integers(0, 30)) for _ in range(20)))
  begins, ends = [], []
  for first, stop in zip(log.offsets, log.offsets[1:]):
    starts = np.sort(rng.integers(first, stop + 1, 9)) if stop > first else []
    begins += list(starts)
    ends += [rng.integers(start, stop + 1) for start in starts]
  values = log.values['genre']
  want = [_by_hand(values[b:e]) for b, e in zip(begins, ends)]
  assert _favourites(log, begins, ends) == want


class _Rule(schema.SplitRule):
  """Three users: with a validation and a test label, with one, with none."""

  def held_out(self, offsets, timestamps):
    return np.array([4, 11, -1]), np.array([7, -1, -1])


def test_a_future_ends_before_a_later_split():
  log = _log([1] * 9, [1] * 5, [1] * 2)
  rule = _Rule(name='rule')
  log.train_stops = lambda r: r.train_stops(log.offsets, log.timestamps)
  log.label_bounds = lambda r, split: r.label_bounds(
      log.offsets, log.timestamps, split
  )
  labels, users = np.array([1, 9, 14]), np.arange(3)
  ends = {
      split: favourites.future_ends(log, rule, split, labels, users).tolist()
      for split in ('train', 'validation', 'test')
  }
  assert ends == {
      'train': [4, 11, 14], 'validation': [7, 14, 16], 'test': [9, 14, 16]
  }
  log = _log([1] * 30)
  ends = favourites.future_ends(
      log, rule, 'test', np.array([0, 19, 22]), np.zeros(3, int)
  )
  assert ends.tolist() == [10, 29, 30]

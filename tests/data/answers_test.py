import collections

import numpy as np

from user_llm.data import answers
from user_llm.data import schema

GENRE = schema.Modality(
    name='genre',
    size=5,
    values=('Comedy', 'Comedy|Drama', 'Drama', 'War|Drama'),
    separator='|',
)


def test_label_names_and_table():
  assert answers.label_names(GENRE) == ('Comedy', 'Drama', 'War')
  assert answers.multi_hot(GENRE).tolist() == [
      [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1]
  ]


def _favourites(values, ends):
  return answers.favourite_labels(
      np.array(values, np.int32),
      np.array(ends, np.int32),
      answers.multi_hot(GENRE),
  ).numpy().tolist()


def test_favourite_worked_example():
  # Drama; Drama 2 of 2; Comedy and Drama have 2, Comedy was seen last.
  assert _favourites([3, 2, 1], [1, 2, 3]) == [2, 2, 1]


def test_labels_of_one_event_tie_by_their_order():
  assert _favourites([2], [1]) == [1]


def _by_hand(values):
  counts, last = collections.Counter(), {}
  for when, value in enumerate(values):
    for label in GENRE.labels()[value - 1]:
      counts[label] += 1
      last[label] = when
  names = answers.label_names(GENRE)
  best = max(counts, key=lambda x: (counts[x], last[x], -names.index(x)))
  return names.index(best) + 1


def test_favourites_are_those_counted_by_hand():
  rng = np.random.default_rng(0)
  for _ in range(30):
    values = rng.integers(1, 5, rng.integers(1, 30))
    ends = np.arange(1, len(values) + 1)
    assert _favourites(values, ends) == [_by_hand(values[:e]) for e in ends]

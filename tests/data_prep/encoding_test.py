"""Tests of ids and shards, against worked examples."""

import hashlib

from data_prep import encoding
import numpy as np
import polars as pl
import pytest


def test_ids_by_count():
  ids = encoding.ids_by_count(np.array([1, 2, 0, 1, 2, 0]))
  assert ids.tolist() == [3, 1, 0, 4, 2, 0]
  assert ids.dtype == np.int32


def test_categories():
  ids, modality = encoding.categories(
      'colour', ['blue', 'green', 'red', 'teal'], np.array([1, 0, 2, 1])
  )
  assert modality.values == ('red', 'blue', 'teal')
  assert ids.tolist() == [2, 0, 1, 3]


def _encode_numbers(numbers, num_buckets):
  starts, modality = encoding.numbers(
      'price', *np.unique(numbers, return_counts=True), num_buckets
  )
  return encoding.number_ids(starts, numbers), modality


@pytest.mark.parametrize(
    'num_buckets, values, ids',
    [
        (2, ('[1.0, 2.0)', '[2.0, 8.0]', 'unknown'), [1, 2, 2, 2, 2, 3]),
        (None, ('1.0', '2.0', '4.0', '8.0', 'unknown'), [1, 2, 2, 3, 4, 5]),
    ],
)
def test_numbers_worked_example(num_buckets, values, ids):
  numbers = np.array([1, 2, 2, 4, 8, np.nan], np.float32)
  found, modality = _encode_numbers(numbers, num_buckets)
  assert modality.values == values
  assert found.tolist() == ids


@pytest.mark.parametrize(
    'numbers, values',
    [
        ([3.5, 3.5], ('[3.5, 3.5]',)),
        ([np.nan, np.nan], ('unknown',)),
        ([0.1, 0.2, 0.3], ('[0.1, 0.2)', '[0.2, 0.3]')),
    ],
)
def test_few_numbers(numbers, values):
  ids, modality = _encode_numbers(np.array(numbers, np.float32), 4)
  assert modality.values == values
  assert ids.min() >= 1 and ids.max() == len(values)


def test_buckets_hold_what_they_say():
  numbers = np.random.default_rng(0).normal(size=5000).astype(np.float32)
  ids, modality = _encode_numbers(numbers, 10)
  assert len(modality.values) == 10
  for bucket, text in enumerate(modality.values, start=1):
    low, high = map(np.float32, text.strip('[])').split(', '))
    own = numbers[ids == bucket]
    assert 495 <= len(own) <= 505
    assert own.min() >= low
    assert (own <= high).all() if text[-1] == ']' else (own < high).all()


def test_quantiles_are_those_of_numpy():
  rng = np.random.default_rng(0)
  quantiles = np.linspace(0, 1, 41)
  for size in (1, 2, 10, 11, 101, 4096):
    values, counts = np.unique(rng.integers(50, size=size), return_counts=True)
    np.testing.assert_array_equal(
        values[encoding.places_of_quantiles(counts, quantiles)],
        np.quantile(np.repeat(values, counts), quantiles, method='higher'),
    )


def test_labels():
  catalogue = pl.DataFrame({
      'labels': ['War', 'Drama', 'War', '', 'Comedy|War'],
      'count': [3, 2, 1, 2, 1],
  })
  value_of, modality = encoding.encode_labels('genre', catalogue)
  # War has 4 events; '' and Drama have 2.
  assert modality.values == ('War', '', 'Drama', 'Comedy|War')
  assert modality.labels() == (('War',), (), ('Drama',), ('Comedy', 'War'))
  assert value_of.tolist() == [0, 1, 3, 1, 2, 4]


def test_shards():
  assert [encoding.num_shards(n) for n in (1, 2_000_000, 2_000_001)] == [
      1, 1, 2
  ]
  users = pl.Series([f'user {i}' for i in range(300)])
  shards = encoding.shards_of(users, 7)
  assert shards.tolist() == [
      int(hashlib.sha256(u.encode()).hexdigest()[:8], 16) % 7 for u in users
  ]
  assert set(shards.tolist()) == set(range(7))
  assert not encoding.shards_of(users, 1).any()

"""Tests of cleaning, ids and splits, against worked examples."""

from data_prep import common
import numpy as np
import polars as pl
import pytest
from user_llm.data import schema


def _events(rows, columns=('user', 'item', 'timestamp')):
  return pl.DataFrame(rows, schema=list(columns), orient='row')


def _raw(events, items=None):
  if items is None:
    items = events.select(pl.col('item').unique()).with_columns(
        title=pl.format('Item {}', 'item')
    )
  return common.RawDataset(
      name='toy', events=events, items=items, rejects=pl.DataFrame(), sources={}
  )


def test_exact_duplicates_keep_the_first():
  events = _events([(1, 5, 10), (1, 6, 10), (1, 5, 10), (1, 5, 11)])
  kept = common.drop_duplicates(events)
  assert kept.rows() == [(1, 5, 10), (1, 6, 10), (1, 5, 11)]


def test_k_core_goes_to_the_fixed_point():
  # Item 3 is rare; without it user 3 is; without them item 2 is.
  events = _events([
      (1, 1, 0), (1, 4, 1), (2, 1, 0), (2, 4, 1), (3, 2, 0), (3, 3, 1),
      (1, 2, 2),
  ])
  config = common.CleaningConfig(min_user_events=2, min_item_events=2)
  kept = common.k_core(events, config)
  assert kept.rows() == [(1, 1, 0), (1, 4, 1), (2, 1, 0), (2, 4, 1)]


def test_clean_counts_its_steps_and_refuses_an_empty_result():
  events = _events([(1, 5, 10), (1, 5, 10), (2, 5, 3)])
  kept, steps = common.clean(_raw(events), common.CleaningConfig())
  assert len(kept) == 2
  assert steps == [
      {'step': 'exact_duplicates', 'events': 3, 'dropped': 1},
      {'step': 'k_core', 'events': 2, 'dropped': 0},
  ]
  with pytest.raises(ValueError, match='exact_duplicates dropped 1, k_core'):
    common.clean(_raw(events), common.CleaningConfig(min_user_events=2))


@pytest.mark.parametrize('flag', ['min_user_events', 'min_item_events'])
def test_cleaning_config_names_its_flag(flag):
  with pytest.raises(ValueError, match=f'--{flag}'):
    common.CleaningConfig(**{flag: 0})


def test_encode():
  events = _events(
      [
          (10, 31, 2.5, 7), (10, 4, 3.0, 6), (9, 4, 3.0, 5), (9, 31, 0.5, 5),
          (9, 2, 3.0, 4), (9, 8, 10.0, 5), (10, 9, 3.0, 8),
      ],
      ('user', 'item', 'rating', 'timestamp'),
  )
  items = pl.DataFrame({
      'item': [2, 4, 8, 9, 31, 99],
      'title': ['b', 'd', 'h', 'i', 'ea', 'unseen'],
      'genre': ['War', 'Drama', 'War', 'Comedy|War', 'War', 'Western'],
  })
  encoded = common.encode('toy', events, items)
  # By falling count, then id: 4 (2), 31 (2), 2, 8, 9. War 4, Drama 2, C|W 1.
  catalogue = [(i.id, i.source_id, i.count) for i in encoded.catalogue]
  assert catalogue == [
      (1, '4', 2), (2, '31', 2), (3, '2', 1), (4, '8', 1), (5, '9', 1)
  ]
  assert encoded.catalogue[4].labels == ('Comedy', 'War')
  assert encoded.schema['genre'].values == ('War', 'Drama', 'Comedy|War')
  # In the order of numbers, not of strings.
  assert encoded.schema['rating'].values == ('0.5', '2.5', '3.0', '10.0')
  assert encoded.schema.names == ('item', 'genre', 'rating')
  assert encoded.users == ('9', '10')
  np.testing.assert_array_equal(encoded.offsets, [0, 4, 7])
  # User 9's three events of time 5 stay in file order.
  columns = encoded.columns
  np.testing.assert_array_equal(columns['item'], [3, 1, 2, 4, 1, 2, 5])
  np.testing.assert_array_equal(columns['genre'], [1, 2, 1, 1, 2, 1, 3])
  np.testing.assert_array_equal(columns['rating'], [3, 3, 1, 4, 3, 2, 3])
  np.testing.assert_array_equal(columns['timestamp'], [4, 5, 5, 5, 6, 7, 8])
  assert columns['item'].dtype == np.int32
  assert columns['timestamp'].dtype == np.int64


def test_describe_split():
  # Histories of 4, 2 and 3 events; the user of 2 is not in the split.
  rows = [('c', f'i{t}', t) for t in range(4)]
  rows += [('a', 'i0', 0), ('a', 'i1', 1)]
  rows += [('b', f'i{2 - t}', t) for t in range(3)]
  events = _events(rows)
  encoded = common.encode('toy', events, _raw(events).items)
  told = common.describe_split(encoded, schema.LEAVE_ONE_OUT)
  assert told == {
      'fingerprint': schema.split_fingerprint(
          [('i2', 'i3'), ('i1', 'i0')]
      ),
      'users': 2,
      'train': 1,  # Only c has an event after the first and before the last 2.
      'validation': 2,
      'test': 2,
  }


def test_natural_ids():
  (numbers,) = common.natural_ids(pl.Series(['10', '9']))
  assert numbers.to_list() == [10, 9]
  for texts in (['10', 'x'], ['07', '7'], ['1', '2.5'], ['9' * 20]):
    (kept,) = common.natural_ids(pl.Series(texts))
    assert kept.to_list() == texts

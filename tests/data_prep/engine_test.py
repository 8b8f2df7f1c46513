"""Tests of the engine, from raw tables to an encoded dataset."""

from small_sources import encode, make_raw
from data_prep import cleaning
from data_prep import encoding
from data_prep import engine
from data_prep import raw as raw_lib
from data_prep import splits
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from user_llm.data import schema

RATED = ('user', 'item', 'rating', 'timestamp')
RATED_ROWS = [
    ('10', '31', 2.5, 7), ('10', '4', 3.0, 6), ('9', '4', 3.0, 5),
    ('9', '31', 0.5, 5), ('9', '2', 3.0, 4), ('9', '8', 10.0, 5),
    ('10', '9', 3.0, 8),
]
ITEMS = [
    ('2', 'b', 'War'), ('4', 'd', 'Drama'), ('8', 'h', 'War'),
    ('9', 'i', 'Comedy|War'), ('31', 'ea', 'War'), ('99', 'unseen', 'Western'),
]


def test_encode(tmp_path):
  raw = make_raw(tmp_path, RATED_ROWS, RATED, ITEMS, label_name='genre')
  encoded, steps = encode(raw, tmp_path)
  # By falling count, then id: 4 (2), 31 (2), 2, 8, 9. War 4, Drama 2, C|W 1.
  catalogue = encoded.catalogue.select('id', 'source_id', 'count').rows()
  assert catalogue == [
      (1, '4', 2), (2, '31', 2), (3, '2', 1), (4, '8', 1), (5, '9', 1)
  ]
  assert encoded.catalogue['title'].to_list() == ['d', 'ea', 'b', 'h', 'i']
  assert encoded.schema['genre'].values == ('War', 'Drama', 'Comedy|War')
  # In the order of numbers, not of strings.
  assert encoded.schema['rating'].values == ('0.5', '2.5', '3.0', '10.0')
  assert encoded.schema.names == ('item', 'genre', 'rating')
  assert encoded.users.to_list() == ['9', '10']
  assert encoded.offsets.tolist() == [0, 4, 7]
  assert encoded.shard_sizes.tolist() == [2]
  # User 9's three events of time 5 stay in file order.
  columns = encoded.columns
  assert columns['item'].tolist() == [3, 1, 2, 4, 1, 2, 5]
  assert columns['genre'].tolist() == [1, 2, 1, 1, 2, 1, 3]
  assert columns['rating'].tolist() == [3, 3, 1, 4, 3, 2, 3]
  assert columns['timestamp'].tolist() == [4, 5, 5, 5, 6, 7, 8]
  assert encoded.seq.tolist() == [5, 3, 4, 6, 2, 1, 7]
  assert columns['item'].dtype == np.int32
  assert columns['timestamp'].dtype == np.int64
  assert [step['dropped'] for step in steps] == [0, 0, 0, 0]


def test_events_of_one_second_are_told_apart(tmp_path):
  """By the ticks that the source has; the records have seconds."""
  rows = [
      ('u', 'b', 5900), ('u', 'a', 5100), ('u', 'a', 5500), ('u', 'a', 5100)
  ]
  raw = make_raw(tmp_path, rows, ticks_per_sec=1000)
  encoded, steps = encode(raw, tmp_path)
  assert encoded.seq.tolist() == [2, 3, 1]
  assert encoded.columns['timestamp'].tolist() == [5, 5, 5]
  assert steps[1] == {'step': 'duplicates', 'events': 4, 'dropped': 1}


def test_ids_that_are_no_integers_are_in_the_order_of_their_text(tmp_path):
  rows = [(user, 'i', 0) for user in ('10', '9', '07', 'é', 'Z')]
  encoded, _ = encode(make_raw(tmp_path, rows), tmp_path)
  assert encoded.users.to_list() == ['07', '10', '9', 'Z', 'é']
  rows = [(user, '-5', 0) for user in ('10', '9', '123456789012345678', '-3')]
  encoded, _ = encode(make_raw(tmp_path, rows), tmp_path)
  assert encoded.users.to_list() == ['-3', '9', '10', '123456789012345678']
  # A 21-digit id is no 64-bit integer.
  rows = [(user, 'i', 0) for user in ('10', '9', '123456789012345678901')]
  encoded, _ = encode(make_raw(tmp_path, rows), tmp_path)
  assert encoded.users.to_list() == ['10', '123456789012345678901', '9']


def test_further_modalities(tmp_path):
  # Named like the engine's own columns.
  rows = [
      ('u', 'a', 1, 'red', 0.5), ('u', 'b', 2, '', 7.0),
      ('u', 'c', 3, 'red', 0.5), ('u', 'd', 4, 'blue', 9.0),
  ]
  columns = ('user', 'item', 'timestamp', 'value', 'place')
  modalities = (
      raw_lib.RawModality(name='value'),
      raw_lib.RawModality(name='place', num_buckets=2),
  )
  encoded, _ = encode(
      make_raw(tmp_path, rows, columns, modalities=modalities), tmp_path
  )
  assert encoded.schema.names == ('item', 'place', 'value')
  assert encoded.schema['value'].values == ('red', 'blue', 'unknown')
  assert encoded.columns['value'].tolist() == [1, 3, 1, 2]
  assert encoded.schema['place'].values == ('[0.5, 7.0)', '[7.0, 9.0]')
  assert encoded.columns['place'].tolist() == [1, 2, 1, 2]


def test_items_without_metadata_are_called_by_their_id(tmp_path):
  rows = [('u', 'b', 1), ('u', 'a', 2)]
  raw = make_raw(
      tmp_path, rows, items=[('a', 'Anna', 'War')], label_name='genre'
  )
  encoded, _ = encode(raw, tmp_path)
  assert encoded.catalogue.select(
      'source_id', 'title', 'labels', 'is_described'
  ).rows() == [('a', 'Anna', 'War', True), ('b', 'b', '', False)]


def test_steps_count_what_they_drop(tmp_path):
  rows = [('a', 'x', t) for t in (1, 2, 3, 2)] + [('b', 'x', 1), ('b', 'y', 2)]
  raw = make_raw(tmp_path, rows, num_event_rows=len(rows) + 2)
  for line in (90, 91):
    raw.rejects.add('events', file='f', line=line, reason='no number')
  config = cleaning.CleaningConfig(min_item_events=2, max_events_per_user=2)
  encoded, steps = encode(raw, tmp_path, config)
  assert steps == [
      {'step': 'parse', 'events': 8, 'dropped': 2},
      {'step': 'duplicates', 'events': 6, 'dropped': 1},
      {'step': 'k_core', 'events': 5, 'dropped': 1},
      {'step': 'length_cap', 'events': 4, 'dropped': 1},
  ]
  # The most recent stay; the vocabulary was counted before.
  assert encoded.columns['timestamp'].tolist() == [2, 3, 1]
  assert encoded.offsets.tolist() == [0, 2, 3]
  assert encoded.catalogue['count'].to_list() == [4]


def test_rows_that_are_not_accounted_for_are_our_fault(tmp_path):
  raw = make_raw(tmp_path, [('a', 'x', 1)], num_event_rows=2)
  with pytest.raises(AssertionError):
    engine.prepare(
        raw,
        directory=tmp_path,
        scratch=tmp_path,
        cleaning=cleaning.CleaningConfig(),
        options={},
    )


def test_nothing_left(tmp_path):
  raw = make_raw(tmp_path, [('a', 'x', 1), ('a', 'x', 1)])
  config = cleaning.CleaningConfig(min_item_events=2)
  with pytest.raises(ValueError, match='duplicates dropped 1, k_core drop'):
    encode(raw, tmp_path, config)


def test_shards_hold_users_by_hash(tmp_path, monkeypatch):
  monkeypatch.setattr(encoding, '_EVENTS_PER_SHARD', 50)
  rows = [(str(u), f'i{t}', t) for t in range(3) for u in range(99, 0, -1)]
  encoded, _ = encode(make_raw(tmp_path, rows), tmp_path)
  users = encoded.users.to_list()
  shards = [encoding.shard_of(user, 6) for user in users]
  assert shards == sorted(shards)
  assert encoded.shard_sizes.tolist() == np.bincount(shards).tolist()
  assert users == sorted(
      users, key=lambda u: (encoding.shard_of(u, 6), int(u))
  )
  assert encoded.columns['timestamp'].tolist() == [0, 1, 2] * 99


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(['7', '12', '3']),
            st.sampled_from(['x', 'y', 'z']),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=30,
    ),
    longest=st.integers(1, 6),
)
def test_histories_are_those_of_plain_python(rows, longest, tmp_path_factory):
  tmp_path = tmp_path_factory.mktemp('rows')
  config = cleaning.CleaningConfig(max_events_per_user=longest)
  encoded, _ = encode(make_raw(tmp_path, rows), tmp_path, config)
  source_ids = encoded.catalogue['source_id'].to_list()
  found = {}
  for user, start, stop in zip(
      encoded.users, encoded.offsets, encoded.offsets[1:]
  ):
    items = [source_ids[i - 1] for i in encoded.columns['item'][start:stop]]
    found[user] = list(zip(items, encoded.columns['timestamp'][start:stop]))
  want = {}
  for user in sorted({row[0] for row in rows}, key=int):
    own = list(dict.fromkeys(row[1:] for row in rows if row[0] == user))
    want[user] = sorted(own, key=lambda event: event[1])[-longest:]
  assert found == want and list(found) == list(want)


def _part(offsets, times, items):
  return encoding.Histories(
      offsets=np.array(offsets),
      columns={'timestamp': np.array(times), 'item': np.array(items)},
  )


@pytest.mark.parametrize(
    'parts',
    [
        [_part([0, 2, 5, 9], [0, 1, 0, 1, 2, 0, 1, 2, 3],
               [1, 2, 3, 2, 1, 1, 2, 3, 4])],
        [_part([0, 2, 5], [0, 1, 0, 1, 2], [1, 2, 3, 2, 1]),
         _part([0, 4], [0, 1, 2, 3], [1, 2, 3, 4])],
    ],
    ids=['whole', 'in_parts'],
)
def test_describe_splits(parts):
  # Histories of 2, 3 and 4 events; the user of 2 is not in leave-one-out.
  described = splits.describe_splits(parts, ['i0', 'i1', 'i2', 'i3'])
  assert described['leave_one_out'] == {
      'fingerprint': schema.split_fingerprint([('i2', 'i3'), ('i1', 'i0')]),
      'users': 2,
      'train': 1,  # Only the last has one between the first and the last 2.
      'validation': 2,
      'test': 2,
  }
  assert described['paper_windows']['users'] == 0
  # 0.8 and 0.9 of the times 0 0 0 1 1 1 2 2 3 are 2 and 3.
  assert described['global_time'] == {
      'fingerprint': schema.split_fingerprint([('i0', '-'), ('i2', 'i3')]),
      'users': 2,
      'train': 3,
      'validation': 2,
      'test': 1,
  }


def test_moments_are_those_of_all_timestamps():
  rng = np.random.default_rng(0)
  for size in (3, 10, 1001):
    # Some days have many events, some moments have several.
    times = rng.integers(0, 86_400 * 9, size) // 7200 * 7200
    rule = schema.GLOBAL_TIME
    parts = [_part([0, len(t)], t, t) for t in np.array_split(times, 3)]
    first, second = rule.cutoffs(times)
    assert splits.global_rule(rule, parts).cutoffs(times[:1]) == (first, second)

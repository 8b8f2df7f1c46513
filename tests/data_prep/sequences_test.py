"""Tests of the reader of user-item pairs."""

import json
import pathlib
import shutil
import tempfile

from small_sources import encode
from data_prep import __main__ as command
from data_prep import cleaning
from data_prep import movielens
from data_prep import sequences
import numpy as np
import polars as pl
import pytest
from user_llm.data import records
from user_llm.data import schema


def _read(path, **kwargs):
  scratch = pathlib.Path(tempfile.mkdtemp(dir=path.parent))
  return sequences.read(
      path=str(path),
      scratch=scratch,
      name='toy',
      **{'max_reject_fraction': 0, **kwargs},
  )


def test_read(tmp_path):
  path = tmp_path / 'pairs.txt'
  path.write_text('10 5\n9 5\n\n10 7\n9 12\n10  5 \n')
  raw = _read(path)
  events = pl.read_parquet(raw.events).select(
      'seq', 'user', 'item', 'timestamp'
  )
  assert events.rows() == [
      (1, '10', '5', 0), (2, '9', '5', 0), (4, '10', '7', 1),
      (5, '9', '12', 1), (6, '10', '5', 2),
  ]
  encoded, _ = encode(raw, tmp_path)
  assert encoded.schema.names == ('item',)
  assert encoded.users.to_list() == ['9', '10']
  titles = encoded.catalogue['title'].to_list()
  assert titles == ['Item 5', 'Item 7', 'Item 12']
  assert encoded.catalogue['labels'].to_list() == ['', '', '']
  assert encoded.columns['item'].tolist() == [1, 3, 1, 2, 1]


def test_no_rule_splits_them_by_time(tmp_path):
  (tmp_path / 'pairs.txt').write_text(
      ''.join(f'{user} {event}\n' for user in range(9) for event in range(5))
  )
  output = tmp_path / 'out'
  assert command.main([
      'sequences', f'--input={tmp_path / "pairs.txt"}', '--name=toy',
      f'--output={output}',
  ]) == 0
  manifest = json.loads((output / 'manifest.json').read_text())
  assert set(manifest['splits']) == {'leave_one_out', 'paper_windows'}
  assert manifest['times'] is None
  assert 'global_time' not in (output / 'data_card.html').read_text()
  log = records.load_events(str(output))
  for asked in (
      log.train_stops,
      log.split_fingerprint,
      lambda rule: log.label_bounds(rule, 'test'),
  ):
    with pytest.raises(ValueError, match="'global_time' .* 'toy' has no times"):
      asked(schema.GLOBAL_TIME)
    asked(schema.LEAVE_ONE_OUT)
  # One that was prepared before works as it did.
  old = tmp_path / 'old'
  shutil.copytree(output, old)
  del manifest['has_times']
  (old / 'manifest.json').write_text(json.dumps(manifest))
  records.load_events(str(old)).split_fingerprint(schema.GLOBAL_TIME)


def test_bad_rows_and_missing_file(tmp_path):
  path = tmp_path / 'pairs.txt'
  path.write_text('1 2 3\n1 2\n1\nann x\n')
  raw = _read(path, max_reject_fraction=0.5)
  events = pl.read_parquet(raw.events).select('user', 'item', 'timestamp')
  assert events.rows() == [('1', '2', 0), ('ann', 'x', 0)]
  assert [r['line'] for r in raw.rejects.shown()] == [1, 3]
  with pytest.raises(ValueError, match='pairs.txt:1, 3: wrong field count'):
    _read(path, max_reject_fraction=0.4)
  with pytest.raises(ValueError, match='nowhere.txt is no file'):
    _read(tmp_path / 'nowhere.txt')


def test_ml_1m_is_the_published_protocol(real_data, tmp_path):
  raw = movielens.read(
      path=str(real_data / 'movielens' / 'ml-1m'), scratch=tmp_path
  )
  config = cleaning.CleaningConfig(min_user_events=5, min_item_events=5)
  ours, _ = encode(raw, tmp_path, config)
  published = tmp_path / 'published.txt'
  published.symlink_to(real_data / 'protocols' / 'sasrec-ml-1m.txt')
  theirs, _ = encode(_read(published), tmp_path)
  assert len(ours.users) == len(theirs.users) == 6040
  assert len(ours.catalogue) == len(theirs.catalogue) == 3416

  # The published file renumbers users and items. Which is which follows from
  # who has what: the order in time, which is what is tested, is not used.
  our_user, our_item = _colours(ours)
  their_user, their_item = _colours(theirs)
  user_of = _matched(our_user, their_user)
  item_of = _matched(our_item, their_item)
  assert sorted(user_of) == list(range(6040))
  assert sorted(item_of) == list(range(3416))
  pairs = set(zip(user_of[_user(ours)], item_of[_item(ours)]))
  assert pairs == set(zip(_user(theirs), _item(theirs)))

  our_last = item_of[_item(ours)[ours.offsets[1:] - 1]]
  their_last = _item(theirs)[theirs.offsets[1:] - 1]
  np.testing.assert_array_equal(our_last, their_last[user_of])


def _user(encoded):
  return np.repeat(np.arange(len(encoded.users)), np.diff(encoded.offsets))


def _item(encoded):
  return encoded.columns['item'] - 1


def _colours(encoded):
  """Colour refinement: u64 a user and an item, alike only for look-alikes."""
  user, item = _user(encoded), _item(encoded)
  user_colour = np.zeros(len(encoded.users), np.uint64)
  item_colour = np.zeros(len(encoded.catalogue), np.uint64)
  for _ in range(4):
    mixed = _mix(item_colour)
    user_colour = np.zeros_like(user_colour)
    np.add.at(user_colour, user, mixed[item])
    mixed = _mix(user_colour)
    item_colour = np.zeros_like(item_colour)
    np.add.at(item_colour, item, mixed[user])
  return user_colour, item_colour


def _mix(x):
  """splitmix64's finaliser."""
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _matched(ours, theirs):
  """place[i]: where `theirs` has the value ours[i]; equal values in order."""
  place = np.empty(len(ours), np.int64)
  place[np.argsort(ours, kind='stable')] = np.argsort(theirs, kind='stable')
  return place

"""Tests of Google Local's layout."""

import gzip
import json

from data_prep import google_local
from data_prep import privacy
from data_prep import review_files
import polars as pl
import pytest

KEY = privacy.UserKey(b'0123456789abcdef' * 2)
# Two users whose ids are one number as a float, and one as an int64.
USERS = ('101463350189962023774', '101463350189962023775')


def _review(user, place, time, **fields):
  return {
      'user_id': user, 'name': 'Jane Roe', 'time': time, 'rating': 5,
      'text': None, 'pics': None, 'resp': None, 'gmap_id': place,
  } | fields


def _place(place, name, category):
  return {
      'name': name, 'address': None, 'gmap_id': place, 'description': None,
      'category': category, 'avg_rating': 4.4, 'hours': [['Monday', 'Closed']],
      'state': 'Permanently closed', 'url': 'https://x',
  }


def _write(path, rows):
  with gzip.open(path, 'wt') if path.suffix == '.gz' else path.open('w') as f:
    f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


@pytest.fixture
def source(tmp_path):
  """Two states; the second is not packed."""
  directory = tmp_path / 'in'
  directory.mkdir()
  _write(
      directory / 'review-Utah.json.gz',
      [
          _review(USERS[0], '0x1:0x2', 1551454013967, text=' Fine\nplace '),
          _review(USERS[1], '0x1:0x3', 1447283391185, rating=1),
      ],
  )
  _write(
      directory / 'review-Vermont.jsonl',
      [
          _review(USERS[0], '0x9:0x9', 1551454014999),
          _review(USERS[0], '0x9:0x8', 1551454015999),
          _review(USERS[0], '0x9:0x8', 5, rating=None),
          _review(int(USERS[0]), '0x9:0x8', 5),
      ],
  )
  _write(
      directory / 'meta-Utah.json.gz',
      [
          _place('0x1:0x2', 'Café\tTür', ['Café', 'Bar | Grill', 'Café']),
          _place('0x1:0x2', 'Moved', ['Bar']),
          _place('0x1:0x3', None, None),
      ],
  )
  _write(directory / 'meta-Vermont.json', [_place('0x9:0x9', 'Inn', [])])
  (directory / 'README').write_text('no rows')
  return directory


def _read(source, tmp_path, **arguments):
  scratch = tmp_path / 'scratch'
  scratch.mkdir()
  raw = google_local.read(
      inputs=[str(source)],
      name='local',
      scratch=scratch,
      options=review_files.ReadOptions(user_key=KEY, max_reject_fraction=0.5),
      **arguments,
  )
  events = pl.read_parquet(raw.events / '*.parquet').sort('seq')
  return raw, events, pl.read_parquet(raw.items)


def test_states_together(source, tmp_path):
  raw, events, items = _read(source, tmp_path)
  assert raw.ticks_per_sec == 1000
  assert raw.item_noun == 'place' and raw.texts == ('review',)
  first, second = map(KEY.hash, USERS)
  assert events.drop('seq').rows() == [
      (first, '0x1:0x2', 1551454013967, 5.0, 'Fine\nplace'),
      (second, '0x1:0x3', 1447283391185, 1.0, ''),
      (first, '0x9:0x9', 1551454014999, 5.0, ''),
      (first, '0x9:0x8', 1551454015999, 5.0, ''),
  ]
  assert raw.rejects.counts('events') == {
      'Expected `float`, got `null` - at `$.rating`': 1,
      # As numbers, ids of 21 digits are floats.
      'Expected `str`, got `float` - at `$.user_id`': 1,
  }
  assert raw.rejects.counts('items') == {'item described before': 1}
  assert items.rows() == [
      ('0x1:0x2', 'Café Tür', 'Café'),
      ('0x1:0x3', '0x1:0x3', ''),
      ('0x9:0x9', 'Inn', ''),
  ]
  assert (raw.num_event_rows, raw.num_item_rows) == (6, 4)
  assert list(raw.sources) == [
      'meta-Utah.json.gz', 'meta-Vermont.json',
      'review-Utah.json.gz', 'review-Vermont.jsonl',
  ]


def test_more_categories(source, tmp_path):
  _, _, items = _read(source, tmp_path, max_categories=9)
  assert items['labels'][0] == 'Café|Bar / Grill'
  with pytest.raises(ValueError, match='--max_categories must be at least 1'):
    _read(source, tmp_path / 'in', max_categories=0)


def test_utah_joins_and_vermont_parses_whole(real_data, tmp_path):
  raw, events, items = _read(real_data / 'google_local', tmp_path)
  assert len(events) == raw.num_event_rows == 300
  assert raw.num_item_rows == 119 + 11_291
  assert raw.rejects.counts('items') == {'item described before': 8 + 48}
  assert len(items) == 111 + 11_243
  # The file has no metadata of 4 of the 115 places.
  assert events['item'].n_unique() == 115
  assert events.join(items, on='item')['item'].n_unique() == 111
  assert not raw.rejects.counts('events')

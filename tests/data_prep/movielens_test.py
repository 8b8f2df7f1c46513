"""Tests of the MovieLens reader: layouts, bad rows, bad inputs."""

import pathlib
import tempfile
import zipfile

from small_sources import LAYOUTS, MOVIES, RATINGS
from data_prep import movielens
from data_prep import privacy
import polars as pl
import pytest


def _read(path, tmp_path, **kwargs):
  scratch = pathlib.Path(tempfile.mkdtemp(dir=tmp_path.parent))
  return movielens.read(path=str(path), scratch=scratch, **kwargs)


def _events(raw):
  return pl.read_parquet(raw.events).drop('seq')


_RATINGS = [(str(user), str(item), *rest) for user, item, *rest in RATINGS]


def _zip(directory, path, folder=''):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for file in sorted(directory.iterdir()):
      archive.write(file, f'{folder}{file.name}')
  return path


def _check(raw):
  assert _events(raw).columns == ['user', 'item', 'rating', 'timestamp']
  assert _events(raw).rows() == _RATINGS
  assert pl.read_parquet(raw.items).rows() == [
      (str(i), t, '|'.join(g)) for i, t, g in MOVIES
  ]
  assert not list(raw.rejects.shown())
  assert raw.num_event_rows == len(RATINGS)
  assert raw.num_item_rows == len(MOVIES)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, movielens_dir, tmp_path):
  directory = movielens_dir(layout)
  raw = _read(directory, tmp_path)
  _check(raw)
  _check(_read(directory.parent, tmp_path))
  zipped = _read(_zip(directory, tmp_path / 'a.zip', 'some/'), tmp_path)
  _check(zipped)
  assert zipped.sources == raw.sources
  _check(_read(_zip(directory, tmp_path / 'b.zip'), tmp_path))


@pytest.mark.parametrize(
    'layout, folder, name',
    [
        ('100k', 'raw', 'movielens_100k'),
        ('1m', 'raw', 'movielens_1m'),
        ('10m', 'raw', 'movielens_10m'),
        ('10m', 'ml-10M100K', 'movielens_10m'),
        ('csv', 'raw', 'movielens'),
        ('csv', 'ml-25m', 'movielens_25m'),
        ('csv', 'ml-latest-small', 'movielens_latest_small'),
    ],
)
def test_names(layout, folder, name, movielens_dir, tmp_path):
  directory = movielens_dir(layout, folder)
  assert _read(directory, tmp_path).name == name
  # Of the zip, where there is no directory in it.
  assert _read(_zip(directory, tmp_path / f'{folder}.zip'), tmp_path).name == (
      name
  )
  assert _read(directory, tmp_path, name='own').name == 'own'


@pytest.mark.parametrize(
    'row, reason',
    [
        ('10,1,3.0', 'wrong field count'),
        ('10,1,3.0,400,', 'wrong field count'),
        ('x,1,3.0,400', 'unparsable user id'),
        ('-1,1,3.0,400', 'unparsable user id'),
        ('10,1.5,3.0,400', 'unparsable movie id'),
        ('10,1,good,400', 'non-numeric rating'),
        ('10,1,nan,400', 'non-numeric rating'),
        ('10,1,5.5,400', 'rating out of range'),
        ('10,1,0,400', 'rating out of range'),
        ('10,1,3.2,400', 'rating out of range'),
        ('10,1,inf,400', 'rating out of range'),
        ('10,1,3.0,noon', 'unparsable time'),
        ('10,1,3.0,-4', 'negative time'),
        ('10,77,3.0,400', 'unknown movie'),
    ],
)
def test_bad_ratings(row, reason, movielens_dir, tmp_path):
  directory = movielens_dir()
  path = directory / 'ratings.csv'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(lines[:3] + [row] + lines[3:]))
  raw = _read(directory, tmp_path, max_reject_fraction=0.2)
  assert _events(raw).rows() == _RATINGS
  assert pl.read_parquet(raw.events)['seq'].to_list() == [2, 3, *range(5, 10)]
  assert raw.rejects.counts('events') == {reason: 1}
  assert list(raw.rejects.shown()) == [
      {'file': 'ratings.csv', 'line': 4, 'reason': reason, 'row': row}
  ]
  with pytest.raises(ValueError, match=f'ratings.csv:4: {reason}'):
    _read(directory, tmp_path)


@pytest.mark.parametrize(
    'row, reason',
    [
        ('50,Title', 'wrong field count'),
        ('x,Title,War', 'unparsable movie id'),
        ('1,Again,War', 'movie listed twice'),
        ('50, ,War', 'no title'),
    ],
)
def test_bad_movies(row, reason, movielens_dir, tmp_path):
  directory = movielens_dir()
  with (directory / 'movies.csv').open('a') as handle:
    handle.write(f'{row}\n')
  raw = _read(directory, tmp_path, max_reject_fraction=0.2)
  assert raw.rejects.counts('items') == {reason: 1}
  assert list(raw.rejects.shown()) == [
      {'file': 'movies.csv', 'line': 7, 'reason': reason, 'row': row}
  ]
  with pytest.raises(ValueError, match=f'movies.csv:7: {reason}'):
    _read(directory, tmp_path)


def test_damaged_files(movielens_dir, tmp_path):
  directory = movielens_dir()
  movies = directory / 'movies.csv'
  good = movies.read_text()
  movies.write_text(good + '50,"Not closed,War\n')
  with pytest.raises(ValueError, match='movies.csv:7: .*quoted'):
    _read(directory, tmp_path)
  movies.write_text(good.replace('movieId', 'id'))
  with pytest.raises(ValueError, match='movies.csv:1: expected the header'):
    _read(directory, tmp_path)
  movies.write_text(good)
  (directory / 'ratings.csv').write_text('1,2,3.0,4\n')
  with pytest.raises(ValueError, match='ratings.csv:1: expected the header'):
    _read(directory, tmp_path)
  (directory / 'ratings.csv').write_text('')
  with pytest.raises(ValueError, match='ratings.csv'):
    _read(directory, tmp_path)


def test_bad_genre_flags(movielens_dir, tmp_path):
  directory = movielens_dir('100k')
  with (directory / 'u.item').open('a') as handle:
    handle.write('50|T|||u|0|0|2|0|0\n')
  raw = _read(directory, tmp_path, max_reject_fraction=0.5)
  assert raw.rejects.counts('items') == {'wrong field count': 1}
  (directory / 'u.genre').write_text('unknown\n')
  with pytest.raises(ValueError, match='u.genre:1'):
    _read(directory, tmp_path)


def test_lines_that_end_in_a_carriage_return(movielens_dir, tmp_path):
  directory = movielens_dir('csv')
  path = directory / 'movies.csv'
  path.write_bytes(path.read_bytes() + b'50,A\r51,B,Drama\r')
  (tmp_path / 'scratch').mkdir()
  found = movielens.read(
      path=str(directory), scratch=tmp_path / 'scratch', max_reject_fraction=0.5
  )
  (shown,) = found.rejects.shown()
  assert (shown['row'], shown['reason']) == ('50,A', 'wrong field count')


def test_missing_and_unknown_inputs(movielens_dir, tmp_path):
  with pytest.raises(ValueError, match='--input .*nowhere does not exist'):
    _read(tmp_path / 'nowhere', tmp_path)
  empty = tmp_path / 'empty'
  empty.mkdir()
  with pytest.raises(ValueError, match='no known layout.*Found: nothing'):
    _read(empty, tmp_path)
  (empty / 'reviews.txt').write_text('x')
  with pytest.raises(ValueError) as error:
    _read(empty, tmp_path)
  for told in ('u.data, u.item', 'ratings.dat', 'ratings.csv', 'reviews.txt'):
    assert told in str(error.value)
  directory = movielens_dir('100k', 'half')
  (directory / 'u.item').unlink()
  with pytest.raises(ValueError, match='100k layout, but u.item is missing'):
    _read(directory, tmp_path)


def test_several_datasets(movielens_dir, tmp_path):
  movielens_dir('csv', 'a')
  movielens_dir('1m', 'b')
  with pytest.raises(ValueError, match='several.*csv in a.*dat in b'):
    _read(tmp_path, tmp_path)


def test_bad_zips(movielens_dir, tmp_path):
  directory = movielens_dir()
  whole = _zip(directory, tmp_path / 'a.zip').read_bytes()
  bad = tmp_path / 'bad.zip'
  bad.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='no whole zip.*truncated'):
    _read(bad, tmp_path)
  # In the middle of the first member's data.
  broken = bytearray(whole)
  broken[60:70] = bytes(10)
  bad.write_bytes(bytes(broken))
  with pytest.raises(ValueError, match='cannot be unpacked at .*csv'):
    _read(bad, tmp_path)
  for member in ('../ratings.csv', '/etc/ratings.csv', 'C:\\ratings.csv'):
    with zipfile.ZipFile(bad, 'w') as archive:
      archive.writestr(member, 'x')
    with pytest.raises(ValueError, match='points outside'):
      _read(bad, tmp_path)
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == ['a.zip', 'bad.zip', 'raw']


def test_users_may_be_hashed(movielens_dir, tmp_path):
  directory = movielens_dir()
  with (directory / 'ratings.csv').open('a') as handle:
    handle.write('10,1,great,99\n')
  key = privacy.UserKey(b'k' * 32)
  raw = _read(directory, tmp_path, max_reject_fraction=0.5, user_key=key)
  assert _events(raw)['user'].to_list() == [
      key.hash(str(user)) for user, *_ in RATINGS
  ]
  assert raw.user_key_id == key.id
  assert list(raw.rejects.shown()) == [
      {'file': 'ratings.csv', 'line': 9, 'reason': 'non-numeric rating'}
  ]

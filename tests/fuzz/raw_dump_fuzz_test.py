"""Fuzzes the dumps that data_prep reads: dirty ones, and made to do harm."""

import gzip
import json
import pathlib
import shutil
import tempfile
import textwrap

from hypothesis import strategies as st
import pytest

from data_prep import __main__ as command
from data_prep import amazon_reviews
from data_prep import archives
from data_prep import google_local
from data_prep import movielens
from data_prep import privacy
from data_prep import review_files
from data_prep import sequences
from data_prep import table
from data_prep import table_description
from data_prep import writing
import fuzzing

_KEY = privacy.UserKey(b'0123456789abcdef' * 2)
_RATINGS = (
    (10, 31, '2.5', 500), (10, 1, '3.0', 400), (7, 2, '5.0', 90),
    (7, 31, '1.5', 80), (7, 1, '3.5', 90),
)


def _lines(*lines: str) -> bytes:
  return ''.join(f'{line}\n' for line in lines).encode()


def _json_lines(*rows: dict) -> bytes:
  return _lines(*map(json.dumps, rows))


_100K = {
    'u.data': _lines(*(f'{u}\t{i}\t{float(r):.0f}\t{t}' for u, i, r, t in _RATINGS)),
    'u.item': _lines(
        *(f'{i}|F {i} (1995)|01-Jan-1995||x|0|1' for i in (1, 2, 31))
    ),
    'u.genre': _lines('unknown|0', 'War|1', ''),
}
_DAT = {
    'ratings.dat': _lines(*(f'{u}::{i}::{r}::{t}' for u, i, r, t in _RATINGS)),
    'movies.dat': _lines(
        *(f'{i}::F {i}, Thé (1995)::War|Drama' for i in (1, 2, 31))
    ),
    'users.dat': b'1\n',
}
_CSV = {
    'ratings.csv': _lines(
        'userId,movieId,rating,timestamp',
        *(f'{u},{i},{r},{t}' for u, i, r, t in _RATINGS),
    ),
    'movies.csv': _lines(
        'movieId,title,genres', '1,"Il ""postino"", The (1994)",Drama',
        '2,Heat (1995),War|Drama', '31,X,(no genres listed)',
    ),
}
_AMAZON = {
    'reviews.json': _json_lines(*(
        {
            'reviewerID': f'A{i % 2}', 'asin': f'B{i}', 'overall': 5.0,
            'unixReviewTime': 1525132800 + i, 'summary': 'Good &amp; fine',
            'reviewText': 'Nice<br />', 'vote': '3', 'style': {'Size:': ' 1'},
        }
        for i in range(4)
    )),
    'meta.json': _json_lines({
        'asin': 'B1', 'title': 'A thing', 'category': ['Beauty', 'Hair'],
        'price': '$3', 'also_buy': ['B2'],
    }) + b"{'asin': 'B2', 'title': 'A \\'2014\\' one', 'categories': [['X']]}\n",
}
_AMAZON_2023 = {
    'All_Beauty.jsonl': _json_lines(*(
        {
            'user_id': f'A{i % 2}', 'parent_asin': f'B{i}', 'asin': 'x',
            'rating': 1.0 + i, 'timestamp': 1588687728923 + i, 'title': 'T',
            'text': 'Long', 'images': [], 'helpful_vote': 0,
        }
        for i in range(4)
    )),
    'meta_All_Beauty.jsonl': _json_lines(
        {'parent_asin': 'B1', 'title': 'T', 'categories': ['a'], 'price': None}
    ),
}
_GOOGLE = {
    'review-Utah.json': _json_lines(*(
        {
            'user_id': f'10146335018996202377{i % 2}', 'name': 'J', 'rating': i,
            'time': 1551454013967 + i, 'text': None, 'pics': None,
            'resp': None, 'gmap_id': f'0x1:0x{i}',
        }
        for i in range(1, 5)
    )),
    'meta-Utah.json': _json_lines(
        {'name': 'P', 'gmap_id': '0x1:0x1', 'category': ['Cafe'], 'hours': None}
    ),
}
_TABLE = {
    'reads.toml': textwrap.dedent(
        table_description.__doc__.split('\n\n', 1)[1]
    ).split('\nCSV')[0].encode(),
    'reads-1.csv': _lines(
        'visitor,article,read_at,stars,device,Time on page,comment,unused',
        'u1,7,1472688000123,4.5,phone,12.5,"Good, ""really"" good",x',
        'u1,8,1472688001999,3,,, ,x', 'u2,07,1472688002000,5,desk,3,"a\nb",x',
    ),
    'articles.jsonl': _json_lines(
        {'id': 7, 'headline': 'First', 'topics': ['A|B', 'C']},
        {'id': '07', 'headline': None, 'topics': 'Politics; Sports;'},
    ),
}
_SEQUENCES = {'pairs.txt': _lines('1 3', '1 5', '2 3', '2 4', '1 7')}


def _sources(*originals: dict[str, bytes]) -> st.SearchStrategy:
  """A source with one or two of its files edited, packed, or gone."""

  @st.composite
  def build(draw: st.DrawFn) -> dict[str, bytes]:
    files = dict(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 2))):
      name = draw(st.sampled_from(sorted(files)))
      kind = draw(st.integers(0, 11))
      if kind == 0:
        files[name] = b''
      elif kind == 1 and len(files) > 1:
        del files[name]
      elif kind == 2:
        packed = gzip.compress(files[name], mtime=0)
        files[name] = draw(fuzzing.edited(packed))
      else:
        files[name] = draw(fuzzing.edited(files[name]))
    return files

  return build()


@pytest.fixture(name='read')
def _read(tmp_path):
  """Writes a source and reads it; nothing of it is left."""

  def read(files, reader):
    folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / 'in').mkdir()
    (folder / 'scratch').mkdir()
    for name, data in files.items():
      (folder / 'in' / name).write_bytes(data)
    try:
      # `main` tells any of these in a line.
      with fuzzing.only_mistakes(ValueError, OSError):
        return reader(folder / 'in', folder / 'scratch')
    finally:
      shutil.rmtree(folder)

  return read


def _reviews(read):
  options = review_files.ReadOptions(user_key=_KEY, max_reject_fraction=0.5)
  return lambda folder, scratch: read(
      inputs=[str(folder)], name='x', scratch=scratch, options=options
  )


_READERS = {
    'movielens': lambda folder, scratch: movielens.read(
        path=str(folder), scratch=scratch, max_reject_fraction=0.5
    ),
    'amazon': _reviews(amazon_reviews.read),
    'google': _reviews(google_local.read),
    'table': lambda folder, scratch: table.read(
        description=str(folder / 'reads.toml'), scratch=scratch, user_key=_KEY,
        max_reject_fraction=0.5,
    ),
    'sequences': lambda folder, scratch: sequences.read(
        path=str(folder / 'pairs.txt'), name='x', scratch=scratch,
        max_reject_fraction=0.5,
    ),
}


@pytest.mark.parametrize(
    'reader, files',
    [
        ('movielens', _100K), ('movielens', _DAT), ('movielens', _CSV),
        ('amazon', _AMAZON), ('amazon', _AMAZON_2023), ('google', _GOOGLE),
        ('table', _TABLE), ('sequences', _SEQUENCES),
    ],
)
def test_the_originals_are_read(reader, files, read):
  raw = read(files, _READERS[reader])
  assert raw.num_event_rows >= 3 and not raw.rejects.counts('events')


@fuzzing.fuzz(_sources(_100K, _DAT, _CSV), quick=100, slow=2_000)
def test_movielens(case, read):
  read(case, _READERS['movielens'])


@fuzzing.fuzz(_sources(_AMAZON, _AMAZON_2023), quick=100, slow=2_000)
def test_amazon(case, read):
  read(case, _READERS['amazon'])


@fuzzing.fuzz(_sources(_GOOGLE), quick=100, slow=2_000)
def test_google_local(case, read):
  read(case, _READERS['google'])


@fuzzing.fuzz(_sources(_TABLE), quick=100, slow=2_000)
def test_table(case, read):
  read(case, _READERS['table'])


@fuzzing.fuzz(_sources(_SEQUENCES), quick=100, slow=2_000)
def test_sequences(case, read):
  read(case, _READERS['sequences'])


@pytest.fixture(name='packed', scope='module')
def _packed(tmp_path_factory):
  """A zip and a tar.gz of one source."""
  folder = tmp_path_factory.mktemp('packed')
  (folder / 'ml').mkdir()
  for name, data in _CSV.items():
    (folder / 'ml' / name).write_bytes(data)
  return {
      kind: pathlib.Path(
          shutil.make_archive(str(folder / 'x'), kind, folder, 'ml')
      ).read_bytes()
      for kind in ('zip', 'gztar', 'tar')
  }


@fuzzing.fuzz(st.data(), quick=250, slow=6_000)
def test_archives(case, packed, tmp_path):
  """Whatever comes out is under the target, and plain."""
  folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  archive, target = folder / 'x', folder / 'target'
  target.mkdir()
  archive.write_bytes(case.draw(fuzzing.edited(*packed.values())))
  with fuzzing.only_mistakes(ValueError, OSError):
    archives.extract(archive, target)
  assert sorted(folder.iterdir()) == [target, archive]
  for path in target.rglob('*'):
    assert path.is_dir() or path.is_file() and not path.is_symlink()
  shutil.rmtree(folder)


@pytest.fixture(name='loaded', scope='module')
def _loaded():
  """TensorFlow, whose import would count as the first case's time."""
  return writing.load_tensorflow()


@fuzzing.fuzz(_sources(_CSV), quick=12, slow=100)
def test_the_command(case, loaded, tmp_path):
  """A dataset that is whole, or nothing at all, and one line that says why."""
  del loaded
  folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  (folder / 'in').mkdir()
  for name, data in case.items():
    (folder / 'in' / name).write_bytes(data)
  code = command.main([
      'movielens', f'--input={folder / "in"}', f'--output={folder / "out"}',
      '--max_reject_fraction=0.5',
  ])
  assert code in (0, 2)
  if code == 0:
    assert command.main(['verify', str(folder / 'out')]) == 0
  names = {path.name for path in folder.iterdir()}
  assert names == ({'in', 'out'} if code == 0 else {'in'})
  shutil.rmtree(folder)

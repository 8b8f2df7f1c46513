"""Tests of what the readers of reviews share: files, defects, processes."""

import gzip
import json
import os
import time

from data_prep import amazon_reviews
from data_prep import parallel
from data_prep import privacy
from data_prep import review_files
from data_prep import review_layouts
import polars as pl
import pytest

KEY = privacy.UserKey(b'0123456789abcdef' * 2)


def _lines(first, count):
  return b''.join(
      json.dumps({
          'rating': 1 + i % 5, 'title': 'good', 'text': f'words {i}',
          'parent_asin': f'B{i % 7}', 'user_id': f'U{i % 11}', 'timestamp': i,
      }).encode() + b'\n'
      for i in range(first, first + count)
  )


def _read(tmp_path, *inputs, **options):
  scratch = tmp_path / 'scratch'
  scratch.mkdir()
  return amazon_reviews.read(
      inputs=[str(path) for path in inputs],
      name='x',
      scratch=scratch,
      options=review_files.ReadOptions(user_key=KEY, **options),
  )


def test_name_that_says_gzip(tmp_path):
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(_lines(0, 20))
  raw = _read(tmp_path, path)
  assert raw.sources[path.name]['rows'] == 20
  assert raw.sources[path.name]['note'] == 'not gzip, in spite of its name'


def test_gzip_that_breaks_off(tmp_path):
  path = tmp_path / 'x.jsonl.gz'
  packed = gzip.compress(_lines(0, 1000))
  path.write_bytes(packed[: len(packed) // 2])
  with pytest.raises(ValueError) as error:
    _read(tmp_path, path)
  assert f'{path}:' in str(error.value)
  assert '--allow_truncated' in str(error.value)
  (tmp_path / 'again').mkdir()
  raw = _read(tmp_path / 'again', path, allow_truncated=True)
  kept = len(pl.read_parquet(raw.events / '*.parquet'))
  assert 400 < kept < 600
  assert raw.rejects.counts('events') == {'gzip breaks off': 1}
  assert raw.num_event_rows == kept + 1
  (tmp_path / 'third').mkdir()
  with pytest.raises(ValueError, match='--max_reject_fraction'):
    _read(
        tmp_path / 'third', path, allow_truncated=True, max_reject_fraction=0
    )


def test_every_defect_is_one_row(tmp_path):
  path = tmp_path / 'x.jsonl'
  defects = (
      b'{"rating": 5, "title": "broken',
      b'{"title": "a\0b"}',
      b'{"title": "caf\xe9"}',
      b'{"title": "' + b'x' * (11 << 20) + b'"}',
      b'null',
  )
  path.write_bytes(
      _lines(0, 3) + b'\n' + b'\n'.join(defects) + b'\n' + _lines(3, 2)
  )
  raw = _read(tmp_path, path, max_reject_fraction=0.5)
  events = pl.read_parquet(raw.events / '*.parquet').sort('seq')
  assert events['seq'].to_list() == [1, 2, 3, 10, 11]
  assert raw.rejects.counts('events') == {
      'broken JSON': 1,
      'NUL byte': 1,
      'not UTF-8': 1,
      'line longer than 10,485,760 bytes': 1,
      'Expected `object`, got `null`': 1,
  }
  assert raw.num_event_rows == 10


def test_a_text_has_no_nul_of_its_own(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(_lines(0, 1).replace(b'words', b'wo\\u0000rds'))
  raw = _read(tmp_path, path)
  assert pl.read_parquet(raw.events / '*.parquet')['review'][0] == 'words 0'


@pytest.mark.parametrize(
    'files, message',
    [
        ({}, 'holds no file in .json, .jsonl, .json.gz, .jsonl.gz'),
        ({'x.csv': b'a,b'}, 'holds no file in'),
        ({'x.json': b''}, 'x.json has no JSON object in its first lines'),
        ({'x.json': b'<!DOCTYPE html>'}, 'has no JSON object in its first'),
        ({'x.json': b'{"asin": 1}'}, 'has of these fields only asin. Looked'),
        ({'m.json': b'{"asin": "1", "title": "x"}'}, 'no file of reviews'),
    ],
)
def test_unknown_input(files, message, tmp_path):
  directory = tmp_path / 'in'
  directory.mkdir()
  for name, data in files.items():
    (directory / name).write_bytes(data)
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, directory)


def test_absent_and_doubled_input(tmp_path):
  with pytest.raises(ValueError, match='nowhere does not exist'):
    review_layouts.find_files([str(tmp_path / 'nowhere')])
  for name in 'ab':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.json').write_text('')
  with pytest.raises(ValueError, match='x.json more than once'):
    review_layouts.find_files([str(tmp_path / name) for name in 'ab'])
  (tmp_path / 'a' / '._x.json').write_text('')
  assert review_layouts.find_files([str(tmp_path / 'a')]) == [
      tmp_path / 'a' / 'x.json'
  ]


def test_processes_give_the_same_bytes(tmp_path, monkeypatch):
  paths = [tmp_path / f'{name}.jsonl' for name in 'abc']
  for i, path in enumerate(paths):
    path.write_bytes(_lines(i * 50, 50) + b'{}\n')
  parts = []
  for least_parallel_bytes in (0, 1 << 60):
    monkeypatch.setattr(
        review_files, '_LEAST_PARALLEL_BYTES', least_parallel_bytes
    )
    place = tmp_path / str(least_parallel_bytes)
    place.mkdir()
    raw = _read(place, *paths, max_reject_fraction=0.1)
    parts.append({p.name: p.read_bytes() for p in raw.events.iterdir()})
    assert raw.num_event_rows == 153
    assert [r['file'] for r in raw.rejects.shown()] == [p.name for p in paths]
  assert len(parts[0]) == 3 and parts[0] == parts[1]


def _work(job, advance):
  advance(job)
  if job == 0:
    raise ValueError('job 0 is bad')
  for _ in range(1000):
    time.sleep(0.02)
    advance(0)


def _process(job, advance):
  advance(job)
  return job, os.getpid()


def test_parallel():
  told = []
  results = parallel.map_files(
      _process, range(4), advance=told.append, processes=2
  )
  jobs, processes = zip(*results)
  assert jobs == (0, 1, 2, 3) and os.getpid() not in processes
  assert sum(told) == 6
  start_secs = time.monotonic()
  with pytest.raises(ValueError, match='job 0 is bad'):
    list(
        parallel.map_files(_work, (0, 1), advance=told.append, processes=2)
    )
  # The other job would have taken 20 s.
  assert time.monotonic() - start_secs < 15

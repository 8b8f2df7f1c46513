"""Tests of the reader of JSON lines: what it keeps, rejects and survives."""

import gzip
import json
import subprocess
import sys
from typing import Annotated

from data_prep import json_lines
import hypothesis
from hypothesis import strategies as st
import msgspec
import pytest


class _Row(msgspec.Struct):
  a: Annotated[int, msgspec.Meta(ge=0)]
  b: str | None = None


def _read(path, **options):
  blocks = list(json_lines.read_blocks(path, _Row, **options))
  rows = [
      (line, row)
      for block in blocks
      for line, row in zip(block.lines, block.rows, strict=True)
  ]
  return rows, [reject for block in blocks for reject in block.rejects]


def _write(path, data):
  path.write_bytes(data)
  return path


def test_rows_have_the_lines_of_an_editor(tmp_path):
  data = b'\xef\xbb\xbf{"a": 1}\r\n\n  \t\n{"a": 2, "b": "x", "c": 1}\n{"a":3}'
  rows, rejects = _read(_write(tmp_path / 'x', data))
  assert rows == [(1, _Row(1)), (4, _Row(2, 'x')), (5, _Row(3))]
  assert not rejects


@pytest.mark.parametrize(
    'line, reason',
    [
        (b'{"a": 1', 'broken JSON'),
        (b'{"a": 1} {"a": 2}', 'broken JSON'),
        (b'{"a": NaN}', 'broken JSON'),
        (b'{"a": 1, "b": "\\ud800"}', 'broken JSON'),
        (b'{"a": 1, "c": ' + b'[' * 9999 + b']' * 9999 + b'}', 'broken JSON'),
        (b'{"a": 1, "b": "x\0y"}', 'NUL byte'),
        (b'\0\0\0\0', 'NUL byte'),
        (b'{"a": 1, "b": "caf\xe9"}', 'not UTF-8'),
        (b'{}', 'Object missing required field `a`'),
        (b'[1]', 'Expected `object`, got `array`'),
        (b'{"a": -1}', 'Expected `int` >= 0 - at `$.a`'),
        (b'{"a": "1"}', 'Expected `int`, got `str` - at `$.a`'),
        (b"{'a': 'x'}", 'Expected `int`, got `str` - at `$.a`'),
        (b"{'a': 1, 'b': 'x\\ud800y'}", 'not UTF-8'),
        (b"{'a': __import__('os')}", 'broken Python literal'),
        (b"{'a': 1", 'broken Python literal'),
        (b"{'a': " + b'(' * 9999 + b')' * 9999 + b'}', 'broken Python literal'),
        (b"{'a': 1, 'b': '" + b'x' * (1 << 20) + b"'}", 'broken JSON'),
    ],
)
def test_a_bad_line_is_one_reject(line, reason, tmp_path):
  data = b'{"a": 1}\n' + line + b'\n{"a": 3}\n'
  rows, rejects = _read(_write(tmp_path / 'x', data))
  assert rows == [(1, _Row(1)), (3, _Row(3))]
  assert rejects == [(2, reason)]


def test_python_literals(tmp_path, recwarn):
  data = b"{'a': 1, 'b': 'it\\'s', 'c': None}\n{'a': 2, 'b': u'a\\/b'}\n"
  data += b"{'a': 3, 'c': '\\ud800 in what is not used'}\n"
  rows, rejects = _read(_write(tmp_path / 'x', data))
  assert [row for _, row in rows] == [
      _Row(1, "it's"), _Row(2, 'a\\/b'), _Row(3)
  ]
  assert not rejects and not recwarn.list


def test_packed_or_not_is_told_by_content(tmp_path):
  data = b'{"a": 1}\n{"a": 2}\n'
  plain = _write(tmp_path / 'x.json.gz', data)
  # Two members, as `cat a.gz b.gz` makes, and padding, as tapes do.
  halves = gzip.compress(data[:5]) + gzip.compress(data[5:]) + b'\0' * 512
  packed = _write(tmp_path / 'x.json', halves)
  assert _read(plain) == _read(packed) == ([(1, _Row(1)), (2, _Row(2))], [])
  assert not json_lines.is_gzip(plain) and json_lines.is_gzip(packed)
  assert _read(_write(tmp_path / 'empty', b'')) == ([], [])


@pytest.fixture(scope='module')
def packed():
  # Numbers without order, so that there are many bytes to break off at.
  lines = [json.dumps({'a': i * 7919 % 10007}) for i in range(2000)]
  return gzip.compress('\n'.join(lines).encode() + b'\n')


@pytest.mark.parametrize('kept', [0.3, 0.6, 0.9, 0.999])
def test_gzip_that_breaks_off(kept, packed, tmp_path):
  short = packed[: int(len(packed) * kept)]
  rows, rejects = _read(_write(tmp_path / 'x.gz', short))
  assert [row.a for _, row in rows] == [
      i * 7919 % 10007 for i in range(len(rows))
  ]
  # All that can be unpacked, but for a block of zlib.
  assert len(rows) > 2000 * (kept - 0.15)
  assert rejects == [(len(rows) + 1, json_lines.BREAKS_OFF)]


def test_gzip_that_is_damaged(packed, tmp_path):
  for data in (
      packed[:-8] + b'\0' * 8,  # The checksum.
      packed + b'garbage',
      packed[:3000] + bytes(100) + packed[3100:],
  ):
    rows, rejects = _read(_write(tmp_path / 'x.gz', data))
    assert [row.a for _, row in rows] == [
        i * 7919 % 10007 for i in range(len(rows))
    ] or data[3000:3100] == bytes(100)
    assert [reason for _, reason in rejects][-1] == json_lines.BREAKS_OFF
  assert _read(_write(tmp_path / 'x.gz', b'\x1f\x8b'))[1] == [
      (1, json_lines.BREAKS_OFF)
  ]


def test_the_longest_line_is_a_row(tmp_path):
  fits = b'{"a": 1, "b": "' + b'x' * 83 + b'"}'
  assert len(fits) == 100
  longer = fits + b' '
  for end in (b'', b'\n'):
    data = b'\n'.join([longer, fits, longer * 5, fits]) + end
    path = _write(tmp_path / 'x', data)
    rows, rejects = _read(path, max_line_bytes=100)
    assert [line for line, _ in rows] == [2, 4]
    assert rejects == [
        (1, 'line longer than 100 bytes'), (3, 'line longer than 100 bytes')
    ]


def test_memory_is_bounded(tmp_path):
  """A line of 100 MB, and many rejects, in less than 60 MB."""
  path = tmp_path / 'x.gz'
  with gzip.open(path, 'wb', compresslevel=1) as handle:
    handle.write(b'{"a": 1}\n{"b": "')
    for _ in range(100):
      handle.write(b'x' * (1 << 20))
    handle.write(b'"}\n' + b'{\n' * 200_000 + b'{"a": 2}\n')
  code = (
      'import resource, sys, pathlib, msgspec\n'
      'from data_prep import json_lines\n'
      'Row = msgspec.defstruct("Row", [("a", int)])\n'
      'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
      'before, rows, bad = peak(), 0, 0\n'
      'for b in json_lines.read_blocks(pathlib.Path(sys.argv[1]), Row):\n'
      '  rows += len(b.rows); bad += len(b.rejects)\n'
      'print(rows, bad, (peak() - before) >> 10)\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', code, str(path)],
      capture_output=True,
      text=True,
      check=True,
      cwd=json_lines.__file__.rsplit('/', 2)[0],
  )
  rows, bad, megabytes = map(int, done.stdout.split())
  assert (rows, bad) == (2, 200_001)
  assert megabytes < 60


_LINE = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda row: json.dumps(row).encode(),
        st.fixed_dictionaries(
            {'a': st.one_of(st.integers(-2, 2**70), st.text(max_size=3))},
            optional={'b': st.text(max_size=5), 'c': st.floats()},
        ),
    ),
    st.builds(
        lambda row: repr(row).encode('utf-8', 'surrogatepass'),
        st.dictionaries(
            st.sampled_from('ab'),
            st.recursive(
                st.one_of(st.integers(), st.text(max_size=3), st.none()),
                st.lists,
                max_leaves=3,
            ),
        ),
    ),
)


@hypothesis.settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    lines=st.lists(_LINE, max_size=12),
    block_bytes=st.sampled_from([1, 100, 1 << 20]),
    cut=st.integers(0, 50),
    is_packed=st.booleans(),
)
def test_any_bytes(lines, block_bytes, cut, is_packed, tmp_path):
  """Each line that is not white space is one row or one reject, in order."""
  data = b'\n'.join(lines)
  hypothesis.assume(is_packed or data[:2] != b'\x1f\x8b')
  packed = gzip.compress(data, mtime=0) if is_packed else data
  path = _write(tmp_path / 'x', packed)
  options = {'max_line_bytes': 30, 'block_bytes': block_bytes}
  rows, rejects = _read(path, **options)
  physical = data.removeprefix(b'\xef\xbb\xbf').split(b'\n')
  expected = [
      i
      for i, line in enumerate(physical, start=1)
      if line.strip() or len(line) > 30
  ]
  numbers = [line for line, _ in rows]
  assert sorted(numbers + [line for line, _ in rejects]) == expected
  assert numbers == sorted(numbers)
  for line, row in rows:
    assert isinstance(row.a, int) and row.a >= 0, physical[line - 1]
  if is_packed and cut and cut < len(packed) - 2:
    broken = _write(tmp_path / 'x', packed[:-cut])
    kept, broken_rejects = _read(broken, **options)
    assert kept == rows[: len(kept)]
    assert broken_rejects[-1][1] == json_lines.BREAKS_OFF

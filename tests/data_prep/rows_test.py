"""Tests of the line reader."""

import hashlib

from data_prep import rows
import polars as pl
import pytest


def _read(path, **kwargs):
  return rows.read_rows(
      path,
      split=lambda line: line.str.split_exact(',', 2),
      fields=[pl.col('field_0').cast(pl.Int64, strict=False).alias('a')],
      reason=pl.when(pl.col('a').is_null()).then(pl.lit('no number')),
      **kwargs,
  )


def test_lines_are_numbered_across_blocks_and_empty_lines(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(rows, '_BLOCK_BYTES', 7)
  path = tmp_path / 'f.csv'
  path.write_bytes(b'a,b\r\n1,x\r\n\r\n2,y\r\nz,3\r\n\n5,5\nq\n6,6')
  parsed = _read(path, header='a,b')
  assert parsed.rows['a'].to_list() == [1, 2, 5, 6]
  assert parsed.num_rows == 6
  assert parsed.rejects.rows() == [
      ('f.csv', 5, 'no number', 'z,3'),
      ('f.csv', 8, 'no number', 'q'),
  ]
  assert parsed.num_bytes == path.stat().st_size
  assert parsed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_wrong_header_is_named(tmp_path):
  path = tmp_path / 'f.csv'
  path.write_text('x;y\n1,1\n')
  with pytest.raises(ValueError, match=r"f.csv:1: expected .*'a,b', .*'x;y'"):
    _read(path, header='a,b')


@pytest.mark.parametrize('text', ['', 'a,b\n'])
def test_file_without_rows(tmp_path, text):
  path = tmp_path / 'f.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match='f.csv'):
    _read(path, header='a,b' if text else None)


def test_too_many_rejects_name_the_first(tmp_path):
  path = tmp_path / 'f.csv'
  path.write_text('1\n2\n3\nq\n')
  parsed = _read(path)
  rows.check_rejects(parsed, 0.25)
  with pytest.raises(ValueError, match='f.csv:4: no number') as error:
    rows.check_rejects(parsed, 0.24)
  assert '1 of 4 rows are bad (1 no number)' in str(error.value)
  assert '--max_reject_fraction' in str(error.value)


def test_decode_takes_utf8_with_mark_and_latin1():
  assert rows.decode('é'.encode('utf-8-sig')) == 'é'
  assert rows.decode('é'.encode('latin-1')) == 'é'

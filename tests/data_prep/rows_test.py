"""Tests of the line reader."""

import hashlib

from data_prep import raw
from data_prep import rows
import polars as pl
import pytest


def _read(path, **kwargs):
  """What the file was, its good rows, and its bad ones."""
  blocks = []
  rejects = raw.Rejects()
  parsed = rows.read_rows(
      path,
      split=lambda line: line.str.split_exact(',', 2),
      fields=[pl.col('field_0').cast(pl.Int64, strict=False).alias('a')],
      reason=pl.when(pl.col('a').is_null()).then(pl.lit('no number')),
      write=blocks.append,
      rejects=rejects,
      **kwargs,
  )
  return parsed, pl.concat(blocks), rejects


def test_lines_are_numbered_across_blocks_and_empty_lines(
    tmp_path, monkeypatch
):
  monkeypatch.setattr(rows, '_BLOCK_BYTES', 7)
  path = tmp_path / 'f.csv'
  path.write_bytes(b'a,b\r\n1,x\r\n\r\n2,y\r\nz,3\r\n\n5,5\nq\n6,6')
  parsed, good, rejects = _read(path, header='a,b')
  assert good.rows() == [(1, 2), (2, 4), (5, 7), (6, 9)]
  assert parsed.num_rows == 6
  told = {'file': 'f.csv', 'reason': 'no number'}
  assert list(rejects.shown()) == [
      {**told, 'line': 5, 'row': 'z,3'}, {**told, 'line': 8, 'row': 'q'}
  ]
  *_, rejects = _read(path, header='a,b', show_rejects=False)
  assert list(rejects.shown()) == [{**told, 'line': 5}, {**told, 'line': 8}]
  assert parsed.num_bytes == path.stat().st_size
  assert parsed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_wrong_header_is_named(tmp_path):
  path = tmp_path / 'f.csv'
  path.write_text('x;y\n1,1\n')
  with pytest.raises(ValueError, match=r"f.csv:1: expected .*'a,b', .*'x;y'"):
    _read(path, header='a,b')


@pytest.mark.parametrize('text', ['', 'a,b\n', '\n \n'])
def test_file_without_rows(tmp_path, text):
  path = tmp_path / 'f.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match='f.csv'):
    _read(path, header='a,b' if 'a' in text else None)


def test_decode_takes_utf8_with_mark_and_latin1():
  assert rows.decode('é'.encode('utf-8-sig')) == 'é'
  assert rows.decode('é'.encode('latin-1')) == 'é'

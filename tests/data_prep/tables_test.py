"""Tests of the raw tables: text order, and a limit to the memory."""

import pathlib
import tempfile

from small_sources import encode, make_raw
from data_prep import raw as raw_lib
from data_prep import tables
import numpy as np
import polars as pl
import pytest


def _tables(raw, tmp_path, memory_gib=0.5):
  scratch = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  return tables.Tables(raw, scratch=scratch, memory_gib=memory_gib)


def _texts(source, names, seq):
  batches = list(source.read_texts(names, np.array(seq)))
  return {name: sum((b[name] for b in batches), []) for name in names}


def test_texts_come_in_the_order_asked_for(tmp_path):
  rows = [
      ('u', 'i', 5, 'one', 'eins'), ('u', 'i', 6, 'two', None),
      ('u', 'i', 7, '', 'drei'), ('v', 'i', 8, 'four', 'vier'),
  ]
  columns = ('user', 'item', 'timestamp', 'place', 'seq_text')
  raw = make_raw(tmp_path, rows, columns, texts=('place', 'seq_text'))
  with _tables(raw, tmp_path) as source:
    assert _texts(source, raw.texts, [4, 1, 3]) == {
        'place': ['four', 'one', ''], 'seq_text': ['vier', 'eins', 'drei']
    }
    assert _texts(source, ('seq_text',), [2]) == {'seq_text': ['']}


def test_odd_paths(tmp_path):
  odd = tmp_path / "it's [a] *star*"
  odd.mkdir()
  with _tables(make_raw(odd, [('u', 'i', 5)]), odd) as source:
    source.number_values()
    assert source.value_names('user').to_list() == ['u']


_UPPER_CASE = [(f'P{i}', f'title {i}', '') for i in range(9)]


def test_ids_that_no_description_has(tmp_path):
  rows = [('u', f'p{i}', i) for i in range(9)]
  raw = make_raw(tmp_path, rows, items=_UPPER_CASE)
  with pytest.raises(ValueError) as error:
    encode(raw, tmp_path)
  assert (
      "They have 'p0', 'p1', 'p2', 'p3', 'p4', ...; the descriptions have "
      "'P0', 'P1', 'P2', 'P3', 'P4', .... Is it the right column"
  ) in str(error.value)


@pytest.mark.parametrize(
    'items, told',
    [
        (_UPPER_CASE, "1 of 2 items are not described, their title is their "
         "id: 'p1'\n"),
        ([], ''),
    ],
)
def test_items_without_a_description(items, told, tmp_path, capsys):
  raw = make_raw(tmp_path, [('u', 'P0', 5), ('u', 'p1', 6)], items=items)
  encoded, _ = encode(raw, tmp_path)
  assert len(encoded.catalogue) == 2
  error = capsys.readouterr().err
  assert ('warning' in error) == bool(told) and told in error


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  """40,000 events with 80 MB of text in 20 files."""
  tmp_path = tmp_path_factory.mktemp('large')
  rng = np.random.default_rng(0)
  parts = raw_lib.EventParts(tmp_path / 'events')
  for start in range(0, 40_000, 2_000):
    parts.write(pl.DataFrame({
        'seq': np.arange(start, start + 2_000),
        'user': ['u'] * 2_000,
        'item': ['i'] * 2_000,
        'timestamp': np.zeros(2_000, np.int64),
        'review': [rng.bytes(1000).hex() for _ in range(2_000)],
    }))
  return make_raw(
      tmp_path, [('u', 'i', 5)], events=tmp_path / 'events', texts=('review',)
  )


def test_little_memory_gives_the_same(large, tmp_path):
  seq = np.random.default_rng(1).permutation(40_000)[:30_000]
  found = []
  for memory_gib in (2.0, 0.15):
    with _tables(large, tmp_path, memory_gib) as source:
      found.append(_texts(source, ('review',), seq))
  assert found[0] == found[1]
  assert len(found[0]['review']) == 30_000


def test_too_little_memory_is_said(large, tmp_path):
  with pytest.raises(ValueError, match='--memory_gib 0.005 is too little'):
    with _tables(large, tmp_path, 0.005) as source:
      _texts(source, ('review',), np.arange(40_000))

"""Tests of what readers give to the engine."""

import dataclasses
import json

from data_prep import raw
import polars as pl
import pytest


def _add(rejects, count, *, reason='no number', file='f.csv', kind='events'):
  for line in range(1, count + 1):
    rejects.add(kind, file=file, line=line, reason=reason, row='r' * 300)


def test_all_rejects_are_counted_and_some_are_shown():
  rejects = raw.Rejects()
  _add(rejects, 1200)
  _add(rejects, 3, reason='no time')
  _add(rejects, 2, file='g.csv')
  _add(rejects, 5, kind='items')
  assert rejects.counts('events') == {'no number': 1202, 'no time': 3}
  assert rejects.counts('items') == {'no number': 5}
  shown = list(rejects.shown())
  assert len(shown) == 1000 + 3 + 2 + 5
  assert shown[0]['row'] == 'r' * 200


def test_too_many_rejects_name_the_first():
  rejects = raw.Rejects()
  _add(rejects, 9, file='other.csv')
  rejects.add('events', file='f.csv', line=4, reason='no number', row='q')
  limits = dict(file='f.csv', num_rows=4)
  rejects.check('events', **limits, max_reject_fraction=0.25)
  with pytest.raises(ValueError, match="f.csv:4: no number: 'q'") as error:
    rejects.check('events', **limits, max_reject_fraction=0.24)
  assert '1 of 4 rows are bad, more than' in str(error.value)
  assert '--max_reject_fraction' in str(error.value)
  rejects.check('items', **limits, max_reject_fraction=0)


def test_each_reason_is_told_once():
  rejects = raw.Rejects()
  _add(rejects, 2, reason='no time')
  _add(rejects, 1200)
  with pytest.raises(ValueError) as error:
    rejects.check('events', file='f.csv', num_rows=2000, max_reject_fraction=0)
  assert (
      f'f.csv:1, 2, 3, 4, 5 and 1,195 more: no number: {"r" * 80!r}; '
      f'f.csv:1, 2: no time: {"r" * 80!r}. Mend the file or raise'
  ) in str(error.value)


def test_parts_are_in_order(tmp_path):
  def block(*seq):
    return pl.DataFrame(
        [(s, 'u', 'i', 5) for s in seq], schema=raw.EVENT_COLUMNS, orient='row'
    )

  parts = raw.EventParts(tmp_path / 'events')
  parts.write(block(1, 4))
  parts.write(block())
  parts.write(block(raw.first_seq(1) + 1))
  assert [p.name for p in sorted((tmp_path / 'events').iterdir())] == [
      'part-00000.parquet', 'part-00001.parquet'
  ]
  assert parts.num_events == 3
  with pytest.raises(AssertionError):
    parts.write(block(7))


def test_a_dataset_goes_through_json(tmp_path):
  rejects = raw.Rejects()
  for line in range(3):
    rejects.add(
        'events', file='a.csv', line=line, reason='no "item"', row='ü,\x00'
    )
  rejects.add('items', file='b', line=1, reason='empty')
  before = raw.RawDataset(
      name='x',
      events=tmp_path / 'events',
      items=tmp_path / 'items.parquet',
      rejects=rejects,
      num_event_rows=10,
      num_item_rows=2,
      sources={'a.csv': {'sha256': 'ab', 'bytes': 7}},
      label_name='genre',
      modalities=(raw.RawModality(name='seconds', num_buckets=4),),
      texts=('review',),
      extra_files={'note.txt': 'ö'},
  )
  fields = json.loads(json.dumps(before.to_json()))
  after = raw.RawDataset.from_json(fields)
  for kind in ('events', 'items'):
    assert after.rejects.counts(kind) == before.rejects.counts(kind)
  assert list(after.rejects.shown()) == list(before.rejects.shown())
  assert dataclasses.replace(after, rejects=rejects) == before

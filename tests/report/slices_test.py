"""Slices by hand, and their charts."""

import dataclasses

import numpy as np
import pytest
import report_runs

from user_llm import per_example
from user_llm.report import gathering
from user_llm.report import slice_plots
from user_llm.report import slices

# Example i has i + 1 visible events and i / 90 of the training events before
# it; the last was never trained on.
_N = 90


@pytest.fixture(name='table')
def _table(tmp_path):
  n = np.arange(_N)
  floors = {'popularity': {'accuracy': n < 5}}
  for name in 'ab':
    report_runs.write(
        tmp_path / name,
        {'user_llm': {'accuracy': n % (2 if name == 'a' else 3) == 0}} | floors,
        config=report_runs.CONFIG + name,
    )
  report_runs.write(
      tmp_path / 'c', {'user_llm': {'accuracy': n == 0}}, first_user=1,
      config=report_runs.CONFIG + 'c',
  )
  (table,) = gathering.gather([str(tmp_path / name) for name in 'abc']).tables
  return table


def test_slices_by_hand(table):
  found = slices.make(table)
  assert found.metric == 'accuracy'
  assert [row.run for row in found.left_out] == ['c']
  history, popularity, genre = found.slicings
  assert history.names == ('1–10', '11–20', '21–50', '51–100')
  assert history.counts == (10, 10, 30, 40)
  rows = {row.run: row for row in history.estimates}
  means = [e.mean for e in history.estimates[rows['b']]]
  # Of 0..9 are 0, 3, 6, 9; of 10..19 are 12, 15, 18; then thirds of 20..49 and
  # 50..89.
  assert means == pytest.approx([0.4, 0.3, 10 / 30, 13 / 40])
  stderr = np.std([1] * 4 + [0] * 6, ddof=1) / np.sqrt(10)
  assert history.estimates[rows['b']][0].stderr == pytest.approx(stderr)

  assert popularity.names == ('head', 'torso', 'tail', 'never trained')
  assert popularity.counts == (30, 30, 29, 1)
  floor = next(row for row in popularity.estimates if row.is_floor)
  assert popularity.estimates[floor][0].mean == pytest.approx(5 / 30)

  assert genre.title == 'genre'
  # Two thirds have B, one third has A beside it.
  assert dict(zip(genre.names, genre.counts)) == {'B': 60, 'A': 30}
  assert not genre.is_ordered


def test_slices_by_history_where_rows_see_less(tmp_path):
  """The first row sees 30 events at most; the examples are sliced by all."""
  for name, most in (('a', 30), ('b', None)):
    path = report_runs.write(
        tmp_path / name, {'user_llm': {'accuracy': np.arange(_N) < 9}},
        config=report_runs.CONFIG + name,
    )
    kept = per_example.read(path.with_suffix('.npz'))
    events = np.minimum(kept.facts['history_events'], most or _N)
    dataclasses.replace(
        kept, facts={**kept.facts, 'history_events': events}
    ).write(path.with_suffix('.npz'))
  (table,) = gathering.gather([str(tmp_path / 'a'), str(tmp_path / 'b')]).tables
  found = slices.make(table)
  assert not found.left_out
  assert found.slicings[0].counts == (10, 10, 30, 40)


def test_charts_of_slices(table):
  first, second = slice_plots.draw(table, slices.make(table))
  for text in ('accuracy by history, events', '51–100', 'n=40', 'Popularity'):
    assert text in first
  assert 'accuracy by genre' in second and 'n=60' in second


def test_no_slices_of_an_older_evaluation(tmp_path):
  report_runs.write(tmp_path, {'user_llm': {'accuracy': [1, 0]}}, kept=False)
  (table,) = gathering.gather([str(tmp_path)]).tables
  found = slices.make(table)
  assert not found.slicings
  assert not slice_plots.draw(table, found)

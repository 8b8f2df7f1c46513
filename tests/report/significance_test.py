"""The paired bootstrap against all resamples, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import report_runs

from user_llm.report import __main__ as report
from user_llm.report import difference_tables
from user_llm.report import gathering
from user_llm.report import significance


def test_p_of_every_resample_of_four():
  """All 4 ** 4 resamples, each as likely, against the drawn ones."""
  values = np.array([3.0, 1.0, 2.0, -1.0])
  means = np.array(
      [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
  )
  (found,) = significance.differences(values[:, None])
  assert found.mean == 1.25
  share = np.mean(means <= 0)
  error = math.sqrt(share * (1 - share) / significance.RESAMPLES)
  assert found.p_value == pytest.approx(2 * share, abs=2 * 5 * error)
  drawn = significance.bootstrap_means(values[:, None])
  assert drawn.shape == (significance.RESAMPLES, 1)
  assert set(drawn[:, 0]) <= set(means)
  deviation = means.std() / math.sqrt(significance.RESAMPLES)
  assert drawn.mean() == pytest.approx(1.25, abs=5 * deviation)


def test_the_interval_of_many_is_normal():
  rng = np.random.default_rng(3)
  values = rng.normal(0.1, 1.0, size=(2000, 1))
  (found,) = significance.differences(values)
  error = values.std() / math.sqrt(len(values))
  assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=error / 8)
  assert found.high == pytest.approx(
      values.mean() + 1.96 * error, abs=error / 8
  )


def test_it_is_the_same_every_time_and_in_chunks(monkeypatch):
  values = np.random.default_rng(0).normal(size=(50, 3))
  whole = significance.differences(values)
  assert whole == significance.differences(values)
  monkeypatch.setattr(significance, '_CHUNK_BYTES', 50 * 8 * 7)
  chunked = significance.bootstrap_means(values)
  assert chunked.shape == (significance.RESAMPLES, 3)
  assert chunked.std(axis=0) == pytest.approx(
      values.std(axis=0) / math.sqrt(50), rel=0.05
  )


def test_extremes():
  same, none = significance.differences(np.array([[2.0, 0.0]] * 9))
  assert (same.mean, same.low, same.high) == (2, 2, 2)
  assert same.p_value == 2 / significance.RESAMPLES
  assert (none.low, none.high, none.p_value) == (0, 0, 1)


def _write(tmp_path, **changes):
  """An encoder and two text models on the same 40 users, unless changed."""
  n = np.arange(40)
  ranks = {'enc': n % 4 + 1, 'a': n % 2 + 1, 'b': n % 4 + 1}
  floors = {'markov': {'rank/all': n % 5 + 1}}
  report_runs.write(
      tmp_path / 'enc',
      {'encoder_head': {'rank/all': ranks['enc']}, **floors},
      task='x_events', **changes,
  )
  for name in 'ab':
    report_runs.write(
        tmp_path / name, {'user_llm': {'rank/all': ranks[name]}, **floors},
        config=report_runs.CONFIG + name,
    )
  return [str(tmp_path / name) for name in ('enc', 'a', 'b')]


def _comparison(workdirs, against=None):
  (found,) = gathering.gather(workdirs, against).comparisons
  return found


def test_the_encoder_head_is_the_default(tmp_path):
  found = _comparison(_write(tmp_path))
  assert found.reference.model == 'encoder_head'
  assert not found.refusals
  by_run = {row.run: values for row, values in found.differences.items()}
  # Right first: half of all, instead of a quarter.
  assert by_run['a']['recall@1/all'].mean == 0.25
  assert by_run['a']['recall@1/all'].low > 0
  assert by_run['b']['recall@1/all'].mean == 0
  assert by_run['b']['recall@1/all'].p_value == 1


def test_the_floor_is_the_default_where_the_encoder_saw_others(tmp_path):
  found = _comparison(_write(tmp_path, first_user=1))
  assert found.reference.model == 'markov'
  ((row, reason),) = [
      (row, reason) for row, reason in found.refusals.items()
      if row.model == 'encoder_head'
  ]
  assert row.run == 'enc'
  assert reason == 'the 40 examples are not those of the reference'


@pytest.mark.parametrize('name', ['a', 'user_llm/a'])
def test_a_chosen_row(tmp_path, name):
  found = _comparison(_write(tmp_path), name)
  assert found.reference.run == 'a'
  assert len(found.differences) == 3


def test_several_seeds_are_compared_by_their_mean(tmp_path):
  for seed, values in enumerate(([1, 1, 0, 0], [1, 0, 0, 0])):
    report_runs.write(
        tmp_path / f's{seed}',
        {
            'user_llm': {'accuracy': values},
            'most_frequent_genre': {'accuracy': [0, 0, 0, 1]},
        },
        seed=seed, task='x_favourite_genre',
    )
  found = _comparison([str(tmp_path / f's{seed}') for seed in (0, 1)])
  ((row, values),) = found.differences.items()
  assert row.seeds == (0, 1)
  # Mean of 1, 0.5, 0, -1.
  assert values['accuracy'].mean == 0.125


def test_older_evaluations_are_refused(tmp_path):
  found = _comparison(_write(tmp_path, kept=False), 'encoder_head')
  assert not found.differences
  assert set(found.refusals.values()) == {'no file has their examples'}
  (line,) = difference_tables.told_refusals(found)
  assert line.startswith('No differences from Encoder head: its evaluation')


@pytest.mark.parametrize(
    ['against', 'message'],
    [
        ('nobody', r'--against=nobody: no table has this row. There are a, b'),
        ('user_llm', r'has several such rows. Choose one of user_llm/a, user'),
    ],
)
def test_bad_rows(tmp_path, capsys, against, message):
  flags = ['--output', str(tmp_path / 'r.html'), '--against', against]
  assert report.main(['--workdirs', *_write(tmp_path), *flags]) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'r.html').exists()

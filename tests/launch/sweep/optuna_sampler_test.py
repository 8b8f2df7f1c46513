"""Tests of the optional sampler; skipped where optuna is not installed."""

import sys

import pytest

from launch.sweep import folder as folder_lib
from launch.sweep import optuna_sampler
from launch.sweep import spaces
from launch.sweep import spec as spec_lib
from launch.sweep import worker as worker_lib
import fake_sweep


def _spec(draws, seeds=(0,), **fields):
  return spec_lib.SweepSpec(
      name='fake',
      base=['fake.gin'],
      objective=spec_lib.Objective(metric=fake_sweep.METRIC, is_max=True),
      seeds=list(seeds),
      spaces={'A': spaces.Uniform(0.0, 1.0), 'B': spaces.Choice(('x', 3))},
      draws=draws,
      **fields,
  )


def _run(folder, spec, code='measure(-(a - 0.7) ** 2)'):
  worker = worker_lib.Worker(folder=folder, command=fake_sweep.command(code))
  exit_code = optuna_sampler.run(spec, worker, fake_sweep.checker)
  return exit_code, folder_lib.load(folder).trials


def test_it_learns_and_goes_on(tmp_path):
  pytest.importorskip('optuna')
  code, trials = _run(tmp_path, _spec(15))
  assert code == 0 and len(trials) == 15
  code, trials = _run(tmp_path, _spec(30))
  assert code == 0 and len(trials) == 30
  assert [fake_sweep.count(t, 'starts') for t in trials] == [1] * 30
  errors = [abs(trial.bindings['A'] - 0.7) for trial in trials]
  # The first ten are even draws, 0.29 off on average.
  assert sum(errors[20:]) / 10 < 0.2
  assert {trial.bindings['B'] for trial in trials} == {'x', 3}


def test_failures_and_seeds(tmp_path):
  optuna = pytest.importorskip('optuna')
  spec = _spec(3, seeds=(0, 1), retries=0)
  code, trials = _run(
      tmp_path, spec, 'sys.exit(1) if seed and a < 0.5 else measure(a + seed)'
  )
  assert len(trials) == 6
  # pylint: disable-next=protected-access
  study = optuna_sampler._study(spec, tmp_path)
  is_failed = [trial.params['A'] < 0.5 for trial in study.trials]
  assert code == any(is_failed)
  for trial, failed in zip(study.trials, is_failed):
    if failed:
      assert trial.state == optuna.trial.TrialState.FAIL
    else:
      assert trial.value == pytest.approx(trial.params['A'] + 0.5)


def test_more_than_a_space_is_refused(tmp_path):
  with pytest.raises(ValueError, match='searches .random. alone'):
    _run(tmp_path, _spec(3, grid={'C': ('1',)}))


def test_without_optuna(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(ValueError, match='pip install'):
    _run(tmp_path, _spec(3))

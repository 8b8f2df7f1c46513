"""Tests of the quickstart's driver, with commands that do next to nothing."""

import importlib.util
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(name='quickstart')
def _quickstart(monkeypatch):
  spec = importlib.util.spec_from_file_location(
      'quickstart', _ROOT / 'launch' / 'quickstart.py'
  )
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(__import__('sys').modules, 'quickstart', module)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(name='experiments')
def _experiments(quickstart, monkeypatch, tmp_path):
  for name in ('synthetic', 'movielens_100k'):
    (tmp_path / f'quickstart_{name}').mkdir()
  monkeypatch.setattr(quickstart, '_EXPERIMENTS', tmp_path)


def test_steps_run_once_and_in_order(quickstart, tmp_path, capfd):
  done = tmp_path / 'done'
  steps = [
      quickstart.Step(title='A', args=('json.tool', '--help'), done=done),
      quickstart.Step(title='B', args=('json.tool', '--help')),
  ]
  assert quickstart.run_steps(steps) == 0
  out = capfd.readouterr().out
  assert out.index('[1/2] A') < out.index('[2/2] B')
  assert 'Total time: ' in out
  done.touch()
  assert quickstart.run_steps(steps) == 0
  out = capfd.readouterr().out
  assert '[1/2] A: already done' in out
  assert out.count('usage:') == 1


def test_a_failing_step_stops_the_job(quickstart, capfd):
  steps = [
      quickstart.Step(title='Bad', args=('json.tool', 'no such file')),
      quickstart.Step(title='Never', args=('json.tool', '--help')),
  ]
  assert quickstart.run_steps(steps) == 2
  captured = capfd.readouterr()
  assert 'step 1 of 2, "Bad", ended with exit code 2' in captured.err
  assert "python -m json.tool 'no such file'" in captured.err
  assert 'Never' not in captured.out


@pytest.mark.parametrize('data', ['synthetic', 'movielens_100k'])
def test_the_job(quickstart, experiments, data, tmp_path):
  argv = [f'--data={data}', '--num_steps=7']
  argv += [] if data == 'synthetic' else ['--input=ml-100k.zip']
  steps = quickstart.make_steps(quickstart._parse(argv), tmp_path)
  commands = [' '.join(step.args) for step in steps]
  assert commands[0].startswith('data_prep ')
  trainings = [c for c in commands if 'main train' in c]
  assert [re.search(r'/(\w+)\.gin', c)[1] for c in trainings] == [
      'pretrain_encoder',
      'pretrain_lm',
      'contextualize',
  ]
  assert all('--gin.NUM_STEPS=7' in c for c in trainings)
  assert f'--gin.DATA_DIR="{tmp_path}/data"' in trainings[0]
  assert commands[-1].startswith('user_llm.report')


@pytest.mark.parametrize(
    ['argv', 'message'],
    [
        (['--data=movielens_100k'], '--data=movielens_100k needs --input'),
        (['--input=x'], 'add --data='),
        (['--data=nothing'], 'invalid choice'),
    ],
)
def test_bad_arguments(quickstart, experiments, argv, message, capsys):
  with pytest.raises(SystemExit) as error:
    quickstart._parse(argv)
  assert error.value.code == 2
  assert message in capsys.readouterr().err

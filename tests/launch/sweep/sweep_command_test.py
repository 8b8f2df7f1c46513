"""Tests of the command: what it shows, refuses and goes on with."""

import dataclasses
import functools
import json
import shutil

import pytest

from launch import __main__ as launch_main
from launch import files
from launch.sweep import command
import fake_sweep

_TOML = f'''
[sweep]
name = 'fake'
base = ['fake.gin']
objective = 'max {fake_sweep.METRIC}'
seeds = [0, 1]
[set]
B = 'same'
[grid]
A = [1, 2]
'''


@pytest.fixture(name='sweep')
def _sweep(tmp_path, monkeypatch):
  """Runs `sweep` with trials that measure A; returns the exit code."""
  run = command.run
  path = tmp_path / 's.toml'

  def sweep(
      *words, toml=_TOML, checker=fake_sweep.checker, code='measure(a)'
  ):
    path.write_text(toml)
    trial_command = fake_sweep.command(code)
    monkeypatch.setattr(
        command,
        'run',
        functools.partial(run, checker=checker, command=trial_command),
    )
    words = [str(path) if word == 'FILE' else word for word in words]
    return launch_main.main(['sweep', *words])

  return sweep


@pytest.mark.parametrize('words', [['show', 'FILE'], ['FILE', '--dry_run']])
def test_show(sweep, capsys, tmp_path, words):
  assert sweep(*words) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split() for line in lines][0] == ['trial', 'A', 'SEED']
  assert [line.split()[1:] for line in lines[1:5]] == [
      ['1', '0'], ['1', '1'], ['2', '0'], ['2', '1']
  ]
  assert lines[5] == '4 trials; in all of them: B = "same"'
  assert list(tmp_path.iterdir()) == [tmp_path / 's.toml']


def test_the_same_command_goes_on(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  assert sweep('FILE', f'--out={out}') == 0
  assert '| 2 | **2 ± 0** | 2 of 2 |' in capsys.readouterr().out
  checked = []

  def checker(gin_files, variants):
    checked.extend(variants)
    return fake_sweep.checker(gin_files, variants)

  toml = _TOML.replace('[1, 2]', '[3, 2, 1]')
  assert sweep('FILE', f'--out={out}', toml=toml, checker=checker) == 0
  # Only what is new is checked and run.
  assert [variant['A'] for variant in checked] == ['3', '3']
  trials = [
      json.loads(path.read_text()) for path in out.glob('trials/*/trial.json')
  ]
  assert len(trials) == 6
  for trial in trials:
    assert trial['varying'] == ['A']
    assert set(trial['bindings']) == {'A', 'B', 'SEED'}
  starts = [path.read_text() for path in out.glob('trials/*/run/starts')]
  assert starts == ['x'] * 6


def test_what_has_failed_is_tried_again_when_asked(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  code = 'sys.exit(1) if start <= 3 and a == 2 else measure(a)'
  flags = ('FILE', f'--out={out}')
  assert sweep(*flags, code=code) == 1
  assert sweep(*flags, code=code) == 1
  capsys.readouterr()
  assert sweep(*flags, '--retry_failed', code=code) == 0
  assert '4 of 4 done' in capsys.readouterr().out
  starts = [path.read_text() for path in out.glob('trials/*/run/starts')]
  assert sorted(starts) == ['x', 'x', 'xxxx', 'xxxx']


def test_macros_on_the_command_line(sweep, capsys):
  assert sweep('show', 'FILE', '--gin.B="other"', '--gin.C=3') == 0
  assert capsys.readouterr().out.endswith('B = "other", C = 3\n')


def test_mistakes_are_told_together(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  toml = _TOML.replace('[1, 2]', '[1, -1]')
  assert sweep('FILE', f'--out={out}', toml=toml) == 2
  error = capsys.readouterr().err
  assert '2 of 4 trials cannot run; none was started' in error
  assert error.count('A must not be negative.') == 1
  assert 'A=-1  B="same"  SEED=0\n    A=-1  B="same"  SEED=1\n' in error
  assert not out.exists()


def test_a_base_that_has_changed(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  assert sweep('FILE', f'--out={out}') == 0
  before = {p: p.read_text() for p in out.rglob('*') if p.is_file()}

  def checker(gin_files, variants):
    return fake_sweep.checker(gin_files, variants, '# base\nWIDTH = 3\n')

  assert sweep('FILE', f'--out={out}', checker=checker) == 2
  error = capsys.readouterr().err
  assert '+WIDTH = 3' in error and '--out' in error
  assert before == {p: p.read_text() for p in out.rglob('*') if p.is_file()}
  assert sweep('FILE', f'--out={out}2', checker=checker) == 0


class _Killed(BaseException):
  pass


@pytest.mark.parametrize('num_files', range(5))
def test_killed_before_all_is_prepared(
    sweep, tmp_path, monkeypatch, num_files
):
  """What is there by then is of one base, and what is missing is made."""
  left = [None] * num_files
  write = files.write

  def write_or_die(path, text):
    if not left:
      raise _Killed
    left.pop()
    write(path, text)

  def changed(gin_files, variants):
    base, checked = fake_sweep.checker(gin_files, variants)
    return dataclasses.replace(base, config='WIDTH = 3\n'), [
        dataclasses.replace(row, config='WIDTH = 3\n' + row.config)
        for row in checked
    ]

  toml = _TOML.replace('[1, 2]', '[1]').replace('[0, 1]', '[0]')
  flags = ('FILE', f'--out={tmp_path / "out"}')
  with monkeypatch.context() as patch:
    patch.setattr(files, 'write', write_or_die)
    with pytest.raises(_Killed):
      sweep(*flags, toml=toml)
  is_refused = sweep(*flags, toml=toml, checker=changed) == 2
  assert is_refused == (tmp_path / 'out' / 'base.gin').read_text().startswith(
      '# base'
  )
  checker = fake_sweep.checker if is_refused else changed
  assert sweep(*flags, toml=toml, checker=checker) == 0
  best = (tmp_path / 'out' / 'best.gin').read_text()
  assert ('WIDTH' in best) == (not is_refused)


def test_a_trial_that_was_deleted_is_made_again(sweep, tmp_path):
  out = tmp_path / 'out'
  assert sweep('FILE', f'--out={out}') == 0
  best = (out / 'best.gin').read_text()
  shutil.rmtree(out / 'trials')
  assert sweep('FILE', f'--out={out}') == 0
  assert (out / 'best.gin').read_text() == best


def test_a_metric_that_never_appears(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  toml = _TOML.replace('recall', 'recal')
  assert sweep('FILE', f'--out={out}', toml=toml) == 2
  error = capsys.readouterr().err
  assert f'Did you mean {fake_sweep.METRIC}?' in error
  assert 'Traceback' not in error
  # Mended, it goes on, and the trial that is done stays done.
  assert sweep('FILE', f'--out={out}') == 0
  starts = [path.read_text() for path in out.glob('trials/*/run/starts')]
  assert starts == ['x'] * 4


@pytest.mark.parametrize(
    ['words', 'message'],
    [
        (['FILE'], '--out=FOLDER must be given'),
        (['shwo', 'FILE'], 'give [show] and one FILE'),
        (['nothing.toml', '--out=x'], 'error: nothing.toml does not exist.'),
    ],
)
def test_wrong_arguments(sweep, capsys, words, message):
  assert sweep(*words) == 2
  assert message in capsys.readouterr().err


def test_a_file_that_is_no_toml(sweep, capsys):
  assert sweep('show', 'FILE', toml='[sweep\n') == 2
  error = capsys.readouterr().err
  assert error.startswith('launch: error: ') and 's.toml: ' in error
  assert error.count('\n') == 1

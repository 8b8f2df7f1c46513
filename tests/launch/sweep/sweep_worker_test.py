"""Tests of workers: real processes that take trials, fail and are killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.sweep import lease as lease_lib
from launch.sweep import worker as worker_lib
import fake_sweep

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_until = fake_sweep.until


def _has(worker, trial):
  """Whether that process holds the trial, and the trial is at work."""
  lease = lease_lib.latest(trial.path)
  return (
      lease is not None
      and lease.stat().st_size
      and trial.result() is None
      and lease_lib.is_held(trial.path)
      and json.loads(lease.read_text())['owner'].endswith(f' {worker.pid}')
      and fake_sweep.count(trial, 'starts')
      and not fake_sweep.count(trial, 'ends')
  )


def test_two_workers_and_one_is_killed(start, tmp_path):
  """Fifty trials: each is run to its end once, whoever begins it."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec(range(25), (0, 1)))
  code = 'time.sleep(0.2); measure(a + seed); note("ends")'
  one, two = start(code), start(code)
  _until(lambda: sum(t.result() is not None for t in plan.trials) >= 20)
  found = []
  _until(lambda: found.extend(t for t in plan.trials if _has(one, t)) or found)
  one.send_signal(signal.SIGKILL)
  out, _ = two.communicate(timeout=60)
  assert two.returncode == 0, out

  assert len(plan.trials) == 50
  assert [fake_sweep.count(t, 'ends') for t in plan.trials] == [1] * 50
  for trial in plan.trials:
    result = trial.result()
    assert result['status'] == 'done'
    assert result['scalars'][fake_sweep.METRIC] == sum(trial.bindings.values())
  # Only the killed worker's trial was begun twice.
  begun = {t.name: fake_sweep.count(t, 'starts') for t in plan.trials}
  assert [name for name, starts in begun.items() if starts > 1] == [
      found[0].name
  ]
  ends = [row['ended'] for row in fake_sweep.attempts(found[0])]
  assert ends == ['stopped', 'exit']
  owners = {
      json.loads((t.path / 'lease-0001').read_text())['owner']
      for t in plan.trials
  }
  assert len(owners) == 2  # Both have worked.
  assert '50 of 50 done' in out
  assert (tmp_path / 'results.csv').read_text().count(',done,') == 50


def test_killed_with_all_that_it_started(start, tmp_path):
  """As when the machine goes down: the lease runs out."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1]))
  trial, = plan.trials
  code = 'time.sleep(60 if start == 1 else 0); measure(1)'
  process = start(code)
  _until(lambda: _has(process, trial))
  lease = lease_lib.latest(trial.path)
  os.utime(lease)  # As its attempt does, which is made to vanish here.
  for pid in _descendants(process.pid):
    os.kill(pid, signal.SIGKILL)
  process.wait()
  assert trial.result() is None

  def take():
    return lease_lib.take(trial.path, timeout_secs=1.0)

  assert take() is None
  taken = []
  _until(lambda: taken.append(take()) or taken[-1])
  assert time.time() - lease.stat().st_mtime > 0.9
  assert taken[-1].name == 'lease-0002' and take() is None
  lease_lib.release(taken[-1])
  out, _ = start(code).communicate(timeout=30)
  assert trial.result()['status'] == 'done', out
  ends = [row['ended'] for row in fake_sweep.attempts(trial)]
  assert ends == ['lost', 'lost', 'exit']


def _descendants(pid):
  """The worker first: what it started must not outlive its attempt."""
  found = [pid]
  for parent in found:
    out = subprocess.run(
        ['ps', '-o', 'pid=', '--ppid', str(parent)],
        stdout=subprocess.PIPE, text=True, check=False,
    ).stdout
    found += map(int, out.split())
  return found


def test_only_the_attempt_is_killed(start, tmp_path):
  """Its trainer must not go on beside the next one."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1]))
  trial, = plan.trials
  code = 'time.sleep(2 if start == 1 else 0); note("ends"); measure(1)'
  process = start(code)
  _until(lambda: _has(process, trial))
  _, attempt, _ = _descendants(process.pid)
  _until((trial.path / 'pid-0001').exists)
  os.kill(attempt, signal.SIGKILL)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 0, out
  time.sleep(2.0)
  assert fake_sweep.count(trial, 'ends') == 1
  assert [row['ended'] for row in fake_sweep.attempts(trial)] == [
      'lost', 'exit'
  ]


def test_told_to_stop(start, tmp_path):
  """The trial saves and ends; that is no failure, and nobody has to wait."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1], retries=0))
  trial, = plan.trials
  code = '''
if start == 1:
  signal.signal(signal.SIGTERM, lambda *_: (note('saved'), sys.exit(42)))
  note('ready')
  time.sleep(60)
measure(1)
'''
  process = start(code)
  _until(lambda: fake_sweep.count(trial, 'ready'))
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 42, out
  assert fake_sweep.count(trial, 'saved') == 1 and trial.result() is None
  process = start(code)
  out, _ = process.communicate(timeout=20)
  assert process.returncode == 0, out
  assert trial.result()['attempts'] == 2


def test_a_trial_that_was_taken_over_ends_here(start, tmp_path):
  """A machine that was asleep: another has the trial when it wakes up."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1]))
  trial, = plan.trials
  lease = lease_lib.take(trial.path, 60.0)
  process = subprocess.Popen(
      [
          sys.executable, '-m', 'launch.sweep.attempt', str(lease),
          '--beat_secs=0.1', '--grace_secs=5', '--',
          *fake_sweep.command('time.sleep(60)')(trial),
      ],
      cwd=_ROOT, stdin=subprocess.PIPE,
  )
  _until(lambda: fake_sweep.count(trial, 'starts'))
  lease_lib.release(lease)
  assert lease_lib.take(trial.path, 60.0).name == 'lease-0002'
  assert process.wait(timeout=10) == 128 + signal.SIGTERM
  process.stdin.close()
  assert fake_sweep.attempts(trial)[0]['ended'] == 'stopped'
  assert lease_lib.is_held(trial.path)


def test_a_finished_trial_is_not_run_again(work):
  code = 'measure(a); note("ends")'
  assert work(code)[0] == 0
  exit_code, trials = work(code, values=(1, 2, 3))  # The grid has grown.
  assert exit_code == 0
  assert [fake_sweep.count(t, 'starts') for t in trials] == [1, 1, 1]
  assert [t.bindings['A'] for t in trials] == [1, 2, 3]


def test_a_result_that_was_not_written(work):
  """Its worker was killed after the trial's end."""
  code = 'measure(a)'
  _, trials = work(code)
  (trials[0].path / 'result.json').unlink()
  exit_code, trials = work(code)
  assert exit_code == 0 and trials[0].result()['status'] == 'done'
  assert [fake_sweep.count(t, 'starts') for t in trials] == [1, 1]


def test_a_crash_is_tried_again_and_the_others_go_on(work, capfd):
  exit_code, trials = work('''
if a == 1:
  print('the reason', file=sys.stderr)
  sys.exit(1)
measure(a)
''')
  assert exit_code == 1
  failed, done = (trial.result() for trial in trials)
  assert fake_sweep.count(trials[0], 'starts') == 3  # Two retries.
  assert (failed['status'], failed['code']) == ('failed', 1)
  assert failed['log'] == ['the reason']
  assert done['status'] == 'done'
  error = capfd.readouterr().err
  assert 'exit code 1' in error and 'the reason' in error


def test_a_crash_that_is_mended_by_a_second_start(work):
  exit_code, trials = work('sys.exit(1) if start == 1 else measure(a)')
  assert exit_code == 0
  assert [t.result()['attempts'] for t in trials] == [2, 2]


def test_what_saves_something_new_may_go_on(work):
  """Five preemptions with one retry, each one checkpoint further."""
  exit_code, trials = work('''
if start < 6:
  save(start)
  sys.exit(42)
measure(a)
''', values=[1], retries=1)
  assert exit_code == 0
  assert [row['step'] for row in fake_sweep.attempts(trials[0])] == [
      1, 2, 3, 4, 5, 5
  ]


def test_a_mistake_is_not_tried_again(work):
  exit_code, trials = work('sys.exit(2)', values=[1])
  assert exit_code == 1
  assert trials[0].result()['status'] == 'failed'
  assert fake_sweep.count(trials[0], 'starts') == 1


def test_failed_trials_are_tried_again_when_asked(work):
  code = 'sys.exit(2) if start == 1 else measure(a)'
  assert work(code, values=[1])[0] == 1
  exit_code, trials = work(code, values=[1])
  assert exit_code == 1 and fake_sweep.count(trials[0], 'starts') == 1
  trials[0].forget_failure()
  exit_code, trials = work(code, values=[1])
  assert exit_code == 0 and trials[0].result()['attempts'] == 2


def test_a_loss_that_is_not_finite_is_a_result(work, tmp_path):
  exit_code, trials = work(
      'measure(a); sys.exit(44 if a == 2 else 0)', values=[1, 2]
  )
  assert exit_code == 0
  assert trials[1].result()['status'] == 'diverged'
  assert fake_sweep.count(trials[1], 'starts') == 1
  rows = (tmp_path / 'results.csv').read_text().splitlines()[1:]
  assert [row.split(',')[1] for row in rows] == ['1', '2']


def test_a_metric_that_never_appears(work):
  code = 'measure(a, "eval/t/row/recal"); measure(a, "train/loss")'
  with pytest.raises(ValueError) as error:
    work(code)
  message = str(error.value)
  assert f'no {fake_sweep.METRIC!r}. Did you mean eval/t/row/recal?' in message
  assert '\n  eval/t/row/recal\n  train/loss\n' in message


def test_a_command_that_does_not_exist(tmp_path, monkeypatch):
  monkeypatch.chdir(_ROOT)
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1], retries=1))
  worker = worker_lib.Worker(
      folder=tmp_path, command=lambda trial: ['/does/not/exist']
  )
  assert worker.run() == 1
  result = plan.trials[0].result()
  assert result['status'] == 'failed' and result['attempts'] == 2


def test_workers_may_be_tasks_of_one_step(work, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'auto')
  monkeypatch.setenv('JAX_PROCESS_ID', '3')
  exit_code, _ = work('''
names = {'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'}
found = {name: os.environ[name] for name in names & os.environ.keys()}
if found != {'JAX_NUM_PROCESSES': '1'}: sys.exit(2)
measure(a)
''')
  assert exit_code == 0


def test_the_command_of_a_training(tmp_path):
  trial = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([7])).trials[0]
  assert worker_lib.training(trial)[1:] == [
      '-m', 'user_llm.main', 'train', '--gin_file=fake.gin', '--gin.A=7',
      '--gin.SEED=0', f'--workdir={trial.path}/run',
  ]

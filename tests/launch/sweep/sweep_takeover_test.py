"""Tests of trials whose old trainer lives on."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from launch.sweep import attempt
from launch.sweep import lease as lease_lib
import fake_sweep

_LOCKED = """
import fcntl
lock = (folder / 'lock').open('w')
try:
  fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  print('error: in use')
  sys.exit(46)
note('locked')
"""


def test_all_but_the_trainer_is_killed(start, tmp_path):
  """It has a session of its own, and the workdir's lock."""
  plan = fake_sweep.prepare(tmp_path, fake_sweep.make_spec([1], retries=0))
  trial, = plan.trials
  code = _LOCKED + 'time.sleep(60 if start == 1 else 0); measure(1)'
  process = start(code)
  fake_sweep.until(lambda: fake_sweep.count(trial, 'locked'))
  note = trial.path / 'pid-0001'
  fake_sweep.until(lambda: note.exists() and note.read_text())
  trainer = json.loads(note.read_text())['pid']
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert pathlib.Path(f'/proc/{trainer}/cmdline').read_text()
  lease_lib.release(lease_lib.latest(trial.path))  # It runs out.
  out, _ = start(code).communicate(timeout=30)
  assert trial.result()['status'] == 'done', out
  assert fake_sweep.count(trial, 'starts') == 2
  assert not list(trial.path.glob('pid-*'))


@pytest.mark.parametrize('change', [{}, {'host': 'b'}, {'command': ['sleep']}])
def test_only_a_trainer_of_this_machine_is_killed(tmp_path, change):
  command = ['sleep', '60']
  with subprocess.Popen(command, start_new_session=True) as process:
    started = pathlib.Path(f'/proc/{process.pid}/cmdline')
    fake_sweep.until(started.read_bytes)  # Empty at first.
    row = {'host': socket.gethostname(), 'pid': process.pid, 'command': command}
    (tmp_path / 'pid-0001').write_text(json.dumps(row | change))
    (tmp_path / 'pid-0002').touch()  # Cut off.
    attempt.kill_trainers(tmp_path)
    if change:
      time.sleep(0.2)  # What is killed needs a moment.
      assert process.poll() is None
    else:
      assert process.wait(timeout=10) == -signal.SIGKILL
    process.kill()


def test_a_workdir_in_use_is_no_failure(work, tmp_path, capfd):
  """By a trainer of another machine, which has lost the trial."""
  spec = fake_sweep.make_spec([1], retries=0)
  trial, = fake_sweep.prepare(tmp_path, spec).trials
  lease_lib.release(lease_lib.take(trial.path, 60.0))
  code = "(print('error: in use'), sys.exit(46)) if start < 4 else measure(a)"
  exit_code, _ = work(code, values=[1], retries=0, lease_secs=0.5)
  assert exit_code == 0 and trial.result()['status'] == 'done'
  ends = [row['ended'] for row in fake_sweep.attempts(trial)]
  assert ends == ['lost', 'in use', 'in use', 'in use', 'exit']
  # It was not let go before: nobody tries meanwhile.
  mtimes = [(trial.path / f'lease-000{i}').stat().st_mtime for i in range(1, 6)]
  assert [mtime > 0 for mtime in mtimes] == [False, True, True, True, False]
  assert 'tried again in 0 s: error: in use' in capfd.readouterr().out

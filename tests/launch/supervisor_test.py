"""Tests of the supervisor, with ranks that are a few lines of Python."""

import ctypes
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DRIVER = '''
import pathlib, sys
from launch import supervisor
folder, processes, code, first_rank, same_secs = sys.argv[1:]
sys.exit(supervisor.Supervisor(
    command=[sys.executable, '-c', code, folder],
    processes=int(processes),
    logs=pathlib.Path(folder) / 'logs',
    first_rank=int(first_rank),
    grace_secs=20,
    pause_secs=0.1,
    max_pause_secs=1.2,
    exit_file=pathlib.Path(folder) / 'exit.json',
    same_secs=float(same_secs),
    upload_secs=0.1,
).run())
'''
_RANK = '''
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
rank = int(os.environ.get('JAX_PROCESS_ID', 0))
starts = folder / f'starts-{rank}'
starts.open('a').write('x')
start = len(starts.read_text())
print('rank', rank, 'start', start, os.environ.get('JAX_NUM_PROCESSES'))
def wait():
  time.sleep(60)
def until_told(code):
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
  (folder / f'ready-{rank}').touch()
  wait()
'''


@pytest.fixture(name='start')
def _start(tmp_path):
  running = []

  def start(code, processes=2, first_rank=0, same_secs=60):
    running.append(subprocess.Popen(
        [
            sys.executable, '-c', _DRIVER, str(tmp_path), str(processes),
            _RANK + code, str(first_rank), str(same_secs),
        ],
        cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    ))
    return running[-1]

  yield start
  for process in running:
    process.kill()


def _starts(folder, rank=0):
  return len((folder / f'starts-{rank}').read_text())


def _end(process):
  out, error = process.communicate(timeout=60)
  return process.returncode, out, error


def test_done(start, tmp_path):
  code, out, error = _end(start(''))
  assert code == 0, error
  assert out == 'rank 0 start 1 2\n'
  logs = tmp_path / 'logs'
  assert (logs / 'rank-0000.log').read_text() == out
  assert (logs / 'rank-0001.log').read_text() == 'rank 1 start 1 2\n'
  assert 'exit code 0: done' in error
  assert json.loads((tmp_path / 'exit.json').read_text())['code'] == 0


def test_logs_are_closed_while_the_ranks_write(start, tmp_path):
  """gcsfuse uploads at a close: a run of weeks must not wait for its end."""
  in_close_write = 8
  libc = ctypes.CDLL(None)
  events = libc.inotify_init()
  (tmp_path / 'logs').mkdir()
  folder = os.fsencode(tmp_path / 'logs')
  assert libc.inotify_add_watch(events, folder, in_close_write) > 0
  process = start('until_told(42)')
  found = b''
  for rank in (0, 1):  # Once at the start of each, and again.
    while found.count(b'rank-000%d.log' % rank) < 3:
      assert select.select([events], [], [], 20)[0], 'They are left open.'
      found += os.read(events, 4096)
  os.close(events)
  process.send_signal(signal.SIGTERM)
  assert _end(process)[0] in (42, 143)


def test_one_process_is_told_of_no_others(start):
  assert _end(start('', processes=1))[1] == 'rank 0 start 1 None\n'


def test_a_preempted_rank_starts_all_again(start, tmp_path):
  code, out, _ = _end(start('if start == 1: sys.exit(42)'))
  assert code == 0
  assert out == 'rank 0 start 1 2\nrank 0 start 2 2\n'
  assert _starts(tmp_path, 0) == _starts(tmp_path, 1) == 2


def test_a_workdir_in_use_is_tried_again_later(start, tmp_path):
  code, _, error = _end(
      start('sys.exit({1: 46, 2: 45}[start])', processes=1)
  )
  assert code == 45 and _starts(tmp_path) == 2
  assert 'exit code 46: another process trains in the workdir' in error
  assert 'restart in 1 s' in error  # The longest pause; the first is 0.1 s.


def test_a_killed_rank_takes_the_others_with_it(start, tmp_path):
  code, _, error = _end(start('''
if start == 1:
  if rank == 1: os.kill(os.getpid(), signal.SIGKILL)
  wait()
'''))
  assert code == 0
  assert 'ended by signal 9' in error
  assert _starts(tmp_path, 0) == _starts(tmp_path, 1) == 2


@pytest.mark.parametrize('rank', [0, 1])
def test_a_mistake_is_not_tried_again(start, tmp_path, rank):
  code, _, error = _end(start(f'''
if rank == {rank}:
  time.sleep(0.3)
  sys.exit(2)
os.kill(os.getpid(), signal.SIGABRT)
'''))
  assert code == 2
  assert 'a mistake in the configuration' in error
  assert _starts(tmp_path) == 1
  assert json.loads((tmp_path / 'exit.json').read_text())['code'] == 2


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on(start, tmp_path, number):
  process = start('until_told(42)')
  while not all((tmp_path / f'ready-{r}').exists() for r in range(2)):
    time.sleep(0.05)
  process.send_signal(number)
  code, _, _ = _end(process)
  assert code == 42
  assert _starts(tmp_path) == 1
  # Other machines of the job, if there are, may start it again.
  assert not (tmp_path / 'exit.json').exists()


def test_the_second_signal_kills(start, tmp_path):
  process = start('''
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f'ready-{rank}').touch()
wait()
''', same_secs=0.2)
  while not all((tmp_path / f'ready-{r}').exists() for r in range(2)):
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert _end(process)[0] == 137


def test_the_same_signal_twice_lets_them_save(start, tmp_path):
  process = start('''
def save(*unused):
  (folder / f'saving-{rank}').touch()
  while not (folder / 'signalled').exists():
    time.sleep(0.05)
  time.sleep(0.3)
  os._exit(42)
signal.signal(signal.SIGTERM, save)
(folder / f'ready-{rank}').touch()
wait()
''')
  for mark in ('ready', 'saving'):
    while not all((tmp_path / f'{mark}-{r}').exists() for r in range(2)):
      time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
  (tmp_path / 'signalled').touch()
  assert _end(process)[0] == 42


def test_another_host_has_ended_it(start, tmp_path):
  (tmp_path / 'exit.json').write_text('{"code": 44, "rank": 3}')
  code, _, error = _end(start('sys.exit(134)', processes=1, first_rank=2))
  assert code == 44
  assert 'another host ended with exit code 44' in error
  assert (tmp_path / 'logs' / 'rank-0002.log').is_file()


def test_only_the_first_host_says_that_all_is_well(start, tmp_path):
  assert _end(start('', processes=1, first_rank=1))[0] == 0
  assert not (tmp_path / 'exit.json').exists()

"""A process that hangs shows where, and ends with 43."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import small_run

from user_llm import train as train_lib
from user_llm.runtime import watchdog

_HANGS = '''
import threading, time
from user_llm.runtime import watchdog

def waits_for_ever():
  threading.Event().wait()

with watchdog.Watchdog(0.5):
  for _ in range(8):
    time.sleep(0.1)
    watchdog.beat()
  print('beats', flush=True)
  waits_for_ever()
'''


def test_where_it_hangs():
  done = subprocess.run(
      [sys.executable, '-c', _HANGS],
      capture_output=True, text=True, timeout=60, check=False,
  )
  assert done.returncode == watchdog.EXIT_CODE == 43
  assert done.stdout == 'beats\n'
  assert 'HANG_SECS=0.5' in done.stderr and 'waits_for_ever' in done.stderr


_STOPPED = '''
import time
from user_llm.runtime import watchdog

with watchdog.Watchdog(1):
  print('begun', flush=True)
  for _ in range(20):
    time.sleep(0.05)
    watchdog.beat()
  # On waking, a clock says that nothing has come for long.
  watchdog._last_secs -= 3600
  time.sleep(0.3)
'''


def test_a_clock_alone_is_no_alarm():
  """As after SIGSTOP and SIGCONT, or a machine that was suspended."""
  done = subprocess.run(
      [sys.executable, '-c', _STOPPED],
      capture_output=True, text=True, timeout=60, check=False,
  )
  assert done.returncode == 0, done.stderr


def test_one_that_is_over_does_not_bite():
  with watchdog.Watchdog(0.05):
    pass
  time.sleep(0.2)
  with watchdog.Watchdog(0):
    time.sleep(0.1)


@pytest.mark.usefixtures('compilation_cache')
def test_training_and_evaluation_beat(tiny_dataset, tmp_path, monkeypatch):
  beats = []
  monkeypatch.setattr(watchdog, 'beat', lambda: beats.append(1))
  arguments = small_run.arguments(tiny_dataset, tmp_path)
  train_lib.train(**arguments)
  steps = arguments['num_steps']
  assert len(beats) > 1 + steps  # At the start, a step, a batch evaluated.


_RANK = '''
import numpy as np
from user_llm.runtime import distributed, watchdog
distributed.initialize()
from jax.experimental import multihost_utils

with watchdog.Watchdog(4):
  for step in range(10**6):
    multihost_utils.process_allgather(np.ones(1))
    watchdog.beat()
    if step == 3:
      print('works', flush=True)
'''


def _start(rank, port):
  return subprocess.Popen(
      [sys.executable, '-c', _RANK],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env={
          **os.environ,
          'XLA_FLAGS': '',
          'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
          'JAX_NUM_PROCESSES': '2',
          'JAX_PROCESS_ID': str(rank),
      },
  )


def test_a_rank_that_is_stopped_is_found_by_the_other():
  """Long before JAX misses its heartbeats, which takes 100 s."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  ranks = [_start(rank, port) for rank in range(2)]
  try:
    for rank in ranks:
      while rank.stdout.readline() != 'works\n':
        assert rank.poll() is None, rank.stderr.read()
    ranks[1].send_signal(signal.SIGSTOP)
    _, err = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode == watchdog.EXIT_CODE
    assert 'HANG_SECS=4' in err and 'process_allgather' in err
  finally:
    for rank in ranks:
      rank.kill()
      rank.wait()

"""A process that hangs shows where, and ends with 43."""

import subprocess
import sys
import time

import pytest
import small_run

from user_llm import train as train_lib
from user_llm import watchdog

_HANGS = '''
import threading, time
from user_llm import watchdog

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

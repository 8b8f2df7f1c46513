"""Tests of the guard: a command ends with who started it."""

import fcntl
import signal
import subprocess
import sys
import time

import pytest

# Saves for half a second when it is told to end.
_COMMAND = """
import pathlib, signal, sys, time

def save(*_):
  time.sleep(0.5)
  pathlib.Path(sys.argv[1], 'saved').touch()
  sys.exit(42)

signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], 'started').touch()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells it')
def test_a_guard_that_is_killed(tmp_path):
  """Its command saves and ends, and has the starter's lock until then."""
  path = tmp_path / 'lock'
  with path.open('w') as lock, subprocess.Popen(
      [
          *(sys.executable, '-m', 'launch.guard'),
          *(sys.executable, '-c', _COMMAND, str(tmp_path)),
      ],
      stdin=subprocess.PIPE,
      pass_fds=[lock.fileno()],
  ) as guard:
    fcntl.flock(lock, fcntl.LOCK_EX)
    while not (tmp_path / 'started').exists():
      assert guard.poll() is None
      time.sleep(0.01)
    guard.send_signal(signal.SIGKILL)
  assert not (tmp_path / 'saved').exists()
  with path.open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # Waits.
  assert (tmp_path / 'saved').exists()

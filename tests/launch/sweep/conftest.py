"""Workers of a sweep whose trials are a few lines of Python."""

import os
import pathlib
import subprocess
import sys

import pytest

from launch.sweep import worker as worker_lib
import fake_sweep

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_DRIVER = '''
import pathlib, sys
import fake_sweep
from launch.sweep import worker
sys.exit(worker.Worker(
    folder=pathlib.Path(sys.argv[1]), command=fake_sweep.command(sys.argv[2]),
    grace_secs=5.0, poll_secs=0.05,
).run())
'''


@pytest.fixture(name='start')
def _start(tmp_path):
  """Starts a worker as a process of its own."""
  running = []

  def start(code):
    paths = [str(_ROOT), str(pathlib.Path(__file__).parent)]
    running.append(subprocess.Popen(
        [sys.executable, '-c', _DRIVER, str(tmp_path), code],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ))
    return running[-1]

  yield start
  for process in running:
    process.kill()


@pytest.fixture(name='work')
def _work(tmp_path, monkeypatch):
  """Prepares a sweep and works on it here; returns exit code and trials."""
  monkeypatch.chdir(_ROOT)

  def work(code, values=(1, 2), seeds=(0,), lease_secs=120.0, **fields):
    spec = fake_sweep.make_spec(values, seeds, **fields)
    plan = fake_sweep.prepare(tmp_path, spec)
    worker = worker_lib.Worker(
        folder=tmp_path, command=fake_sweep.command(code), poll_secs=0.05,
        lease_secs=lease_secs,
    )
    return worker.run(), plan.trials

  return work

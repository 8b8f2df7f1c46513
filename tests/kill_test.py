"""Killed (-9) at random moments, a run has the same parameters at its end.

The moments are drawn over the whole life of a process: while it starts,
restores, computes, saves, seals a checkpoint, or deletes an old one.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from user_llm import checkpoints as checkpoints_lib
from user_llm import training_run

_NUM_STEPS = 24
# Starts trainings by fork, so that modules are loaded once. Each reads a line,
# the workdir; answers with the process's id and, at its end, its exit status.
_SERVER = f'''
import os, sys
import small_run
from user_llm import train as train_lib

arguments = lambda folder: small_run.arguments(
    sys.argv[1], folder, evaluators=(), num_steps={_NUM_STEPS},
    save_every_steps=2,
)
for line in sys.stdin:
  pid = os.fork()
  if not pid:
    train_lib.train(**arguments(line.strip()))
    sys.stdout.flush()
    os._exit(0)
  print(pid, flush=True)
  print(os.waitpid(pid, 0)[1], flush=True)
'''


class _Server:
  """See _SERVER."""

  def __init__(self, data_dir: str, cache_dir: pathlib.Path):
    paths = [str(pathlib.Path(__file__).parent), os.getcwd()]
    self._process = subprocess.Popen(
        [sys.executable, '-c', _SERVER, data_dir],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(paths),
            'JAX_COMPILATION_CACHE_DIR': str(cache_dir),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
            'OPENBLAS_NUM_THREADS': '1',  # Threads and forks do not mix.
        },
    )

  def close(self):
    self._process.kill()
    self._process.wait()

  def _number(self) -> int:
    while True:
      line = self._process.stdout.readline().strip()
      if line.isdecimal():
        return int(line)
      assert line, 'The server is gone.'

  def train(self, folder: pathlib.Path, secs: float | None = None) -> int:
    """Trains, killed after so many seconds; returns the exit status."""
    self._process.stdin.write(f'{folder}\n')
    self._process.stdin.flush()
    pid = self._number()
    if secs is not None:
      time.sleep(secs)
      try:
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        pass  # It was done before.
    return self._number()


@pytest.fixture(name='server')
def _server(tiny_dataset, tmp_path):
  server = _Server(tiny_dataset, tmp_path / 'jax')
  yield server
  server.close()


def _params(folder):
  return checkpoints_lib.Checkpoints(str(folder)).load_params(_NUM_STEPS)


@pytest.mark.parametrize(
    'num_kills', [10, pytest.param(200, marks=pytest.mark.slow)]
)
def test_killed_anywhere(server, tmp_path, num_kills):
  assert server.train(tmp_path / 'warm') == 0  # Fills the compilation cache.
  start = time.monotonic()
  assert server.train(tmp_path / 'whole') == 0
  whole_secs = time.monotonic() - start
  wanted = _params(tmp_path / 'whole')
  rng = random.Random(num_kills)
  kills = saved = 0
  while kills < num_kills:
    folder = tmp_path / f'run{kills}'
    while not (folder / training_run.DONE_FILE).exists():
      kills += 1
      is_killed = kills <= num_kills
      before = checkpoints_lib.Checkpoints(str(folder)).steps()
      status = server.train(
          folder, rng.uniform(0.2, 1) * whole_secs if is_killed else None
      )
      assert status in (0, signal.SIGKILL)
      after = checkpoints_lib.Checkpoints(str(folder)).steps()
      assert not before or after[-1] >= before[-1]  # Nothing older is lost.
      saved += before != after
    found = _params(folder)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
      np.testing.assert_array_equal(found[path], value)
  assert saved > num_kills / 4  # Most were killed in the midst of their work.

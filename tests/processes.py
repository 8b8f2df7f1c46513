"""Real processes on this machine, joined by `jax.distributed`.

As a program it is one of them: it runs commands of the binary, and notes what
became of them, what it wrote, and which rows it read.
"""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_TIMEOUT_SECS = 400
# Compiled anew by each process: quickly, what runs may be slow.
_QUICK = (
    '--xla_force_host_platform_device_count={} '
    '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
  """What a process printed, and its exit code."""

  returncode: int
  stdout: str
  stderr: str


def run(
    args: list[str], num_processes: int, num_devices: int = 1
) -> list[Finished]:
  """Runs Python with arguments in processes that know of each other.

  Args:
    args: Of each, behind `python`.
    num_processes: One is told of no others.
    num_devices: Of each process.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  started = []
  try:
    for number in range(num_processes):
      environment = {
          **os.environ,
          'PYTHONPATH': str(_ROOT),
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': _QUICK.format(num_devices),
      }
      if num_processes > 1:
        environment |= {
            'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
            'JAX_NUM_PROCESSES': str(num_processes),
            'JAX_PROCESS_ID': str(number),
        }
      started.append(subprocess.Popen(
          [sys.executable, *args], env=environment, cwd=_ROOT, text=True,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      ))
    found = []
    for process in started:
      out, error = process.communicate(timeout=_TIMEOUT_SECS)
      found.append(
          Finished(returncode=process.returncode, stdout=out, stderr=error)
      )
    return found
  finally:
    for process in started:
      process.kill()


def main(
    commands: list[list[str]],
    folder: pathlib.Path,
    num_processes: int,
    num_devices: int = 1,
) -> tuple[list[Finished], list[dict[str, Any]]]:
  """Runs commands of the binary one after the other, in all processes.

  Returns:
    What each process printed, and its notes: 'codes' of the commands, 'written'
    the paths under `folder` that Python wrote, and 'read' the items of the
    training batches, [steps, rows, L].
  """
  found = run(
      [__file__, json.dumps(commands), str(folder)], num_processes, num_devices
  )
  for each in found:
    assert each.returncode == 0, each.stderr
  notes = [
      json.loads((folder / f'notes-{i}').read_text())
      for i in range(num_processes)
  ]
  return found, notes


def _work(commands: list[list[str]], folder: str) -> None:
  import gin  # pylint: disable=g-import-not-at-top

  from user_llm import distributed  # pylint: disable=g-import-not-at-top
  from user_llm import main as main_lib  # pylint: disable=g-import-not-at-top
  from user_llm.data import pipeline  # pylint: disable=g-import-not-at-top

  notes = {'codes': [], 'written': [], 'read': []}

  def audit(event, args):
    if event == 'open' and args[2] & _WRITES or event == 'os.rename':
      if str(args[0]).startswith(folder):
        notes['written'].append(str(args[0]))

  train_batches = pipeline.Dataset.train_batches

  def noted(self, **settings):
    for batch in train_batches(self, **settings):
      notes['read'].append(batch['user_item'].tolist())
      yield batch

  pipeline.Dataset.train_batches = noted
  is_writer = distributed.initialize()
  distributed.initialize = lambda: is_writer  # Once, not for every command.
  sys.addaudithook(audit)
  for command in commands:
    gin.clear_config()
    notes['codes'].append(main_lib.main(command))
  number = os.environ.get('JAX_PROCESS_ID', '0')
  path = pathlib.Path(folder) / f'notes-{number}'
  path.write_text(json.dumps(notes))


if __name__ == '__main__':
  _work(json.loads(sys.argv[1]), sys.argv[2])

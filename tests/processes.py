"""Real processes on this machine, joined by `jax.distributed`.

Most of a start is the imports: they are made once, by this file as a program,
and the processes are its forks.
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
_TIMEOUT_SECS = 600
# Compiled anew by each process: quickly, what runs may be slow.
_FLAGS = (
    '--xla_force_host_platform_device_count={} '
    '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true '
    '--xla_cpu_use_fusion_emitters=false'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Processes that know of each other, and run the same.

  Attributes:
    folder: Gets what they print: 'stdout-<i>' and 'stderr-<i>'.
    commands: Of the binary, one after the other.
    code: Python to run before them, when the processes are joined.
    num_processes: One is told of no others.
    num_devices: Of each process.
  """

  folder: str
  commands: list[list[str]] = dataclasses.field(default_factory=list)
  code: str = ''
  num_processes: int = 1
  num_devices: int = 1


def run(*groups: Group) -> list[list[dict[str, Any]]]:
  """Runs groups one after the other; raises if a process ends by an error.

  Returns:
    What became of each process of each group: 'codes' of its commands, 'stdout'
    and 'stderr', 'written': the paths in the folder that Python wrote, and
    'read': the items of the training batches, [steps, rows, L].
  """
  raw = json.dumps([dataclasses.asdict(group) for group in groups])
  environment = {
      **os.environ,
      'PYTHONPATH': str(_ROOT),
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': f'{groups[0].folder}/cache',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'OPENBLAS_NUM_THREADS': '1',  # Threads and forks do not go together.
  }
  environment.pop('XLA_FLAGS', None)
  subprocess.run(
      [sys.executable, __file__, raw], env=environment, cwd=_ROOT, check=True,
      timeout=_TIMEOUT_SECS,
  )
  return [
      [_notes(group.folder, i) for i in range(group.num_processes)]
      for group in groups
  ]


def _notes(folder: str, number: int) -> dict[str, Any]:
  read = lambda name: pathlib.Path(folder, f'{name}-{number}').read_text()
  found = {name: read(name) for name in ('stdout', 'stderr')}
  return {**found, **json.loads(read('notes'))}


def _main(groups: list[Group]) -> int:
  """Forks each group; returns how many processes failed."""
  # pylint: disable=g-import-not-at-top,unused-import
  from clu import metric_writers
  from user_llm import embed, evaluate, infer, main, train

  for group in groups:
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    children = []
    for number in range(group.num_processes):
      children.append(os.fork())
      if not children[-1]:
        _child(group, number, port)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    if failed:
      for number in range(group.num_processes):
        path = pathlib.Path(group.folder, f'stderr-{number}')
        print(f'{path}:\n{path.read_text()}', file=sys.stderr)
      return failed
  return 0


def _child(group: Group, number: int, port: int) -> None:
  """One process; does not return."""
  for stream in (sys.stdout, sys.stderr):
    name = stream.name.strip('<>')
    path = pathlib.Path(group.folder, f'{name}-{number}')
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
  # Gloo's threads print too, and into other lines: with the errors.
  sys.stdout = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  os.environ['XLA_FLAGS'] = _FLAGS.format(group.num_devices)
  if group.num_processes > 1:
    os.environ |= {
        'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
        'JAX_NUM_PROCESSES': str(group.num_processes),
        'JAX_PROCESS_ID': str(number),
    }
  try:
    notes = _work(group)
    pathlib.Path(group.folder, f'notes-{number}').write_text(json.dumps(notes))
  except BaseException as error:
    sys.excepthook(type(error), error, error.__traceback__)
    os._exit(1)
  sys.exit()  # Leaves the other processes as they are to be left.


def _work(group: Group) -> dict[str, Any]:
  # pylint: disable=g-import-not-at-top
  import gin
  from user_llm.runtime import distributed
  from user_llm import main
  from user_llm.data import pipeline

  notes = {'codes': [], 'written': [], 'read': []}

  def audit(event: str, args: tuple[Any, ...]) -> None:
    if event == 'open' and args[2] & _WRITES or event == 'os.rename':
      if str(args[0]).startswith(group.folder):
        notes['written'].append(str(args[0]))

  train_batches = pipeline.Dataset.train_batches

  def noted(self, **settings):
    for batch in train_batches(self, **settings):
      notes['read'].append(batch['user_item'].tolist())
      yield batch

  pipeline.Dataset.train_batches = noted
  is_writer = distributed.initialize()
  distributed.initialize = lambda: is_writer  # Once, not for every command.
  exec(group.code, {})  # pylint: disable=exec-used
  sys.addaudithook(audit)
  for command in group.commands:
    gin.clear_config()
    notes['codes'].append(main.main(command))
  return notes


if __name__ == '__main__':
  sys.exit(_main([Group(**raw) for raw in json.loads(sys.argv[1])]))

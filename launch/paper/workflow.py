"""Runs what is missing in a folder, some at a time; the same again goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

from launch import exit_codes
from launch.paper import spec as spec_lib

_NEXT_ITEM = 'data/next_item.gin'
_AND_FAVOURITE = 'data/next_item_and_favourite.gin'
# argv -> returncode, its output in a log file.
Call = Callable[[Sequence[str], pathlib.Path], int]
_SKIPPED = -1
_LOCK = '.lock'
# The trainers of before have so long to save and end.
_WAIT_SECS = 70


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[Call]:
  """Runs commands as the only one who does so in a folder.

  A command that was started ends with us, saving first; until then, nobody else
  may begin.

  Yields:
    Runs a command, with all that it prints in a file.

  Raises:
    ValueError: somebody else does.
  """
  with (folder / _LOCK).open('w', encoding='utf-8') as lock:
    for i in range(_WAIT_SECS):
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if not i:
          print(f'waiting for what runs in {folder}', flush=True)
        time.sleep(1)
    else:
      raise ValueError(f'--out={folder}: another command is at work there.')

    def call(argv: Sequence[str], log: pathlib.Path) -> int:
      with log.open('ab') as file, subprocess.Popen(
          [sys.executable, '-m', 'launch.guard', *argv],
          stdin=subprocess.PIPE,
          stdout=file,
          stderr=subprocess.STDOUT,
          pass_fds=[lock.fileno()],  # Held as long as the command runs.
          env={'TF_CPP_MIN_LOG_LEVEL': '3', **os.environ},
      ) as process:
        return process.wait()

    yield call


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What all runs have in common.

  Attributes:
    data: The prepared dataset.
    label: 'genre' or 'category', what its items have; '' for none.
    vocabulary: A file of ours; None with pretrained weights.
    weights: Of a pretrained decoder; None without.
  """

  data: pathlib.Path
  label: str
  vocabulary: pathlib.Path | None
  weights: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A run with a seed, in its own folder."""

  run: spec_lib.Run
  seed: int
  folder: pathlib.Path  # Of all runs.

  @property
  def workdir(self) -> pathlib.Path:
    return workdir(self.folder, self.run.name, self.seed)

  @property
  def log(self) -> pathlib.Path:
    return self.folder / f'{self.workdir.name}.log'

  @property
  def is_done(self) -> bool:
    done = 'cost.json' if self.run.mode == 'cost' else 'DONE'
    return (self.workdir / done).exists()


def workdir(folder: pathlib.Path, run: str, seed: int) -> pathlib.Path:
  return folder / f'{run}-seed{seed}'


def make_jobs(
    runs: Sequence[spec_lib.Run], scale: spec_lib.Scale, folder: pathlib.Path
) -> list[Job]:
  """All of them; what a request costs has no seed but the first."""
  return [
      Job(run=run, seed=seed, folder=folder)
      for run in runs
      for seed in (scale.seeds[:1] if run.mode == 'cost' else scale.seeds)
  ]


def argv(job: Job, scale: spec_lib.Scale, inputs: Inputs) -> list[str]:
  """The command of a job."""
  run = job.run
  macros = scale.macros(run)
  macros |= {
      macro: str(workdir(job.folder, name, job.seed))
      for macro, name in run.needs.items()
  }
  files = list(run.gin)
  if _AND_FAVOURITE in files and inputs.label:
    macros['FAVOURITE_TASK'] = f'favourite_{inputs.label}'
  elif not inputs.label:
    files = [_NEXT_ITEM if f == _AND_FAVOURITE else f for f in files]
  reads_text = spec_lib.DECODER in spec_lib.load_runs()[run.name].gin
  if reads_text and inputs.weights:
    macros['WEIGHTS'] = inputs.weights
  elif reads_text:
    macros['VOCABULARY'] = str(inputs.vocabulary)
  if run.mode == 'cost':
    where = f'--output={job.workdir}'
    if not inputs.weights:
      macros['WEIGHTS'] = ''
  else:
    where = f'--workdir={job.workdir}'
    macros |= {'DATA_DIR': str(inputs.data), 'SEED': job.seed}
    if run.name != 'lm':
      files.append('data/test_at_the_end.gin')
  return [
      sys.executable, '-m', 'user_llm.main', run.mode,
      *(f'--gin_file={file}' for file in files),
      where,
      *(f'--gin.{name}={_literal(value)}' for name, value in macros.items()),
  ]


def _literal(value: Any) -> str:
  """As gin writes it; its lists are tuples here."""
  return repr(tuple(value) if isinstance(value, list) else value)


class Workflow:
  """Does jobs whose needs are done.

  Args:
    jobs: Those that others need come first.
    commands: By workdir.
    num_parallel: How many at a time.
    call: Does a command.
  """

  def __init__(
      self,
      jobs: Sequence[Job],
      commands: Mapping[pathlib.Path, Sequence[str]],
      num_parallel: int,
      call: Call,
  ):
    self._jobs = jobs
    self._commands = commands
    self._num_parallel = num_parallel
    self._call = call
    self._lock = threading.Lock()
    self._ended = 0
    self._secs: list[float] = []

  def run(self) -> dict[pathlib.Path, str]:
    """Why jobs have failed, by workdir; the others are done."""
    codes: dict[pathlib.Path, futures.Future[int]] = {}
    with futures.ThreadPoolExecutor(self._num_parallel) as pool:
      for job in self._jobs:
        # They were submitted before, so that they also begin before.
        needs = [
            codes[workdir(job.folder, name, job.seed)]
            for name in job.run.needs.values()
        ]
        codes[job.workdir] = pool.submit(self._do, job, needs)
    failed = {}
    for job in self._jobs:
      code = codes[job.workdir].result()
      if code == _SKIPPED:
        failed[job.workdir] = 'what it starts from has failed'
      elif code:
        reason = exit_codes.describe(exit_codes.of_process(code))
        failed[job.workdir] = f'{reason}; see {job.log}'
    return failed

  def _do(self, job: Job, needs: Sequence[futures.Future[int]]) -> int:
    if any(need.result() for need in needs):
      code, text = _SKIPPED, 'skipped: what it starts from has failed'
    elif job.is_done:
      code, text = 0, 'done before'
    else:
      start = time.monotonic()
      code = self._call(self._commands[job.workdir], job.log)
      secs = time.monotonic() - start
      text = f'{secs:,.0f} s'
      if code == 0 and not job.is_done:
        code, text = 1, 'ended without its result'
      elif code:
        code_text = exit_codes.describe(exit_codes.of_process(code))
        text = f'failed, {code_text}; {job.log} ends with:\n' + _tail(job.log)
      with self._lock:
        self._secs.append(secs)
    self._tell(job, text)
    return code

  def _tell(self, job: Job, text: str) -> None:
    with self._lock:
      self._ended += 1
      left = len(self._jobs) - self._ended
      line = f'{self._ended} of {len(self._jobs)}  {job.workdir.name}: {text}'
      if self._secs and left:
        mean = sum(self._secs) / len(self._secs) / self._num_parallel
        line += f'  (about {left * mean / 60:.1f} min left)'
      print(line, flush=True)


def _tail(log: pathlib.Path) -> str:
  lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
  return '\n'.join(f'  {line}' for line in lines[-5:])


def read_schema(data: pathlib.Path) -> tuple[str, tuple[str, ...]]:
  """What labels a dataset's items have, '' for none, and its events' texts.

  Raises:
    ValueError: it is no prepared dataset.
  """
  path = data / 'schema.json'
  if not path.is_file():
    raise ValueError(
        f'--data={data}: no {path.name} there. Prepare a dataset (python -m '
        'data_prep --help), or give --data=synthetic.'
    )
  schema = json.loads(path.read_text(encoding='utf-8'))
  names = [modality['name'] for modality in schema['modalities']]
  label = next((n for n in ('genre', 'category') if n in names), '')
  return label, tuple(schema.get('texts', ()))

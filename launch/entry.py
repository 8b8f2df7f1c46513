"""One process of a job: `python -m launch.entry FLAGS -- MODE ...`.

It checks that the job gets on, sets the environment, and becomes
`user_llm.main`: signals and the exit code are the trainer's own.
"""

import argparse
from collections.abc import Mapping, Sequence
import glob
import json
import os
import pathlib
import socket
import stat
import sys
import time

from launch import command
from launch import exit_codes

STARTS = 'launch.jsonl'
# Of `user_llm.runtime.starts`.
_STARTS_FILE = 'USER_LLM_STARTS_FILE'
_STARTS_LINE = 'USER_LLM_STARTS_LINE'
_LIBTPU_LOCK = '/tmp/libtpu_lockfile'
# Of the first that is set: runtime.distributed, SLURM, Kubernetes, tpu_host.
_RANK = (
    'JAX_PROCESS_ID', 'SLURM_PROCID', 'JOB_COMPLETION_INDEX', 'USER_LLM_WORKER'
)


def main(argv: Sequence[str] | None = None) -> int:
  """Returns only if the trainer does not start."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if argv and not argv[0].startswith('-'):
    argv = command.unpack(argv[0])
  args, main_args = _parse(argv)
  try:
    os.environ.update(_pairs(args.env))
    for name, reference in _pairs(args.secret).items():
      os.environ[name] = read_secret(name, reference)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return exit_codes.USER_ERROR
  _set_process_id(os.environ)
  rank = _rank(os.environ)
  print(
      f'launch: {args.job}, submission {args.submission}, rank '
      f'{rank or 0}, host {socket.gethostname()}, process {os.getpid()}',
      file=sys.stderr,
  )
  if is_first(os.environ):
    workdir = pathlib.Path(args.workdir)
    line = next_start(workdir, args.job, args.submission)
    if line is None:
      return exit_codes.NO_PROGRESS
    os.environ |= {_STARTS_FILE: str(workdir / STARTS), _STARTS_LINE: line}
  remove_stale_lock(_LIBTPU_LOCK)
  sys.stderr.flush()
  program = [sys.executable, '-m', 'user_llm.main', *main_args]
  os.execv(sys.executable, program)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  end = argv.index('--')
  parser = argparse.ArgumentParser(prog='launch.entry', allow_abbrev=False)
  parser.add_argument('--job', required=True)
  parser.add_argument('--submission', type=int, required=True)
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--env', action='append', default=[])
  parser.add_argument('--secret', action='append', default=[])
  return parser.parse_args(argv[:end]), argv[end + 1 :]


def _pairs(texts: Sequence[str]) -> dict[str, str]:
  return dict(text.split('=', 1) for text in texts)


def read_secret(name: str, reference: str) -> str:
  """The content of 'file:PATH', a file that nobody else can read."""
  path = pathlib.Path(reference.removeprefix('file:')).expanduser()
  if not path.is_file():
    raise ValueError(f'--secret={name}={reference}: there is no such file.')
  if stat.S_IMODE(path.stat().st_mode) & 0o077:
    raise ValueError(
        f'--secret={name}={reference}: others can read it. chmod 600 {path}'
    )
  return path.read_text(encoding='utf-8').strip()


def _set_process_id(environment: dict[str, str]) -> None:
  """In an indexed Job the pod's index is the process's."""
  index = environment.get('JOB_COMPLETION_INDEX')
  if 'JAX_NUM_PROCESSES' in environment and index is not None:
    environment.setdefault('JAX_PROCESS_ID', index)


def _rank(environment: Mapping[str, str]) -> str | None:
  return next((environment[n] for n in _RANK if n in environment), None)


def is_first(environment: Mapping[str, str]) -> bool:
  """Whether this is the first process of the job."""
  slice_id = environment.get('MEGASCALE_SLICE_ID', '0')
  return _rank(environment) in (None, '0') and slice_id == '0'


def next_start(
    workdir: pathlib.Path, job: str, submission: int
) -> str | None:
  """The line on this start; None if the job has started too often for nothing.

  The trainer writes it when all processes have met: waiting for machines that
  were taken away is not in vain. A job that is submitted again starts its count
  anew.
  """
  path = workdir / STARTS
  step = newest_step(workdir)
  starts = []
  if path.is_file():
    rows = map(json.loads, path.read_text(encoding='utf-8').splitlines())
    starts = [
        row for row in rows if (row['job'], row['submission']) == (job, submission)
    ]
  in_vain = sum(row['step'] == step for row in starts)
  if in_vain > exit_codes.MAX_RESTARTS_WITHOUT_PROGRESS:
    print(
        f'error: {job} was started {in_vain} times at step {step} and saved no '
        'new checkpoint, so it is not started again. Its logs say why; then: '
        f'python -m launch resume {job}',
        file=sys.stderr,
    )
    return None
  return json.dumps({
      'job': job,
      'submission': submission,
      'start': len(starts),
      'step': step,
      'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
      'host': socket.gethostname(),
  })


def newest_step(workdir: pathlib.Path) -> int:
  """Of the checkpoints; 0 if there is none."""
  names = [p.name for p in (workdir / 'checkpoints').glob('*') if p.is_dir()]
  return max((int(name) for name in names if name.isdecimal()), default=0)


def remove_stale_lock(
    lock: str, devices: Sequence[str] = ('/dev/accel*', '/dev/vfio/[0-9]*')
) -> None:
  """Removes libtpu's lock file, unless a process holds a TPU.

  One that was killed leaves it, and then every later one fails.
  """
  if not os.path.exists(lock):
    return
  held = {path for pattern in devices for path in glob.glob(pattern)}
  for link in glob.glob('/proc/[0-9]*/fd/*'):
    try:
      if os.readlink(link) in held:
        return
    except OSError:
      continue  # The process has ended, or is another user's.
  try:
    os.unlink(lock)
  except OSError as error:
    print(f'launch: cannot remove {lock}: {error}', file=sys.stderr)


if __name__ == '__main__':
  sys.exit(main())

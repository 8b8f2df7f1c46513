"""One attempt at a trial: `python -m launch.sweep.attempt LEASE -- COMMAND`.

Runs the command, keeps the lease fresh as long as it runs, and writes down how
it ended. It stands between worker and trainer so that a worker that is killed
leaves no trainer behind: when the pipe from the worker closes, the trainer is
told to save and end, and then killed.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from launch import entry
from launch import exit_codes
from launch import guard
from launch.sweep import lease as lease_lib

ATTEMPTS = 'attempts.jsonl'
LOG = 'trial.log'
RUN = 'run'
EXITED, LOST, STOPPED, IN_USE = 'exit', 'lost', 'stopped', 'in use'
# The trainer's process, while there is one.
_PID = 'pid-'
_POLL_SECS = 0.05
_KILL_SECS = 20.0
_LOG_LINES = 20


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the command's exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  end = argv.index('--')
  parser = argparse.ArgumentParser(prog='launch.sweep.attempt')
  parser.add_argument('lease', type=pathlib.Path)
  parser.add_argument('--beat_secs', type=float, required=True)
  parser.add_argument('--grace_secs', type=float, required=True)
  args = parser.parse_args(argv[:end])
  guard.ignore_signals()
  trial = args.lease.parent
  start_secs = time.monotonic()
  command = argv[end + 1 :]
  with (trial / LOG).open('ab') as log:
    log_start = log.tell()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
  pid_path = trial / f'{_PID}{lease_lib.number(args.lease):04d}'
  row = {'host': socket.gethostname(), 'pid': process.pid, 'command': command}
  pid_path.write_text(json.dumps(row), encoding='utf-8')
  is_stopped = _wait(process, args)
  pid_path.unlink(missing_ok=True)
  code = exit_codes.of_process(process.returncode)
  ended = IN_USE if code == exit_codes.IN_USE else EXITED
  with (trial / LOG).open('rb') as log:
    log.seek(log_start)
    lines = log.read().decode(errors='replace').splitlines()
  add_row(
      args.lease,
      ended=STOPPED if is_stopped else ended,
      code=code,
      secs=round(time.monotonic() - start_secs, 2),
      log=lines[-_LOG_LINES:] if code else [],
  )
  if is_stopped:
    lease_lib.release(args.lease)
  return code


def _wait(process: subprocess.Popen, args: argparse.Namespace) -> bool:
  """Until the command has ended; returns whether it was told to."""
  beat_at, kill_at = 0.0, float('inf')
  while process.poll() is None:
    now = time.monotonic()
    is_due = guard.is_alone()
    if now >= beat_at:
      beat_at = now + args.beat_secs
      # Of another, if this machine was asleep for longer than a lease lasts.
      if lease_lib.latest(args.lease.parent) == args.lease:
        args.lease.touch()
      else:
        is_due = True
    if is_due and kill_at == float('inf'):
      guard.signal_group(process.pid, signal.SIGTERM)
      kill_at = now + args.grace_secs
    if now >= kill_at:
      guard.signal_group(process.pid, signal.SIGKILL)
    time.sleep(_POLL_SECS)
  # What the command has started and left behind.
  guard.signal_group(process.pid, signal.SIGKILL)
  return kill_at < float('inf')


def kill_trainers(trial: pathlib.Path) -> None:
  """Kills those that lost attempts on this machine have left behind."""
  for path in trial.glob(f'{_PID}*'):
    try:
      row = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError:
      continue  # Its attempt was killed as it wrote this.
    if row['host'] != socket.gethostname():
      continue
    end = time.monotonic() + _KILL_SECS
    while _is_running(row) and time.monotonic() < end:
      guard.signal_group(row['pid'], signal.SIGKILL)
      time.sleep(_POLL_SECS)  # The next trainer needs its lock and memory.
    path.unlink(missing_ok=True)


def _is_running(row: Mapping[str, Any]) -> bool:
  """Whether the process is that trainer still: numbers are used again."""
  try:
    found = pathlib.Path(f'/proc/{row["pid"]}/cmdline').read_bytes()
  except OSError:
    return False
  return os.fsdecode(found).split('\0')[:-1] == row['command']


def rows(trial: pathlib.Path) -> list[dict]:
  """The attempts that have ended, by number."""
  path = trial / ATTEMPTS
  if not path.is_file():
    return []
  found = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      continue  # Cut off: the disk was full, or the machine went down.
  return sorted(found, key=lambda row: row['attempt'])


def add_row(lease: pathlib.Path, **values: object) -> None:
  """Writes down how an attempt ended: one line, added in one go."""
  trial = lease.parent
  row = {
      'attempt': lease_lib.number(lease),
      'step': entry.newest_step(trial / RUN),
      **values,
  }
  with (trial / ATTEMPTS).open('ab', buffering=0) as file:
    file.write(json.dumps(row).encode() + b'\n')


if __name__ == '__main__':
  sys.exit(main())

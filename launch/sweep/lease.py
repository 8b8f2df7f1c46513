"""Who runs a trial: files that one worker makes and keeps fresh.

A trial's leases are numbered, one an attempt: `lease-0001`, `lease-0002`. The
last one counts. Its holder touches it; once it has not been touched for too
long anyone may make the next one, which succeeds for one process (O_EXCL).
Nothing is ever deleted or renamed, so that nobody can take away a lease that
was made since he looked.
"""

import json
import os
import pathlib
import socket
import time

_PREFIX = 'lease-'


def take(trial: pathlib.Path, timeout_secs: float) -> pathlib.Path | None:
  """Makes the next lease of a trial, if the last one has run out."""
  held = latest(trial)
  if held is not None and is_fresh(held, timeout_secs):
    return None
  path = trial / f'{_PREFIX}{1 + (number(held) if held else 0):04d}'
  try:
    with path.open('x', encoding='utf-8') as file:
      json.dump({'owner': owner(), 'started': time.time()}, file)
  except FileExistsError:
    return None
  return path


def owner() -> str:
  return f'{socket.gethostname()}, process {os.getpid()}'


def latest(trial: pathlib.Path) -> pathlib.Path | None:
  return max(trial.glob(f'{_PREFIX}*'), key=number, default=None)


def number(lease: pathlib.Path) -> int:
  return int(lease.name.removeprefix(_PREFIX))


def is_held(trial: pathlib.Path) -> bool:
  """Whether somebody has a trial, or died with it a short while ago."""
  lease = latest(trial)
  return lease is not None and lease.stat().st_mtime > 0


def release(lease: pathlib.Path) -> None:
  """The next worker need not wait until it has run out."""
  os.utime(lease, (0, 0))


def is_fresh(lease: pathlib.Path, timeout_secs: float) -> bool:
  return _now(lease.parent) - lease.stat().st_mtime < timeout_secs


def _now(folder: pathlib.Path) -> float:
  """The time as the folder's file system has it: hosts' clocks may differ."""
  path = folder / f'.now-{socket.gethostname()}-{os.getpid()}'
  path.touch()
  now = path.stat().st_mtime
  path.unlink()
  return now

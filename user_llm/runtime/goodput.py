"""What a run's time went to, over all its sessions: `goodput.jsonl`.

A session is one process. It adds a line when it begins to train and one at each
log step, so that a kill loses what came after the last line; that time counts
as down.
"""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import time
from typing import Any

FILE = 'goodput.jsonl'

START = 'start'
STEPS = 'steps'
INPUT_WAIT = 'input_wait'
SAVING = 'saving'
EVALUATION = 'evaluation'
PROFILING = 'profiling'
SKIPPED = 'skipped'
LOST = 'lost'
DOWN = 'down'
_BUCKETS = {
    STEPS: 'steps',
    START: 'start',
    INPUT_WAIT: 'waiting for input',
    SAVING: 'saving',
    EVALUATION: 'evaluation',
    PROFILING: 'profiling',
    SKIPPED: 'steps that were skipped',
    LOST: 'steps that were trained again',
    DOWN: 'between sessions',
}
_TRAINING = (STEPS, INPUT_WAIT)
# When this process began: the binary imports this module before all that takes
# long. Taken by the first session.
_process_start = [time.monotonic()]


def session_start() -> float:
  """On the monotonic clock: the process's own start for its first session."""
  return _process_start.pop() if _process_start else time.monotonic()


class Log:
  """Appends to a workdir's `goodput.jsonl`.

  Args:
    workdir: Directory of the run, which exists.
    is_writer: False on all hosts but one: they write nothing.
  """

  def __init__(self, workdir: str, is_writer: bool = True):
    path = pathlib.Path(workdir) / FILE if is_writer else os.devnull
    self._file = open(path, 'ab+')
    if is_writer and self._file.tell():
      self._file.seek(-1, os.SEEK_END)
      if self._file.read() != b'\n':  # Killed in the middle of a line.
        self._file.write(b'\n')

  def session(self, step: int, start: float) -> None:
    """A session begins at a step; `start` is of the monotonic clock."""
    secs = time.monotonic() - start
    self._append('session', step, step, {START: secs}, began=time.time() - secs)

  def interval(self, first: int, last: int, secs: Mapping[str, float]) -> None:
    """Where the time has gone since the line before, by bucket.

    Args:
      first: The step it began at.
      last: The step that it has come to.
      secs: Other buckets than `LOST` and `DOWN`, which `summary` finds.
    """
    self._append('interval', first, last, secs)

  def _append(
      self, event: str, first: int, last: int, secs: Mapping[str, float],
      **fields: float,
  ) -> None:
    line = {
        'event': event,
        'time': round(time.time(), 3),
        'from': first,
        'to': last,
        'secs': {k: round(v, 4) for k, v in secs.items() if v >= 5e-5},
        **{name: round(value, 3) for name, value in fields.items()},
    }
    # A full disk is told of by the metrics, and no reason to end a training.
    with contextlib.suppress(OSError):
      self._file.write((json.dumps(line) + '\n').encode())
      self._file.flush()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()


def summary(workdir: str) -> dict[str, Any]:
  """Seconds by bucket, `sessions`, and `goodput`, the share of `steps`."""
  secs = dict.fromkeys(_BUCKETS, 0.0)
  sessions, last_time = 0, None
  # Steps that count: (from, to, seconds by bucket).
  trained: list[tuple[int, int, dict[str, float]]] = []
  for line in _lines(pathlib.Path(workdir) / FILE):
    for name, value in line['secs'].items():
      secs[name] += value
    if line['event'] == 'session':
      sessions += 1
      if last_time is not None:  # Clocks of two hosts may disagree.
        secs[DOWN] += max(0.0, line['began'] - last_time)
    last_time = line['time']
    _move_lost(trained, line['from'], secs)
    if line['from'] < line['to']:
      counted = {name: line['secs'].get(name, 0.0) for name in _TRAINING}
      trained.append((line['from'], line['to'], counted))
  total = sum(secs.values())
  return {
      'goodput': round(secs[STEPS] / total, 4) if total else 0.0,
      'sessions': sessions,
      **{name: round(value, 2) for name, value in secs.items()},
  }


def _move_lost(
    trained: list[tuple[int, int, dict[str, float]]],
    step: int,
    secs: dict[str, float],
) -> None:
  """Takes what was trained past a step out of `trained`; it counts as lost."""
  while trained and trained[-1][1] > step:
    first, last, spent = trained.pop()
    end = max(first, step)
    share = (last - end) / (last - first)
    for name, value in spent.items():
      secs[name] -= share * value
      secs[LOST] += share * value
    if end > first:
      kept = {name: (1 - share) * value for name, value in spent.items()}
      trained.append((first, end, kept))


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  found = []
  if not path.is_file():
    return found  # Somebody has deleted it.
  for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      continue  # The session was killed in the middle of this line.
  return found


def describe(found: Mapping[str, Any]) -> str:
  """'goodput 93 %: 412 s of steps, 20 s start, 8.1 s evaluation'."""
  parts = []
  for name, words in _BUCKETS.items():
    secs = found[name]
    shown = f'{secs:,.0f}' if secs >= 10 else f'{secs:.1f}'
    if name == STEPS:
      parts.append(f'{shown} s of {words}')
    elif secs >= 0.05:
      parts.append(f'{shown} s {words}')
  if found['sessions'] > 1:
    parts.append(f'{found["sessions"]} sessions')
  return f'goodput {100 * found["goodput"]:.0f} %: {", ".join(parts)}'

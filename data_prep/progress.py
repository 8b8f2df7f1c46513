"""Progress on stderr: a bar while a stage runs, one line when it is done.

And what is doubtful, but no error.
"""

from collections.abc import Iterator
import contextlib
import sys
import time

from rich import console as rich_console
from rich import progress as rich_progress


class _RateColumn(rich_progress.ProgressColumn):
  """Units a second of the running task."""

  def render(self, task: rich_progress.Task) -> str:
    if not task.speed:
      return ''
    return f'{task.speed:,.0f} {task.fields["unit"]}/s'


class Stage:
  """One running stage; `rows` is what its last line counts."""

  def __init__(self, bar: rich_progress.Progress, task: rich_progress.TaskID):
    self._bar = bar
    self._task = task
    self.rows = 0

  def describe(self, text: str) -> None:
    self._bar.update(self._task, description=text)

  def advance(self, amount: int) -> None:
    self._bar.advance(self._task, amount)


@contextlib.contextmanager
def stage(
    name: str, *, total: int | None = None, unit: str = 'rows'
) -> Iterator[Stage]:
  """Shows a bar (on a terminal) and then `name rows seconds rows/s`."""
  bar = rich_progress.Progress(
      rich_progress.TextColumn('{task.description}'),
      rich_progress.BarColumn(),
      rich_progress.TaskProgressColumn(),
      _RateColumn(),
      rich_progress.TimeRemainingColumn(),
      console=rich_console.Console(stderr=True),
      transient=True,
      disable=not sys.stderr.isatty(),
  )
  start_secs = time.monotonic()
  with bar:
    running = Stage(bar, bar.add_task(name, total=total, unit=unit))
    yield running
  secs = time.monotonic() - start_secs
  line = f'data_prep: {name:<18} {secs:7.1f} s'
  if running.rows:
    line += f'  {running.rows:>12,} rows  {running.rows / secs:>12,.0f} rows/s'
  print(line, file=sys.stderr, flush=True)


def warn(text: str) -> None:
  print(f'data_prep: warning: {text}', file=sys.stderr, flush=True)

"""Bad steps: skipped and counted; several in a row go back, and at last end it.

Bad are a loss or gradient that is not finite, and a spike of the loss. The
compiled step leaves parameters and optimizer as they were, see
`trainer.Trainer`; this module tells the user, sends a run back to its last
checkpoint without the data since, and stops one that cannot go on.
"""

import collections
from collections.abc import Mapping
import json
import math
import pathlib
import shutil
import sys
from typing import Any

import numpy as np

from user_llm import atomic

# A step's scalar: 1 if it changed nothing, see `trainer.Trainer`.
SKIPPED = 'skipped'
_FOLDER = 'bad_steps'
_ROLLBACKS_FILE = 'rollbacks.json'


class TooManyInARow(FloatingPointError):
  """Steps `first` to `last` were bad."""

  def __init__(self, message: str, first: int, last: int):
    super().__init__(message)
    self.first = first
    self.last = last


class BadSteps:
  """Watches the steps of a run.

  Args:
    workdir: Gets a folder `bad_steps` with what broke the run.
    max_in_a_row: So many steps in a row that are skipped end the run.
    is_writer: False on all hosts but one.
  """

  def __init__(self, workdir: str, max_in_a_row: int, is_writer: bool = True):
    self._folder = pathlib.Path(workdir) / _FOLDER
    self._max_in_a_row = max_in_a_row
    self._is_writer = is_writer
    self._in_a_row = 0
    self._pending: tuple[int, Mapping[str, Any]] | None = None
    self._batches: collections.deque[tuple[int, Mapping[str, np.ndarray]]] = (
        collections.deque(maxlen=max_in_a_row + 1)
    )
    self._rows: list[dict[str, float]] = []

  def log(
      self,
      step: int,
      scalars: Mapping[str, Any],
      batch: Mapping[str, np.ndarray],
  ) -> None:
    """Looks at the step before, which the device has finished by now.

    Args:
      step: Number of steps done, this one included.
      scalars: Of this step, on the device.
      batch: This host's part of its batch.

    Raises:
      TooManyInARow: so many steps in a row were skipped.
    """
    self.flush()
    self._batches.append((step, batch))
    self._pending = step, scalars

  def flush(self) -> None:
    """Looks at the last step; see `log`."""
    if self._pending is None:
      return
    step, scalars = self._pending
    self._pending = None
    if not float(scalars.get(SKIPPED, 0)):
      self._in_a_row, self._rows = 0, []
      return
    self._in_a_row += 1
    row = {name: float(value) for name, value in scalars.items()}
    self._rows.append({'step': step, **row})
    what = ', '.join(f'{name} {row[name]}' for name in ('loss', 'grad_norm'))
    is_finite = all(math.isfinite(row[k]) for k in ('loss', 'grad_norm'))
    why = 'its loss is a spike' if is_finite else 'it is not finite'
    if self._is_writer:
      print(
          f'warning: step {step} is skipped, {why}: {what}.',
          file=sys.stderr, flush=True,
      )
    if self._in_a_row >= self._max_in_a_row:
      self._write()
      first = step - self._in_a_row + 1
      raise TooManyInARow(
          f'Steps {first} to {step} were bad, in the last one {why} ({what}); '
          'the parameters are as before them. Their batches and gradient norms '
          f'are in {self._folder}. Start again with a smaller LEARNING_RATE or '
          'more warm-up, or allow more with MAX_BAD_STEPS.',
          first,
          step,
      )

  def _write(self) -> None:
    """What one needs to find out why."""
    if not self._is_writer:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    bad = {row['step'] for row in self._rows}
    for step, batch in self._batches:
      if step in bad:
        with (self._folder / f'batch-{step}.npz').open('wb') as file:
          np.savez_compressed(file, allow_pickle=False, **batch)
    # JSON has no NaN.
    rows = [
        {k: v if math.isfinite(v) else str(v) for k, v in row.items()}
        for row in self._rows
    ]
    text = json.dumps(rows, indent=1, allow_nan=False) + '\n'
    (self._folder / 'scalars.json').write_text(text, encoding='utf-8')
    config = self._folder.parent / 'config.gin'
    if config.is_file():
      shutil.copy(config, self._folder)


class Rollbacks:
  """Which batches a run leaves out, because it went back before them.

  They are in the workdir's `rollbacks.json`, so that a run that is killed
  leaves out the same ones when it starts again.

  Args:
    workdir: Of the run.
    limit: How many there may be.
    is_writer: False on all hosts but one.
  """

  def __init__(self, workdir: str, limit: int, is_writer: bool = True):
    self._path = pathlib.Path(workdir) / _ROLLBACKS_FILE
    self._limit = limit
    self._is_writer = is_writer
    self._rows: list[dict[str, int]] = []
    if self._path.is_file():
      self._rows = json.loads(self._path.read_text(encoding='utf-8'))

  def num_skipped(self, step: int) -> int:
    """Batches that a run which starts after `step` leaves out.

    What it went back from later is forgotten: it comes there again.
    """
    kept = [row for row in self._rows if row['to_step'] <= step]
    if len(kept) < len(self._rows):
      self._rows = kept
      self._write()
    return sum(row['num_batches'] for row in self._rows)

  def check_limit(self, error: TooManyInARow) -> None:
    """Raises `error` if there were enough of them."""
    if len(self._rows) >= self._limit:
      raise error

  def add(self, to_step: int, error: TooManyInARow) -> None:
    """Notes that the run is back at a step, leaving out the data since."""
    self._rows.append({
        'to_step': to_step,
        'first_bad_step': error.first,
        'last_bad_step': error.last,
        'num_batches': error.last - to_step,
    })
    self._write()
    if self._is_writer:
      print(
          f'warning: steps {error.first} to {error.last} were bad: back to '
          f'step {to_step}, without the {error.last - to_step} batches since '
          f'({len(self._rows)} of at most {self._limit} times).',
          file=sys.stderr, flush=True,
      )

  def _write(self) -> None:
    if self._is_writer:
      atomic.write_text(self._path, json.dumps(self._rows, indent=1) + '\n')

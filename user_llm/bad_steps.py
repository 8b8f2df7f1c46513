"""Steps whose loss or gradient is not finite: skipped, counted, and at last fatal.

The compiled step itself leaves parameters and optimizer as they were, see
`trainer.Trainer`; this module tells the user, and stops a run that cannot go on.
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

from user_llm import run_logging

_FOLDER = 'bad_steps'


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
      FloatingPointError: too many steps in a row were skipped.
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
    if not float(scalars.get(run_logging.SKIPPED, 0)):
      self._in_a_row, self._rows = 0, []
      return
    self._in_a_row += 1
    row = {name: float(value) for name, value in scalars.items()}
    self._rows.append({'step': step, **row})
    what = ', '.join(f'{name} {row[name]}' for name in ('loss', 'grad_norm'))
    if self._is_writer:
      print(
          f'warning: step {step} is skipped, it is not finite: {what}.',
          file=sys.stderr, flush=True,
      )
    if self._in_a_row >= self._max_in_a_row:
      self._write()
      raise FloatingPointError(
          f'Steps {step - self._in_a_row + 1} to {step} were not finite '
          f'({what}); the parameters are as before them. Their batches and '
          f'gradient norms are in {self._folder}. Start again with a smaller '
          'LEARNING_RATE or more warm-up, or allow more with MAX_BAD_STEPS.'
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

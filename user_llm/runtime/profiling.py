"""A trace of a few steps, for TensorBoard's profiler or Perfetto."""

import pathlib
from typing import Any

import jax

_FOLDER = 'profile'


def check_steps(steps: Any, num_steps: int) -> None:
  """Raises ValueError if `steps` is neither None nor (first, last)."""
  if steps is None:
    return
  is_sequence = isinstance(steps, (tuple, list))
  is_pair = is_sequence and [type(step) for step in steps] == [int, int]
  if not is_pair or not 1 <= steps[0] <= steps[1] <= num_steps:
    raise ValueError(
        f'PROFILE_STEPS is {steps!r}; it must be None or (FIRST, LAST) with 1 '
        f'<= FIRST <= LAST <= NUM_STEPS={num_steps}.'
    )


class Profile:
  """Traces chosen steps, and waits for the device before and after them.

  Args:
    workdir: Gets a folder `profile`.
    steps: The first and the last one; None: none at all.
  """

  def __init__(self, workdir: str, steps: tuple[int, int] | None):
    self._folder = pathlib.Path(workdir) / _FOLDER
    self._first, self._last = steps or (0, 0)
    self._is_on = False
    self._step: jax.profiler.StepTraceAnnotation | None = None

  def before(self, step: int, previous: Any) -> None:
    """Starts the trace if it is due; `previous` is what must be done first."""
    if step == self._first:
      jax.block_until_ready(previous)
      jax.profiler.start_trace(str(self._folder))
      self._is_on = True
    if self._is_on:
      self._step = jax.profiler.StepTraceAnnotation('train', step_num=step)
      self._step.__enter__()

  def after(self, step: int, outputs: Any) -> None:
    """Ends the trace if it is due, when `outputs` of the step are there."""
    if not self._is_on:
      return
    if step >= self._last:
      jax.block_until_ready(outputs)
    self._end_step()
    if step >= self._last:
      self.close()

  def close(self) -> None:
    """Writes what is being traced, if anything is."""
    self._end_step()
    if self._is_on:
      self._is_on = False
      jax.profiler.stop_trace()

  def _end_step(self) -> None:
    if self._step is not None:
      self._step.__exit__(None, None, None)
      self._step = None

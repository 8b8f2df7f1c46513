"""Leaves a run at a step that all hosts agree on, when SIGTERM comes."""

import os
import signal
import sys
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils

# Of a process that has saved and wants to be started again.
EXIT_CODE = 42
# What saving and leaving may take, beside three times the longest step so far.
_MARGIN_SECS = 10.0
# A job's processes may get one signal twice: from the queue, and from a parent
# that passes it on.
_SAME_SECS = 5.0


class Watch:
  """Tells after which step to stop. A context manager, around the training.

  Several processes: JAX catches SIGTERM and the hosts agree on a step; one
  that is signalled alone takes the others with it. A second SIGTERM does not
  wait for the save: the checkpoint before is left.

  Args:
    deadline: On the clock `time.monotonic`: when the process will be killed. It
      signals itself while there is time for three more of the longest steps so
      far, evaluations and saves included.

  Attributes:
    reason: Why, once it is due, for a message.
  """

  def __init__(self, deadline: float | None = None):
    self.reason = 'SIGTERM'
    self._is_alone = jax.process_count() == 1
    self._is_signalled = False
    self._signalled_secs = 0.0
    self._old_handler: Any = None
    self._deadline = deadline
    self._last_secs: float | None = None
    self._longest_secs = 0.0

  def __enter__(self) -> 'Watch':
    is_main = threading.current_thread() is threading.main_thread()
    if self._is_alone and is_main:
      self._old_handler = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(self, *unused: Any) -> None:
    if self._old_handler is not None:
      signal.signal(signal.SIGTERM, self._old_handler)

  def _on_signal(self, number: int, unused_frame: Any) -> None:
    now = time.monotonic()
    if not self._signalled_secs:
      self._is_signalled, self._signalled_secs = True, now
    elif now - self._signalled_secs > _SAME_SECS:
      os.write(2, b'A second SIGTERM: the last checkpoint is an older one.\n')
      os._exit(128 + number)

  def is_due(self, step: int) -> bool:
    """Whether to save and stop after this step; asked at every step."""
    self._watch_deadline()
    if self._is_alone:
      return self._is_signalled
    return multihost_utils.reached_preemption_sync_point(step)

  def _watch_deadline(self) -> None:
    if self._deadline is None:
      return
    now = time.monotonic()
    if self._last_secs is not None:
      self._longest_secs = max(self._longest_secs, now - self._last_secs)
    self._last_secs = now
    left = self._deadline - now
    if left < _MARGIN_SECS + 3 * self._longest_secs:
      print(f'{left:.0f} s before --deadline.', file=sys.stderr, flush=True)
      self._deadline = None
      self.reason = '--deadline'
      if self._is_alone:
        self._is_signalled = True
      else:
        os.kill(os.getpid(), signal.SIGTERM)  # For JAX to tell the others.

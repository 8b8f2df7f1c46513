"""Leaves a run at a step that all hosts agree on, when SIGTERM comes."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

# Of a process that has saved and wants to be started again.
EXIT_CODE = 42


class Watch:
  """Tells after which step to stop. A context manager, around the training.

  Several processes: JAX catches SIGTERM and the hosts agree on a step; one
  that is signalled alone takes the others with it.
  """

  def __init__(self):
    self._is_alone = jax.process_count() == 1
    self._is_signalled = False
    self._old_handler: Any = None

  def __enter__(self) -> 'Watch':
    is_main = threading.current_thread() is threading.main_thread()
    if self._is_alone and is_main:
      self._old_handler = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(self, *unused: Any) -> None:
    if self._old_handler is not None:
      signal.signal(signal.SIGTERM, self._old_handler)

  def _on_signal(self, *unused: Any) -> None:
    self._is_signalled = True

  def is_due(self, step: int) -> bool:
    """Whether to save and stop after this step; asked at every step."""
    if self._is_alone:
      return self._is_signalled
    return multihost_utils.reached_preemption_sync_point(step)

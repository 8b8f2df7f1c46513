"""Ends a process that does not get on, after it has shown where it hangs."""

import faulthandler
import os
import sys
import threading
import time

EXIT_CODE = 43

_last_secs = 0.0


def beat() -> None:
  """Tells that the process gets on: a step, or a batch of an evaluation."""
  global _last_secs
  _last_secs = time.monotonic()


class Watchdog:
  """Watches the beats of this process, as a context manager.

  A process that waits for another one's part of a step hangs too, so that each
  rank watches itself, and one that was stopped is found by the others.

  Args:
    timeout_secs: Longest time without a beat; 0: forever.
  """

  def __init__(self, timeout_secs: float):
    self._timeout_secs = timeout_secs
    self._over = threading.Event()

  def __enter__(self) -> 'Watchdog':
    beat()
    if self._timeout_secs:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *unused: object) -> None:
    self._over.set()

  def _watch(self) -> None:
    pause_secs = min(1.0, self._timeout_secs / 4)
    seen, secs = _last_secs, 0.0
    while not self._over.wait(pause_secs):
      # Not by the clock: it goes on while the whole process is stopped.
      secs = secs + pause_secs if seen == _last_secs else 0.0
      seen = _last_secs
      if secs >= self._timeout_secs:
        print(
            f'error: no step for {secs:.0f} s '
            f'(HANG_SECS={self._timeout_secs}). This is where every thread is; '
            f'it ends with exit code {EXIT_CODE} and can be started again.',
            file=sys.stderr, flush=True,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        sys.stderr.flush()
        os._exit(EXIT_CODE)  # A thread that hangs cannot be joined.

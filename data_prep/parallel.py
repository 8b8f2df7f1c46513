"""Runs a function over files, in processes if there is much to do."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import multiprocessing
import os
import signal
from typing import Any, TypeVar

_POLL_SECS = 0.5

_Job = TypeVar('_Job')
_Result = TypeVar('_Result')

# Of a worker process: bytes done, and whether it shall stop.
_shared: tuple[Any, Any] | None = None


def map_files(
    function: Callable[[_Job, Callable[[int], None]], _Result],
    jobs: Sequence[_Job],
    *,
    advance: Callable[[int], None],
    processes: int | None = None,
) -> Iterator[_Result]:
  """Yields `function(job, advance)` of each job, in order.

  Args:
    function: Of a module's top level; it calls `advance(bytes)` now and then.
    jobs: What it is called with; pickled.
    advance: Told how many bytes were done since it was last told.
    processes: How many; by default one a core, one for a single job.
  """
  processes = min(processes or len(os.sched_getaffinity(0)), len(jobs))
  if processes <= 1:
    for job in jobs:
      yield function(job, advance)
    return
  # A fork of a process that has threads, as Polars starts them, may hang.
  context = multiprocessing.get_context('spawn')
  done_bytes, stop = context.Value('q', 0), context.Event()
  told_bytes = 0
  with concurrent.futures.ProcessPoolExecutor(
      processes, context, _start_worker, (done_bytes, stop)
  ) as pool:
    futures = [pool.submit(_work, function, job) for job in jobs]
    try:
      for future in futures:
        while not future.done():
          concurrent.futures.wait([future], _POLL_SECS)
          advance(done_bytes.value - told_bytes)
          told_bytes = done_bytes.value
        yield future.result()
    finally:
      # The pool's exit waits for what runs.
      stop.set()
      pool.shutdown(cancel_futures=True)


def _start_worker(done_bytes: Any, stop: Any) -> None:
  global _shared
  _shared = done_bytes, stop
  # Ctrl-C reaches all processes; the parent tells these ones to stop.
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(function: Callable[..., _Result], job: Any) -> _Result:
  done_bytes, stop = _shared

  def advance(num_bytes: int) -> None:
    if stop.is_set():
      raise InterruptedError('another file failed, or the run was stopped')
    with done_bytes.get_lock():
      done_bytes.value += num_bytes

  return function(job, advance)

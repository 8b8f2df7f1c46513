"""Watches a training: seconds a step, throughput, goodput, a profile.

All is timed on the host. A step's time is that between two steps, which is the
device's once the host runs ahead of it. The first step of a session waits for
the input to start, and counts as start.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from user_llm import run_logging
from user_llm import topologies
from user_llm import trainer as trainer_lib
from user_llm.runtime import bad_steps
from user_llm.runtime import goodput
from user_llm.runtime import hosts
from user_llm.runtime import profiling

# Batch keys whose rows x length are counted, padding too, by what they hold.
_COUNTED = {
    'input_tokens': 'tokens', 'user_mask': 'events', 'segment_ids': 'events'
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
  """A step's seconds.

  Attributes:
    total: Without saving and evaluation.
    wait: For the batch.
    host: From asking for the batch until the device has been given its work.
    skipped: Whether it changed nothing, on the device.
  """

  total: float
  wait: float
  host: float
  skipped: run_logging.Scalar


class Vitals:
  """Times the steps of a session. A context manager, around all of them.

  In each step: `next_batch`, the step itself, `step`; what else takes time in
  `timed`. All hosts do the same.

  Args:
    workdir: Gets `goodput.jsonl` and the profile.
    trainer: Of these steps.
    batch_spec: Shapes of a batch, over all hosts.
    start_step: The restored step, 0 for a new run.
    num_steps: The step at which training ends.
    log_every_steps: Metrics are of so many steps.
    profile_steps: The first and the last one to trace, or None.
  """

  def __init__(
      self,
      workdir: str,
      trainer: trainer_lib.Trainer,
      batch_spec: Mapping[str, Any],
      *,
      start_step: int,
      num_steps: int,
      log_every_steps: int,
      profile_steps: tuple[int, int] | None = None,
  ):
    is_writer = jax.process_index() == 0
    self._workdir = workdir
    self._sizes = _sizes(batch_spec)
    self._peak_secs = _peak_secs(trainer, batch_spec)
    self._num_steps = num_steps
    self._log_every_steps = log_every_steps
    self._profile = profiling.Profile(
        workdir, profile_steps if is_writer else None
    )
    self._log = goodput.Log(workdir, is_writer)
    self._last = self._logged = start_step
    self._scalars: Mapping[str, run_logging.Scalar] = {}
    self._is_started = False
    # Of the steps since the last metrics.
    self._steps: list[_Step] = []
    # Those of which it was not read yet whether they were skipped.
    self._unread: list[_Step] = []
    # By bucket, since the last line of goodput.jsonl.
    self._secs: dict[str, float] = {}
    # When the step before ended, and what was done since that is no step.
    self._mark = self._aside = 0.0
    self._asked = self._wait = 0.0

  def __enter__(self) -> 'Vitals':
    self._log.session(self._last, goodput.session_start())
    self._mark = time.monotonic()
    return self

  def __exit__(self, exc_type: type[BaseException] | None, *unused: Any):
    try:
      self._profile.close()
    finally:
      # After the last step it is waited for what is being saved.
      self._add(
          goodput.SAVING if self._is_started else goodput.START,
          time.monotonic() - self._mark - self._aside,
      )
      # After an error it may be unreadable, or the cause, what a step gave.
      self._write(is_readable=exc_type is None)
      self._log.close()

  def next_batch(
      self, batches: Iterator[Mapping[str, np.ndarray]]
  ) -> Mapping[str, np.ndarray]:
    """The next batch; a step begins."""
    with self.timed(goodput.PROFILING):
      self._profile.before(self._last + 1, self._scalars)
    self._asked = time.monotonic()
    batch = next(batches)
    self._wait = time.monotonic() - self._asked
    return batch

  def step(
      self, step: int, scalars: Mapping[str, run_logging.Scalar]
  ) -> dict[str, run_logging.Scalar]:
    """A step was given to the device; it is not waited for.

    Args:
      step: Number of steps done, this one included.
      scalars: What the step gives, on the device.

    Returns:
      Metrics if they are due, else {}.
    """
    now = time.monotonic()
    if step != self._last + 1:  # The run went back to a checkpoint.
      self._write()
      self._logged = step - 1
    self._last, self._scalars = step, scalars
    total = now - self._mark - self._aside
    if self._is_started:
      found = _Step(
          total=total, wait=self._wait, host=now - self._asked,
          skipped=scalars.get(bad_steps.SKIPPED, 0),
      )
      self._steps.append(found)
      self._unread.append(found)
    else:
      self._add(goodput.START, total)
    is_due = step % self._log_every_steps == 0 or step == self._num_steps
    if is_due or not self._is_started:
      # The device has not finished this step yet, but those before it.
      self._write(keep=1)
    self._is_started = True
    self._mark, self._aside = now, 0.0
    with self.timed(goodput.PROFILING):
      self._profile.after(step, scalars)
    return self._metrics() if is_due else {}

  @contextlib.contextmanager
  def timed(self, bucket: str) -> Iterator[None]:
    """What takes time between steps: a bucket of `goodput`."""
    begun = time.monotonic()
    try:
      yield
    finally:
      secs = time.monotonic() - begun
      self._aside += secs
      self._add(bucket, secs)

  def _add(self, bucket: str, secs: float) -> None:
    self._secs[bucket] = self._secs.get(bucket, 0.0) + secs

  def _write(self, keep: int = 0, is_readable: bool = True) -> None:
    """Adds a line to goodput.jsonl; the last `keep` steps are in the next."""
    read = self._unread[: len(self._unread) - keep]
    del self._unread[: len(read)]
    for step in read:
      is_skipped = is_readable and float(step.skipped)
      self._add(goodput.INPUT_WAIT, step.wait)
      self._add(
          goodput.SKIPPED if is_skipped else goodput.STEPS,
          step.total - step.wait,
      )
    last = self._last - len(self._unread)
    self._log.interval(self._logged, last, self._secs)
    self._secs, self._logged = {}, last

  def _metrics(self) -> dict[str, run_logging.Scalar]:
    """Of the steps since the last time."""
    steps, self._steps = self._steps, []
    if not steps:
      return {}
    totals = [step.total for step in steps]
    mean = sum(totals) / len(totals)
    p50, p95 = np.quantile(totals, (0.5, 0.95))
    found = {
        'time/step_secs': mean,
        'time/step_secs_p50': p50,
        'time/step_secs_p95': p95,
        'time/input_wait_secs': sum(step.wait for step in steps) / len(steps),
        **{f'perf/{k}_per_sec': v / mean for k, v in self._sizes.items()},
    }
    if self._peak_secs is not None:
      found['perf/mfu'] = self._peak_secs / mean
    own = float(np.median([step.host for step in steps]))
    slowest = hosts.slowest(own)
    if slowest:
      found['time/host_secs'] = own
    return found | {f'time/{name}': value for name, value in slowest.items()}


def _sizes(batch_spec: Mapping[str, Any]) -> dict[str, int]:
  """Rows, tokens and events of a batch."""
  rows = next(iter(batch_spec.values())).shape[0]
  return {'rows': rows} | {
      what: math.prod(batch_spec[key].shape)
      for key, what in _COUNTED.items()
      if key in batch_spec
  }


def _peak_secs(
    trainer: trainer_lib.Trainer, batch_spec: Mapping[str, Any]
) -> float | None:
  """What a step's matrix products take at the devices' peak, if it is known."""
  devices = trainer.mesh.devices
  peak = topologies.peak_flops(devices.flat[0].device_kind)
  if peak is None:
    return None
  flops = trainer.step_flops(batch_spec, with_remat=False)
  return flops / (peak * devices.size)

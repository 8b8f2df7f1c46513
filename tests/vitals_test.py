"""Tests of step times and what follows from them, with the test's own clock."""

import itertools
import types

import jax
import numpy as np
import pytest

from user_llm import topologies
from user_llm import vitals as vitals_lib
from user_llm.runtime import goodput

_SPEC = {
    'user_mask': jax.ShapeDtypeStruct((4, 50), np.bool_),
    'input_tokens': jax.ShapeDtypeStruct((4, 20), np.int32),
}


class _Flag:
  """Whether a step was skipped; notes when it is read."""

  def __init__(self, step, reads, value):
    self._step, self._reads, self._value = step, reads, value

  def __float__(self):
    self._reads.append(self._step)
    return self._value


class _Run:
  """A training whose steps take what the test says."""

  def __init__(self, monkeypatch, workdir, **changes):
    self.now = 1000.0
    self.reads = []
    time = types.SimpleNamespace(
        time=lambda: self.now, monotonic=lambda: self.now
    )
    monkeypatch.setattr(vitals_lib, 'time', time)
    monkeypatch.setattr(goodput, 'time', time)
    monkeypatch.setattr(goodput, 'session_start', lambda: self.now - 20)
    trainer = types.SimpleNamespace(
        mesh=types.SimpleNamespace(devices=np.array(jax.devices()[:2])),
        step_flops=lambda spec, with_remat: 0 if with_remat else 8e12,
    )
    self.workdir = str(workdir)
    self.vitals = vitals_lib.Vitals(
        self.workdir, trainer, _SPEC,
        **dict(start_step=0, num_steps=99, log_every_steps=5) | changes,
    )

  def step(self, step, secs, wait=0.0, skipped=0.0):
    def batches():
      self.now += wait
      yield {}

    self.vitals.next_batch(batches())
    self.now += secs - wait
    return self.vitals.step(
        step, {'skipped': _Flag(step, self.reads, skipped)}
    )

  def evaluate(self, secs):
    with self.vitals.timed(goodput.EVALUATION):
      self.now += secs


def test_metrics_of_an_interval(monkeypatch, tmp_path):
  monkeypatch.setitem(topologies._PEAKS, 'cpu', 2)
  run = _Run(monkeypatch, tmp_path)
  with run.vitals:
    assert not run.step(1, 30)  # Compiles, and fills the queue.
    for step, secs in ((2, 1), (3, 2), (4, 3)):
      assert not run.step(step, secs, wait=0.5)
    run.evaluate(100)
    found = run.step(5, 10, wait=0.5)
    assert found == pytest.approx({
        'time/step_secs': 4,
        'time/step_secs_p50': 2.5,
        'time/step_secs_p95': 3 + 0.85 * 7,
        'time/input_wait_secs': 0.5,
        'perf/rows_per_sec': 1,
        'perf/tokens_per_sec': 20,
        'perf/events_per_sec': 50,
        # 8 TFLOP in 4 s on two devices of 2 TFLOP/s.
        'perf/mfu': 0.5,
    })
    for step in range(6, 10):
      assert not run.step(step, 1)
    assert run.step(10, 1)['time/step_secs'] == 1


def test_no_peak_no_utilisation(monkeypatch, tmp_path):
  def forbidden(spec, with_remat):
    raise AssertionError('The FLOPs are not needed.')

  run = _Run(monkeypatch, tmp_path, log_every_steps=1)
  assert vitals_lib._peak_secs(
      types.SimpleNamespace(
          mesh=types.SimpleNamespace(devices=np.array(jax.devices())),
          step_flops=forbidden,
      ), _SPEC
  ) is None
  with run.vitals:
    assert not run.step(1, 1)
    found = run.step(2, 1)
  assert 'time/step_secs' in found and 'perf/mfu' not in found


def test_the_last_step_is_due(monkeypatch, tmp_path):
  run = _Run(monkeypatch, tmp_path, start_step=5, num_steps=7)
  with run.vitals:
    assert not run.step(6, 1)
    assert run.step(7, 1)


def test_no_step_is_waited_for(monkeypatch, tmp_path):
  """The metrics of a step ask nothing of it that the device has yet to do."""
  run = _Run(monkeypatch, tmp_path)
  with run.vitals:
    for step in range(1, 13):
      run.step(step, 1)
      assert all(read < step for read in run.reads)
  assert run.reads == list(range(2, 13))


def test_goodput(monkeypatch, tmp_path):
  run = _Run(monkeypatch, tmp_path)
  with run.vitals:
    run.step(1, 30)
    for step in range(2, 9):
      run.step(step, 2, wait=0.5, skipped=float(step == 5))
    run.evaluate(8)
    with run.vitals.timed(goodput.SAVING):
      run.now += 3
    run.now += 1  # The end of the saving.
  found = goodput.summary(run.workdir)
  assert found['start'] == 20 + 30
  assert found['steps'] == 6 * 1.5 and found['skipped'] == 1.5
  assert found['input_wait'] == 7 * 0.5
  assert found['evaluation'] == 8 and found['saving'] == 4
  assert found['lost'] == 0


def test_an_error_reads_nothing(monkeypatch, tmp_path):
  run = _Run(monkeypatch, tmp_path)
  with pytest.raises(KeyboardInterrupt), run.vitals:
    for step in itertools.count(1):
      run.step(step, 1)
      if step == 8:
        raise KeyboardInterrupt
  assert run.reads == [2, 3, 4]
  assert goodput.summary(run.workdir)['steps'] == 7


def test_started_again_at_its_first_step(monkeypatch, tmp_path):
  """All that the first session trained is lost, its last step too."""
  for stop in (8, 3):
    run = _Run(monkeypatch, tmp_path, log_every_steps=2)
    with run.vitals:
      for step in range(1, stop + 1):
        run.step(step, 1)
  found = goodput.summary(run.workdir)
  assert (found['lost'], found['steps'], found['sessions']) == (7, 2, 2)


def test_going_back_to_a_checkpoint(monkeypatch, tmp_path):
  """In the same session: what is trained again was lost the first time."""
  run = _Run(monkeypatch, tmp_path)
  with run.vitals:
    for step in (*range(1, 9), *range(7, 12)):
      run.step(step, 1)
  found = goodput.summary(run.workdir)
  assert found['sessions'] == 1
  assert found['lost'] == 2 and found['steps'] == 10


def test_a_profile(monkeypatch, tmp_path):
  run = _Run(monkeypatch, tmp_path, profile_steps=(2, 2))
  with run.vitals:
    for step in range(1, 4):
      run.step(step, 1)
  assert len(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == 1

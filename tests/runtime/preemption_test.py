"""Tests of SIGTERM: it saves the step it is in, and resuming is exact."""

import itertools
import json
import signal
import subprocess
import sys

import pytest
import small_run

from user_llm import checkpoints
from user_llm import trainer as trainer_lib
from user_llm.runtime import preemption
from user_llm.train import train


def test_watch():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.Watch() as watch:
    assert not watch.is_due(1)
    signal.raise_signal(signal.SIGTERM)
    assert watch.is_due(2)
  assert signal.getsignal(signal.SIGTERM) == before


def _losses(workdir):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}


def test_a_signalled_run_goes_on_bit_by_bit(
    tiny_dataset, tmp_path, compilation_cache, monkeypatch, capsys
):
  whole = small_run.arguments(tiny_dataset, tmp_path / 'whole', evaluators=())
  train(**whole)
  stopped = {**whole, 'workdir': str(tmp_path / 'stopped')}
  device_batch = trainer_lib.Trainer.device_batch
  calls = []

  def signalled(self, batch):
    calls.append(batch)
    if len(calls) == 6:
      signal.raise_signal(signal.SIGTERM)
    return device_batch(self, batch)

  with monkeypatch.context() as context:
    context.setattr(trainer_lib.Trainer, 'device_batch', signalled)
    with pytest.raises(SystemExit) as stop:
      train(**stopped)
  assert stop.value.code == preemption.EXIT_CODE == 42
  assert 'saving step 6' in capsys.readouterr().err
  saved = tmp_path / 'stopped' / 'checkpoints'
  assert {p.name for p in saved.iterdir()} == {'4', '6'}
  assert not (tmp_path / 'stopped' / 'DONE').exists()

  train(**stopped)
  assert _losses(tmp_path / 'stopped') == _losses(tmp_path / 'whole')
  assert (tmp_path / 'stopped' / 'DONE').exists()


def test_a_deadline(
    tiny_dataset, tmp_path, compilation_cache, monkeypatch, capsys
):
  """By a clock on which each step takes 5 s, it leaves 25 s before."""
  monkeypatch.setattr(
      preemption.time, 'monotonic', itertools.count(0, 5).__next__
  )
  with pytest.raises(SystemExit) as stop:
    train(**small_run.arguments(
        tiny_dataset, tmp_path, evaluators=(), hang_secs=0, deadline=60
    ))
  assert stop.value.code == preemption.EXIT_CODE
  assert 'before --deadline' in capsys.readouterr().err
  steps = checkpoints.Checkpoints(str(tmp_path)).steps()
  assert steps[-1] not in (4, 8, 12)


_TWO_SIGNALS = '''
import signal
from user_llm.runtime import preemption
now = 100.0
preemption.time.monotonic = lambda: now
with preemption.Watch() as watch:
  for now in (100, 100.1, 104):  # The same one, passed on by a parent.
    signal.raise_signal(signal.SIGTERM)
    assert watch.is_due(1)
  now = 106
  try:
    signal.raise_signal(signal.SIGTERM)
  finally:
    print('not here')
'''


def test_a_second_signal_does_not_wait():
  done = subprocess.run(
      [sys.executable, '-c', _TWO_SIGNALS],
      capture_output=True, text=True, timeout=60, check=False,
  )
  assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, '')
  assert 'second SIGTERM' in done.stderr

"""Tests of metrics files, progress and `run.json`."""

import json
import math
import os
import pathlib
import pty
import subprocess
import sys

import jax.numpy as jnp
import pytest

from user_llm import run_logging


def _rows(workdir: pathlib.Path) -> list[dict[str, float]]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


class _Lazy:
  """A metric that notes when it is read."""

  def __init__(self, value: float, reads: list[float]):
    self._value = value
    self._reads = reads

  def __float__(self) -> float:
    self._reads.append(self._value)
    return self._value


def test_a_step_is_read_at_the_next_one(tmp_path):
  reads = []
  with run_logging.RunLogger(
      str(tmp_path), num_steps=5, log_every_steps=2
  ) as logger:
    for step in range(1, 6):
      logger.log(step, {'loss': _Lazy(float(step), reads)})
      assert reads == [float(s) for s in (2, 4) if s < step]
  assert reads == [2.0, 4.0, 5.0]
  rows = _rows(tmp_path)
  assert [row['step'] for row in rows] == [2, 4, 5]
  assert [row['train/loss'] for row in rows] == [2.0, 4.0, 5.0]
  assert rows[0]['train/wall_secs'] >= 0


def test_device_arrays_and_evaluations(tmp_path):
  with run_logging.RunLogger(
      str(tmp_path), num_steps=1, log_every_steps=1
  ) as logger:
    logger.log(1, {'loss': jnp.float32(0.5), 'learning_rate': 1e-3})
    logger.write(1, {'eval/x/user_llm/recall@1/all': 0.25})
  first, second = _rows(tmp_path)
  assert first['train/loss'] == 0.5
  assert first['train/learning_rate'] == 1e-3
  assert second == {'step': 1, 'eval/x/user_llm/recall@1/all': 0.25}
  assert list((tmp_path / 'tensorboard').glob('events.out.tfevents.*'))


def test_resume_drops_later_and_broken_lines(tmp_path):
  lines = [{'step': 2, 'train/wall_secs': 50.0}, {'step': 4}, {'step': 6}]
  (tmp_path / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines) + '{"step": 4, "tr'
  )
  with run_logging.RunLogger(
      str(tmp_path), num_steps=5, start_step=4, log_every_steps=1
  ) as logger:
    assert logger.wall_secs >= 50
    logger.log(5, {'loss': 1.0})
  assert [row['step'] for row in _rows(tmp_path)] == [2, 4, 5]
  assert _rows(tmp_path)[-1]['train/wall_secs'] >= 50


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, value):
  with pytest.raises(FloatingPointError, match='in steps 3 to 4'):
    with run_logging.RunLogger(
        str(tmp_path), num_steps=9, log_every_steps=2
    ) as logger:
      for step in range(1, 9):
        loss = value if step > 3 else 1.0
        logger.log(step, {'loss': loss, 'accuracy': value})
  assert [row['step'] for row in _rows(tmp_path)] == [2]


def test_plain_progress(tmp_path, capsys):
  with run_logging.RunLogger(
      str(tmp_path), num_steps=3, log_every_steps=1, progress_every_secs=0
  ) as logger:
    for step in range(1, 4):
      logger.log(step, {'loss': step / 8})
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3
  assert lines[1].startswith('step 2/3  loss 0.1250')  # Of the step before.
  assert lines[-1].startswith('step 3/3  loss 0.3750')
  assert 'steps/s' in lines[-1] and '0:00:00 left' in lines[-1]


def test_evaluations_are_shown(tmp_path, capsys):
  with run_logging.RunLogger(
      str(tmp_path), num_steps=3000, log_every_steps=1
  ) as logger:
    logger.write(1500, {
        'eval/reads/encoder_head/recall@10/all': 0.2,
        'eval/reads/encoder_head/recall@10/unseen': 0.25,
        'eval/reads/encoder_head/ndcg@10/unseen': 0.125,
        'eval/reads_favourite/user_llm/accuracy': 1.0,
    })
  assert capsys.readouterr().err.splitlines() == [
      'step 1,500  reads/encoder_head  recall@10/unseen 0.2500  '
      'ndcg@10/unseen 0.1250',
      'step 1,500  reads_favourite/user_llm  accuracy 1.0000',
  ]


def test_bar_on_a_terminal(tmp_path):
  code = (
      'from user_llm import run_logging as r\n'
      f'with r.RunLogger({str(tmp_path)!r}, num_steps=2, log_every_steps=1)'
      ' as l:\n'
      '  for s in (1, 2): l.log(s, {"loss": 0.125})\n'
      '  l.write(2, {"eval/x/row/accuracy": 0.5})\n'
  )
  controller, terminal = pty.openpty()
  subprocess.run(
      [sys.executable, '-c', code],
      stderr=terminal,
      check=True,
      env={**os.environ, 'COLUMNS': '100', 'TERM': 'xterm'},
  )
  os.close(terminal)
  shown = os.read(controller, 100_000).decode()
  os.close(controller)
  assert 'step 2/2' in shown
  assert 'loss 0.1250' in shown
  assert 'step 2  x/row  accuracy 0.5000' in shown


def test_run_info_is_merged(tmp_path):
  workdir = tmp_path / 'my_run'
  run_logging.write_run_info(str(workdir), seed=3)
  first = json.loads((workdir / 'run.json').read_text())
  run_logging.write_run_info(str(workdir), wall_secs=1.5)
  second = json.loads((workdir / 'run.json').read_text())
  assert second == {**first, 'wall_secs': 1.5}
  assert second['name'] == 'my_run'
  assert second['seed'] == 3
  assert 'cores' in second['hardware'] and ' x cpu' in second['hardware']
  assert second['command'].startswith('python ')

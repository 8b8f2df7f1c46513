"""Tests of checking many variants in one process."""

import json

import gin
import pytest

from user_llm import main as main_lib
from user_llm import trainer

_GIN = '''
include 'models/user_encoder.gin'
include 'runs/pretrain_encoder.gin'

ENCODER_LAYERS = 1
ENCODER_DIM = 16
ENCODER_HEADS = 2
ENCODER_MLP_DIM = 16
HISTORY_LENGTH = 12
NUM_STEPS = 8
LEARNING_RATE = 1e-2
WARMUP_STEPS = 2
'''


@pytest.fixture(name='check')
def _check(tmp_path, tiny_dataset, monkeypatch):
  """Returns the base's line and those of the variants."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  (tmp_path / 'tiny.gin').write_text(_GIN)
  flags = [
      f'--gin_file={tmp_path / "tiny.gin"}',
      f'--input={tmp_path / "in"}',
      f'--output={tmp_path / "out"}',
  ]

  def check(*variants, more=()):
    data = f'DATA_DIR="{tiny_dataset}"'
    lines = [json.dumps([data, *variant]) + '\n' for variant in variants]
    (tmp_path / 'in').write_text(''.join(lines))
    assert main_lib.main(['check', *flags, *more]) == 0
    base, *rows = map(json.loads, (tmp_path / 'out').read_text().splitlines())
    return base, rows

  gin.clear_config()
  yield check
  gin.clear_config()


def test_values_are_as_gin_reads_them(check):
  base, rows = check(*(
      ['BATCH_SIZE=8', f'LEARNING_RATE={text}', 'SEED=3']
      for text in ('1', '1.0', '1e0')
  ))
  # What is required and not set is not the base's mistake.
  assert base['error'] is None and 'ENCODER_DIM = 16' in base['config']
  assert base['values']['ENCODER_DIM'] == '16'
  assert base['values']['BATCH_SIZE'] == '%gin.REQUIRED'
  assert [row['error'] for row in rows] == [None] * 3
  assert {row['values']['LEARNING_RATE'] for row in rows} == {'1.0'}
  assert rows[0]['values']['SEED'] == '3'
  gin.clear_config()
  gin.parse_config(rows[0]['config'])
  assert gin.query_parameter('%SEED') == 3


def test_every_mistake_is_told(check):
  rows_of = 'BATCH_SIZE=8'
  _, rows = check(
      ['BATCH_SIZE=8', 'LEARNING_RATE="abc"'],
      ['BATCH_SIZE="abc"'],
      [rows_of, 'NUM_STEP=9'],
      [rows_of, 'NUM_STEPS="9"'],
      [rows_of, 'MAX_EVAL_EXAMPLES="x"'],  # The file has None.
      [rows_of, 'ENCODER_HEADS=3'],
      [rows_of, 'WARMUP_STEPS=8'],
      [],
      [rows_of],
  )
  expected = [
      'Write the number without quotes: --gin.LEARNING_RATE=abc',
      "train.batch_size = BATCH_SIZE: it takes int, not 'abc'",
      'Did you mean NUM_STEPS',
      '--gin.NUM_STEPS=9',
      "max_eval_examples = MAX_EVAL_EXAMPLES: it takes int | None, not 'x'",
      'embed_dim=16 is not divisible by num_heads=3',
      'NUM_STEPS=8 leaves no step after WARMUP_STEPS=8',
      'Add --gin.BATCH_SIZE=...',
  ]
  for row, message in zip(rows, expected):
    assert message in row['error']
    assert 'In call to' not in row['error']
  assert rows[-1]['error'] is None


def test_shapes_that_do_not_fit(check, monkeypatch):
  """A step is traced; one is enough for variants that differ in SEED alone."""
  traced = []

  def step(self, state, batch):
    traced.append(self.seed)
    assert batch['user_item'].shape[0] == 8
    return state.step @ batch['user_item']

  monkeypatch.setattr(trainer.Trainer, '_step', step)
  variants = [
      ['BATCH_SIZE=8', f'LEARNING_RATE={rate}', f'SEED={seed}']
      for rate in (1, 2) for seed in (0, 1)
  ]
  _, rows = check(*variants)
  for row in rows:
    # No mistake of the user's: with the error's type and place.
    assert row['error'].startswith('ValueError: matmul input operand 0')
    assert '.py:' in row['error']
  assert traced == [0, 1, 0, 1]  # What failed is no proof for the next.

  monkeypatch.setattr(
      trainer.Trainer, '_step', lambda self, *_: traced.append(self.seed)
  )
  traced.clear()
  _, rows = check(*variants)
  assert [row['error'] for row in rows] == [None] * 4
  assert traced == [0, 0]


def test_a_base_that_cannot_be_read(check, tmp_path):
  base, rows = check(['SEED=1'], more=['--gin_file=nothing.gin'])
  assert 'nothing.gin: no such file' in base['error'] and not rows

"""The smallest encoder and its data, for tests of the training stack."""

import functools
from typing import Any

from user_llm import evaluator
from user_llm import optimizers
from user_llm import restore
from user_llm import trainer
from user_llm.data import pipeline
from user_llm.models import user_encoder
from user_llm.objectives import next_event

HISTORY_LENGTH = 12
BATCH_SIZE = 8


@functools.cache
def dataset(data_dir: str) -> pipeline.Dataset:
  return pipeline.Dataset(
      data_dir=data_dir,
      task='events',
      history_length=HISTORY_LENGTH,
      modalities=('item', 'genre'),
  )


def objective(data_dir: str, **fields: Any) -> next_event.NextEvent:
  sizes = dict(
      num_layers=1, embed_dim=16, num_heads=4, mlp_dim=32,
      feature_embed_dim=8,
  )
  encoder = user_encoder.UserEncoderConfig(
      schema=dataset(data_dir).schema, **{**sizes, **fields}
  )
  return next_event.NextEvent(encoder=encoder)


@functools.cache
def spec(data_dir: str) -> dict[str, Any]:
  """Shapes of a training batch, as far as the objective reads it."""
  return trainer.select_batch(
      dataset(data_dir).batch_spec('train', BATCH_SIZE),
      objective(data_dir).batch_keys,
  )


@functools.cache
def batches(data_dir: str, num_steps: int) -> list[dict[str, Any]]:
  """The first batches of a run with seed 0."""
  found = dataset(data_dir).train_batches(batch_size=BATCH_SIZE, seed=0)
  return [next(found) for _ in range(num_steps)]


def trained_run(data_dir: str, **changes: Any) -> restore.TrainedRun:
  """What reads a run of `arguments` must know of it."""
  made = arguments(data_dir, '')
  names = ('objective', 'dataset', 'optimizer', 'num_steps', 'batch_size')
  return restore.TrainedRun(**{name: made[name] for name in names} | changes)


def arguments(data_dir: str, workdir: Any, **changes: Any) -> dict[str, Any]:
  """Of `train.train`, for a run of 12 steps with a checkpoint every 4."""
  return dict(
      workdir=str(workdir),
      objective=objective(data_dir),
      dataset=dataset(data_dir),
      optimizer=optimizers.AdamW(learning_rate=0.01, warmup_steps=2),
      evaluators=[
          evaluator.RankingEvaluator(dataset=dataset(data_dir), batch_size=16)
      ],
      num_steps=12,
      batch_size=BATCH_SIZE,
      log_every_steps=1,
      save_every_steps=4,
  ) | changes

"""Workdirs of tiny models with random parameters, as training leaves them."""

import copy
import pathlib
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from user_llm import checkpoints
from user_llm import gin_utils
from user_llm import restore
from user_llm import train_state
from user_llm import trainer
from user_llm.data import pipeline
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.objectives import conditioned_lm

HISTORY_LENGTH = 12
_ENCODER = f'''
include 'models/user_encoder.gin'
ENCODER_LAYERS = 1
ENCODER_DIM = 16
ENCODER_HEADS = 2
ENCODER_MLP_DIM = 16
HISTORY_LENGTH = {HISTORY_LENGTH}
NUM_STEPS = 200
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
'''
ENCODER = "include 'runs/pretrain_encoder.gin'\n" + _ENCODER
DUAL_ENCODER = "include 'runs/pretrain_dual_encoder.gin'\n" + _ENCODER
LATE_FUSION = (
    'from __gin__ import dynamic_registration\n'
    'from user_llm.models import user_encoder\n'
    + ENCODER
    + 'FUSION = @user_encoder.LateFusion()\n'
)
_MODEL = '''
include 'models/decoder_small.gin'
include 'models/no_resampler.gin'
include 'runs/contextualize.gin'
DECODER_LAYERS = 1
DECODER_DIM = 16
DECODER_HEADS = 2
DECODER_KV_HEADS = 1
DECODER_HEAD_DIM = 8
DECODER_MLP_DIM = 16
SCAN_UNROLL = 1
TARGETS_PER_EXAMPLE = 2
ENCODER_CHECKPOINT = ''
DECODER_CHECKPOINT = ''
TASK_SHARES = (1, 1)
BEAM_SIZE = 64
INIT_FROM = ()
''' + _ENCODER
USER_LLM = "include 'data/next_item_and_favourite.gin'\n" + _MODEL
REVIEWS = '''
from __gin__ import dynamic_registration
from user_llm.decoding import generate
include 'data/next_item_and_review.gin'
''' + _MODEL + '''
TEXT_LENGTH = 60
evaluation/generate.GenerationConfig.max_tokens = 12
'''


def write_workdir(
    workdir: pathlib.Path, config: str, **macros: Any
) -> tuple[dict[str, Any], Any]:
  """Saves a config and a checkpoint of step 3 with random parameters.

  Returns:
    What the macros OBJECTIVE, DATASET, OPTIMIZER, TEST_EVALUATORS stand for, in
    lower case, and the parameters.
  """
  workdir.mkdir(parents=True)
  path = workdir / 'config.gin'
  lines = [f'{name} = {value!r}\n' for name, value in macros.items()]
  path.write_text(config + ''.join(lines))
  gin.clear_config()
  gin_utils.load_config([str(path)])
  names = ('OBJECTIVE', 'DATASET', 'OPTIMIZER', 'TEST_EVALUATORS')
  parts = {n.lower(): copy.deepcopy(gin.query_parameter(f'%{n}')) for n in names}
  gin.clear_config()

  one_device = jax.make_mesh(
      (1, 1, 1), ('replica', 'data', 'model'), devices=jax.devices()[:1],
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  owner = trainer.Trainer(
      objective=parts['objective'],
      optimizer=parts['optimizer'].make(200),
      mesh=one_device,
  )
  spec = trainer.select_batch(
      parts['dataset'].batch_spec('train', 8), parts['objective'].batch_keys
  )
  rng = np.random.default_rng(0)
  # The shapes alone are asked for: nothing is compiled.
  state = jax.tree.map(
      lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype),
      owner.abstract_state(spec),
  )
  state = state._replace(step=jnp.int32(3))
  saved = checkpoints.Checkpoints(str(workdir))
  saved.save(state, parts['dataset'].identity)
  saved.wait()
  return parts, train_state.merge(state.trainable, state.frozen)


def trained_run(parts: dict[str, Any]) -> restore.TrainedRun:
  """What reads a workdir of `write_workdir` must know of it."""
  names = ('objective', 'dataset', 'optimizer')
  return restore.TrainedRun(
      num_steps=200, batch_size=8, **{name: parts[name] for name in names}
  )


def answer_scores(
    objective: conditioned_lm.ConditionedLM,
    params: Any,
    dataset: pipeline.Dataset,
    users: dict[str, np.ndarray],
) -> np.ndarray:
  """f[B, A]: log p of every answer of a task, each scored by itself.

  Args:
    objective: The model.
    params: Of the model.
    dataset: Its answers, by their ids from 1.
    users: `UserLLMConfig.user_keys` and `prompt_tokens` of B users.
  """
  answers = [row[row > 0].tolist() for row in dataset.answers.tokens[1:]]
  questions = [
      [token for token in prompt if token][1:]
      for prompt in users['prompt_tokens'][:, 0].tolist()
  ]
  width = max(map(len, questions)) + max(map(len, answers))
  target = np.zeros((len(questions), len(answers), width), np.int32)
  weights = np.zeros(target.shape, np.float32)
  for i, question in enumerate(questions):
    for j, answer in enumerate(answers):
      stop = len(question) + len(answer)
      target[i, j, :stop] = question + answer
      weights[i, j, len(question) : stop] = 1
  inputs = np.insert(target, 0, vocabulary_lib.BOS_ID, axis=2)[:, :, :-1]
  batch = {key: users[key] for key in objective.model.user_keys}
  batch |= {
      'input_tokens': inputs, 'target_tokens': target, 'loss_weights': weights
  }
  batch['history_end'] = np.tile(users['history_end'], (1, len(answers)))
  return -np.asarray(jax.jit(objective.predict)(params, batch)['answer_nats'])

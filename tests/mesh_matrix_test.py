"""Every model trains alike on every mesh: the table of meshes and models.

Three steps in float32, from random parameters (gates are open), with dropout.
The short suite has a few of them; the rest is slow.
"""

import copy
import dataclasses
import functools

import gin
import jax
import numpy as np
import pytest

import small_user_llm
from user_llm import gin_utils
from user_llm import optimizers
from user_llm import partitioning
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.data import item_features
from user_llm.objectives import softmax

pytestmark = pytest.mark.usefixtures('compilation_cache')

_STEPS = 3
_BATCH_SIZE = 16
# Heads and widths that four parts divide.
_SIZES = '''
ENCODER_HEADS = 4
ENCODER_DIM = 16
ENCODER_DROPOUT = 0.1
'''
_USER_LLM = small_user_llm.USER_LLM + _SIZES + '''
include 'models/perceiver.gin'
DECODER_LAYERS = 2
DECODER_HEADS = 4
DECODER_KV_HEADS = 4
RESAMPLER_LAYERS = 1
RESAMPLER_LATENTS = 4
RESAMPLER_DIM = 16
RESAMPLER_HEADS = 4
RESAMPLER_MLP_DIM = 16
TARGETS_PER_EXAMPLE = 4
'''
_TEXT_PROMPT = '''
include 'models/decoder_small.gin'
include 'data/next_item_and_favourite.gin'
include 'runs/text_prompt.gin'
DECODER_LAYERS = 2
DECODER_DIM = 16
DECODER_HEADS = 4
DECODER_KV_HEADS = 4
DECODER_HEAD_DIM = 8
DECODER_MLP_DIM = 16
SCAN_UNROLL = 1
HISTORY_LENGTH = 12
TARGETS_PER_EXAMPLE = 2
PROMPT_TOKENS = 40
TASK_SHARES = (1, 1)
DECODER_CHECKPOINT = ''
INIT_FROM = ()
NUM_STEPS = 10
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
'''
_BERT4REC = small_user_llm.ENCODER.replace(
    'pretrain_encoder', 'pretrain_bert4rec'
)


def _with(config, *files):
  return config + ''.join(f"include '{file}'\n" for file in files)


_CONFIGS = {
    'encoder': small_user_llm.ENCODER + _SIZES,
    'sampled softmax': small_user_llm.ENCODER + _SIZES,
    'late fusion': small_user_llm.LATE_FUSION + _SIZES,
    'dual encoder': small_user_llm.DUAL_ENCODER + _SIZES,
    'BERT4Rec': _BERT4REC + _SIZES,
    'full': _with(_USER_LLM, 'strategies/full.gin'),
    'enc': _with(_USER_LLM, 'strategies/enc.gin'),
    'lora': _with(_USER_LLM, 'strategies/lora.gin'),
    'proj': _with(_USER_LLM, 'strategies/proj.gin'),
    'soft prompt': _with(_USER_LLM, 'models/soft_prompt.gin'),
    'no Perceiver': _with(_USER_LLM, 'models/no_resampler.gin'),
    'text prompt': _TEXT_PROMPT,
    # Dropout would draw anew for each part.
    'microbatches': _USER_LLM + 'ENCODER_DROPOUT = 0.0\nDECODER_DROPOUT = 0.0\n',
    'remat': _with(_USER_LLM, 'strategies/full.gin'),
}
_MESHES = {
    '1x1': None,
    '8x1': partitioning.MeshConfig(data=8),
    '2x4': partitioning.MeshConfig(data=2, model=4),
    '4x2': partitioning.MeshConfig(data=4, model=2),
    '2x2x2': partitioning.MeshConfig(replica=2, data=2, model=2),
}
# trainer_test.py has more of the encoder.
_SHORT = {
    (name, '2x4')
    for name in ('sampled softmax', 'BERT4Rec', 'full', 'soft prompt')
}


def _mesh(name):
  if _MESHES[name] is not None:
    return _MESHES[name].make()
  return jax.make_mesh(
      (1, 1, 1),
      partitioning.MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
      devices=jax.devices()[:1],
  )


@pytest.fixture(name='load', scope='module')
def _load(tiny_dataset, tiny_vocabulary, tmp_path_factory):
  """By name: objective, dataset, and path regexes of what trains."""

  @functools.cache
  def load(name):
    config = _CONFIGS[name] + f'DATA_DIR = {tiny_dataset!r}\n'
    if 'VOCABULARY' in config or 'decoder' in config:
      config += f'VOCABULARY = {tiny_vocabulary!r}\n'
    path = tmp_path_factory.mktemp('mesh') / 'config.gin'
    path.write_text(config)
    gin.clear_config()
    gin_utils.load_config([str(path)])
    parts = [
        copy.deepcopy(gin.query_parameter(f'%{macro}'))
        for macro in ('OBJECTIVE', 'DATASET', 'TRAINABLE')
    ]
    gin.clear_config()
    objective, dataset, trainable = parts
    if name == 'sampled softmax':
      features = item_features.load_item_features(
          data_dir=tiny_dataset, split_rule=dataset.split_rule
      )
      objective = dataclasses.replace(
          objective,
          item_softmax=softmax.SampledSoftmax(
              features=features, num_negatives=8
          ),
      )
    if name == 'remat':
      decoder = dataclasses.replace(objective.model.decoder, remat=True)
      objective = dataclasses.replace(
          objective,
          model=dataclasses.replace(objective.model, decoder=decoder),
      )
    return objective, dataset, trainable

  return load


@pytest.fixture(name='run', scope='module')
def _run(load):
  """By name and mesh: the steps' scalars, and the state behind them."""

  @functools.cache
  def run(name, mesh):
    objective, dataset, trainable = load(name)
    trainer = trainer_lib.Trainer(
        objective=objective,
        optimizer=optimizers.AdamW(learning_rate=0.01, warmup_steps=1).make(10),
        mesh=_mesh(mesh),
        trainable=trainable,
        num_microbatches=2 if name == 'microbatches' and mesh != '1x1' else 1,
    )
    spec = trainer_lib.select_batch(
        dataset.batch_spec('train', _BATCH_SIZE), objective.batch_keys
    )
    abstract = trainer.abstract_state(spec)
    rng = np.random.default_rng(0)
    flat = train_state.flatten(
        train_state.merge(abstract.trainable, abstract.frozen)
    )
    params = {
        path: jax.device_put(
            0.3 * rng.normal(size=x.shape).astype(x.dtype), x.sharding
        )
        for path, x in sorted(flat.items())
    }
    state = trainer.start_state(abstract, params)
    step = trainer.compile_step(state, spec)
    scalars = []
    batches = dataset.train_batches(batch_size=_BATCH_SIZE, seed=0)
    for _ in range(_STEPS):
      batch = next(batches)
      state, out = step(
          state, trainer.device_batch({key: batch[key] for key in spec})
      )
      scalars.append(jax.device_get(out))
    return scalars, state

  return run


@pytest.mark.parametrize(
    ['name', 'mesh'],
    [
        pytest.param(
            name, mesh,
            marks=() if (name, mesh) in _SHORT else pytest.mark.slow,
        )
        for name in _CONFIGS
        for mesh in _MESHES
        if mesh != '1x1'
    ],
)
def test_losses_are_those_of_one_device(run, name, mesh):
  found, wanted = run(name, mesh)[0], run(name, '1x1')[0]
  for step, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
    for key, value in mine.items():
      np.testing.assert_allclose(
          value, theirs[key], rtol=1e-5, err_msg=f'step {step}: {key}'
      )


@pytest.mark.parametrize(
    'name',
    ['full', *(pytest.param(n, marks=pytest.mark.slow) for n in ('encoder', 'lora'))],
)
def test_nothing_large_is_held_twice(run, name):
  """Every table and kernel, and its moments, lies in parts on a 2x4 mesh."""
  _, state = run(name, '2x4')
  abstract = train_state.flatten(state.trainable)
  tables = 0
  for path, x in abstract.items():
    if path.endswith('/table'):
      assert x.sharding.shard_shape(x.shape)[0] == x.shape[0] // 4, path
      tables += 1
    elif path.endswith('/kernel') and min(x.shape) > 4:
      assert not x.sharding.is_fully_replicated, path
  assert tables or name == 'lora'
  by_shape = {}
  for path, x in abstract.items():
    by_shape.setdefault(x.shape, set()).add(x.sharding.spec)
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert len(moments) == 2 * len(abstract)
  for x in moments:
    assert x.sharding.spec in by_shape[x.shape]

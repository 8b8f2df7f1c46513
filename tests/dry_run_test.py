"""What the four strategies and rematerialisation cost in memory."""

import dataclasses
import math

import gin
import jax
import numpy as np
import pytest

from user_llm import dry_run
from user_llm import gin_utils
from user_llm import optimizers
from user_llm import partitioning
from user_llm import trainer as trainer_lib
from user_llm.data import schema
from user_llm.models import cross_attention
from user_llm.models import decoder_config
from user_llm.models import lora
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm

_STRATEGIES = ('full', 'lora', 'enc', 'proj')
_SCHEMA = schema.EventSchema(
    name='tiny', modalities=(schema.Modality(name='item', size=12),)
)
_SMALL = dict(num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8)


def _decoder(**fields):
  return decoder_config.DecoderConfig(
      vocab_size=100, num_layers=8, embed_dim=32, num_heads=2, num_kv_heads=2,
      head_dim=16, mlp_dim=96, **fields,
      cross_attention=cross_attention.CrossAttentionConfig(
          every=1, num_heads=1, num_kv_heads=1, head_dim=4
      ),
  )


def _trainer(decoder, trainable, **fields):
  model = user_llm.UserLLMConfig(
      decoder=decoder,
      user_encoder=user_encoder.UserEncoderConfig(schema=_SCHEMA, **_SMALL),
      resampler=resampler.ResamplerConfig(num_latents=2, **_SMALL),
  )
  return trainer_lib.Trainer(
      objective=conditioned_lm.ConditionedLM(model=model),
      optimizer=optimizers.AdamW(learning_rate=0.1, warmup_steps=1).make(9),
      mesh=partitioning.MeshConfig().make(),
      trainable=trainable,
      **fields,
  )


def _spec(length=64):
  i32 = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
  events, text = (8, 6), (8, 2, length)
  return {
      'user_item': i32(*events),
      'user_mask': jax.ShapeDtypeStruct(events, np.bool_),
      'positions': i32(*events),
      'segment_ids': i32(*events),
      'history_end': i32(*text[:2]),
      'input_tokens': i32(*text),
      'target_tokens': i32(*text),
      'loss_weights': jax.ShapeDtypeStruct(text, np.float32),
  }


def _trainable(strategy):
  gin.clear_config()
  gin.parse_config_file(
      str(gin_utils.DEFAULT_SEARCH_PATH / f'strategies/{strategy}.gin')
  )
  found = gin.query_parameter('%TRAINABLE')
  gin.clear_config()
  return found


@pytest.fixture(name='states', scope='module')
def _states():
  """The abstract state of each strategy, as its gin file says."""
  states = {}
  for name in _STRATEGIES:
    updates = lora.LoraConfig(rank=2) if name == 'lora' else lora.NoLoraConfig()
    trainer = _trainer(
        _decoder(lora=updates), _trainable(name), frozen_dtype=np.float16
    )
    states[name] = trainer.abstract_state(_spec())
  return states


def test_each_strategy_costs_more_than_the_next(states):
  sizes = {name: dry_run.state_bytes(state) for name, state in states.items()}
  for what in ('optimizer state', 'parameters that train'):
    costs = [sizes[name][what] for name in _STRATEGIES]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 4
  frozen = [sizes[name]['frozen parameters'] for name in _STRATEGIES]
  assert frozen[0] == 0 and frozen[1] == frozen[2] < frozen[3]


def test_what_lora_adds_by_hand(states):
  """Two moments of f32 a parameter, in eight parts where `embed` is sharded."""
  sizes = {name: dry_run.state_bytes(state) for name, state in states.items()}
  # Of q, k, v and o in 8 layers: rank 2, width 32; one side is sharded.
  a_device = 8 * 4 * 2 * (32 + 32 // 8)
  added = {
      what: sizes['lora'][what] - sizes['enc'][what]
      for what in ('parameters that train', 'optimizer state')
  }
  assert added == {
      'parameters that train': 4 * a_device, 'optimizer state': 8 * a_device
  }


def test_frozen_kernels_and_tables_are_held_as_asked(states):
  for name in ('lora', 'enc', 'proj'):
    decoder = states[name].frozen['decoder']
    assert decoder['embed']['table'].dtype == np.float16
    layer = decoder['groups']['layers_0']
    assert layer['mlp']['up']['kernel'].dtype == np.float16
    assert layer['mlp_norm']['scale'].dtype == np.float32
  for state in states.values():
    memory = jax.tree.leaves((state.trainable, state.opt_state))
    assert {x.dtype for x in memory} <= {np.dtype('f4'), np.dtype('i4')}
  held = dry_run.state_bytes(states['enc'])['frozen parameters']
  count = sum(
      math.prod(x.sharding.shard_shape(x.shape))
      for x in jax.tree.leaves(states['enc'].frozen)
  )
  norms = 32 * (2 * 8 + 1)
  assert held == 2 * count + 2 * norms


def test_remat_spares_activations():
  decoder = _decoder()
  temporaries, flops = [], []
  for remat in (False, True):
    trainer = _trainer(
        dataclasses.replace(decoder, remat=remat),
        ('decoder/.*cross_attention',),
    )
    step = trainer.compile_step(trainer.abstract_state(_spec()), _spec())
    temporaries.append(step.memory_analysis().temp_size_in_bytes)
    flops.append([trainer.step_flops(_spec(), with_remat=x) for x in (1, 0)])
  assert temporaries[1] < 0.7 * temporaries[0]
  (every, model), (every_again, model_again) = flops
  assert every == model == model_again < every_again

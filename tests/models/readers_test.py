"""Users before the text, and that a user without events changes no bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.data import schema
from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.models import decoder_config
from user_llm.models import positions
from user_llm.models import readers
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm

_VOCAB, _EVENTS, _WIDTH = 30, 5, 16
_SOFT = readers.SoftPromptConfig(num_task_tokens=3)
_CROSS = readers.CrossAttentionReaderConfig()
_ALL = resampler.NoResamplerConfig()
_FEW = resampler.ResamplerConfig(
    num_layers=1, num_latents=3, embed_dim=8, num_heads=2, mlp_dim=8
)


def _decoder(**fields):
  """Layers with and without a window, one of them outside the scan."""
  sizes = dict(
      vocab_size=_VOCAB, num_layers=3, embed_dim=_WIDTH, num_heads=4,
      num_kv_heads=2, head_dim=6, mlp_dim=24, scaled_embeddings=True,
      positions=(
          positions.PositionsConfig(),
          positions.PositionsConfig(window=4, base=500.0),
      ),
  )
  cross = cross_attention.CrossAttentionConfig(
      every=2, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=8
  )
  return decoder_config.DecoderConfig(
      **{**sizes, **fields}, cross_attention=cross
  )


def _random_params(init, seed=0):
  """Not zero anywhere: gates are open."""
  boxed = jax.eval_shape(init, jax.random.key(0))
  leaves, tree = jax.tree.flatten(partitioning.unbox(boxed)['params'])
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(
      tree, [0.4 * rng.normal(size=x.shape).astype('f') for x in leaves]
  )


class _Reading(nn.Module):
  """A reader and a decoder, without what comes before them."""

  def setup(self):
    self.decoder = decoder.Decoder(_decoder())
    self.reader = _SOFT.make()

  def __call__(self, tokens_RT, user):
    return self.decoder(tokens_RT, self.reader(user, self.decoder))[0]


def _users(rng, num_users=2, rows=3):
  ends = np.array([[4, 1, 0], [5, 0, 3]])[:num_users, :rows, None]
  return cross_attention.UserTokens(
      rng.normal(size=(num_users, _EVENTS, _WIDTH)).astype('f'),
      np.arange(_EVENTS) < ends,
      None,
  )


def _prefix_by_numpy(params, user_tokens_SD):
  """The embeddings that stand before a text whose user has these tokens."""
  table = params['decoder']['embed']['table'][:_VOCAB]
  size = np.sqrt(np.mean(np.square(table.astype(np.float64))) * _WIDTH)
  x = np.concatenate([params['soft_prompt']['task_tokens'], user_tokens_SD])
  x = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6)
  return size * x * params['soft_prompt']['norm']['scale']


def test_a_soft_prompt_is_text_in_front():
  """Each row by itself, its prefix being words of a larger vocabulary."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, _VOCAB, (6, 7))
  user = _users(rng)
  module = _Reading()
  params = _random_params(lambda key: module.init(key, tokens, user))
  got = jax.jit(module.apply)({'params': params}, tokens, user)
  bare = decoder.Decoder(_decoder(vocab_size=_VOCAB + 8))
  forward = jax.jit(bare.apply)
  assert set(params['decoder']['groups']) == {'layers_0', 'layers_1'}
  for row in range(6):
    count = user.mask[row // 3, row % 3].sum()
    prefix = _prefix_by_numpy(params, user.tokens[row // 3, :count])
    prefix = prefix if count else prefix[:0]
    table = np.array(params['decoder']['embed']['table'])
    table[_VOCAB : _VOCAB + len(prefix)] = prefix / np.sqrt(_WIDTH)
    ids = _VOCAB + np.arange(len(prefix))
    # Padding behind changes nothing: one shape is compiled.
    whole = np.zeros((1, 15), int)
    whole[0, : len(prefix) + 7] = [*ids, *tokens[row]]
    with_words = {**params['decoder'], 'embed': {'table': table}}
    want = forward({'params': with_words}, whole)[0]
    np.testing.assert_allclose(
        got[row], want[0, len(prefix) : len(prefix) + 7], atol=2e-5
    )


def test_a_soft_prompt_starts_with_the_size_of_embeddings():
  rng = np.random.default_rng(1)
  user = _users(rng)
  user = user._replace(tokens=50 * user.tokens)
  tokens = np.ones((6, 2), int)
  module = _Reading()
  params = partitioning.unbox(
      jax.jit(lambda key: module.init(key, tokens, user))(jax.random.key(0))
  )['params']
  words = params['decoder']['embed']['table'][:_VOCAB] * np.sqrt(_WIDTH)
  prefix = _prefix_by_numpy(jax.tree.map(np.asarray, params), user.tokens[0])
  size = lambda x: np.sqrt(np.mean(x**2, axis=-1))
  np.testing.assert_allclose(size(prefix), size(words.ravel()), rtol=0.01)


@pytest.mark.parametrize('number', [0, 2.0, True])
def test_a_wrong_number_of_task_tokens_is_named(number):
  with pytest.raises(ValueError, match='SOFT_PROMPT_TASK_TOKENS'):
    readers.SoftPromptConfig(num_task_tokens=number)


def _model(reader, resampler_config):
  encoder = user_encoder.UserEncoderConfig(
      schema=schema.EventSchema(
          name='tiny', modalities=(schema.Modality(name='item', size=12),)
      ),
      num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8,
  )
  return user_llm.UserLLM(
      user_llm.UserLLMConfig(
          decoder=_decoder(num_layers=2), user_encoder=encoder,
          resampler=resampler_config, reader=reader,
      )
  )


def _batch(ends):
  """Targets that see `ends` events, i[B, P], and one prompt a user."""
  rng = np.random.default_rng(4)
  num_users = len(ends)
  is_event = np.arange(_EVENTS) < np.max(ends, axis=1, keepdims=True)
  prompts = rng.integers(1, _VOCAB, (num_users, 1, 6))
  prompts[1::2, :, :3] = 0
  return {
      'user_item': is_event * rng.integers(1, 12, is_event.shape),
      'user_mask': is_event,
      'positions': is_event * np.arange(_EVENTS),
      'segment_ids': is_event.astype(int),
      'history_end': np.asarray(ends),
      'input_tokens': rng.integers(1, _VOCAB, (*np.shape(ends), 7)),
      'prompt_tokens': prompts,
  }


def _trained(module, batch):
  return _random_params(lambda key: module.init(key, batch))


@functools.cache
def _taught(config):
  """Jitted, teacher-forced: f[B, P, T, D]."""
  return jax.jit(user_llm.UserLLM(config).apply)


@functools.cache
def _written(config):
  """Jitted logits f[B, 2, 3, V] of two rows a user, by prefill and extend."""

  def run(module, batch):
    logits, context, cache = module.prefill(batch, rows=2, capacity=2)
    outputs = [jnp.repeat(logits, 2, axis=0)]
    for tokens in np.random.default_rng(5).integers(1, _VOCAB, (2, 6)):
      logits, cache = module.extend(
          tokens[: 2 * len(batch['prompt_tokens'])], context, cache
      )
      outputs.append(logits)
    logits = jnp.stack(outputs, axis=1)
    return logits.reshape(-1, 2, *logits.shape[1:])

  module = user_llm.UserLLM(config)
  return jax.jit(lambda v, batch: module.apply(v, batch, method=run))


_BARE = user_llm.UserLLMConfig(decoder=_decoder(num_layers=2))


def _base(params):
  """The decoder alone."""
  groups = dict(params['decoder']['groups'])
  groups.pop('cross_attention', None)
  return {'decoder': {**params['decoder'], 'groups': groups}}


@pytest.mark.parametrize('few', [_ALL, _FEW], ids=['all', 'few'])
@pytest.mark.parametrize('reader', [_CROSS, _SOFT], ids=['cross', 'soft'])
def test_without_events_it_is_the_decoder_to_the_last_bit(reader, few):
  module = _model(reader, few)
  batch = _batch([[4, 0], [0, 0], [1, 5]])
  params = _trained(module, batch)
  got = _taught(module.config)({'params': params}, batch)
  want = _taught(_BARE)({'params': _base(params)}, batch)
  nobody = batch['history_end'] == 0
  np.testing.assert_array_equal(got[nobody], want[nobody])
  assert np.abs(got - want)[~nobody].max(axis=(1, 2)).min() > 1e-3

  batch = _batch([[4], [0], [0]])
  got = _written(module.config)({'params': params}, batch)
  want = _written(_BARE)({'params': _base(params)}, batch)
  np.testing.assert_array_equal(got[1:], want[1:])
  assert np.abs(got - want)[0, ..., :_VOCAB].max(axis=(1, 2)).min() > 1e-3


def test_a_batch_without_users_asks_the_decoder_alone():
  module = _model(_SOFT, _ALL)
  batch = _batch([[4, 0], [0, 0], [1, 5]])
  params = _trained(module, batch)
  text = {'input_tokens': batch['input_tokens']}
  np.testing.assert_array_equal(
      _taught(module.config)({'params': params}, text),
      _taught(_BARE)({'params': _base(params)}, text),
  )
  del batch['user_mask']
  with pytest.raises(KeyError, match='user_mask'):
    module.apply({'params': params}, batch)

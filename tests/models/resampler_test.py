"""The Perceiver against a sum written out in numpy, and what it starts with."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from user_llm.models import cross_attention
from user_llm.models import resampler

_CONFIG = resampler.ResamplerConfig(
    num_layers=1, num_latents=4, embed_dim=8, num_heads=2, mlp_dim=16,
    max_recency=8,
)


def _user(rng: np.random.Generator, events: int = 5):
  ago = np.array([[2, 4]])[:, :, None] - np.arange(events)
  return cross_attention.UserTokens(
      rng.standard_normal((1, events, 6), np.float32),
      ago >= 0,
      np.maximum(ago, 0),
  )


def _init(user: cross_attention.UserTokens):
  module = _CONFIG.make()
  return module, nn.unbox(module.init(jax.random.key(0), user))['params']


def test_each_target_sees_its_prefix_alone():
  user = _user(np.random.default_rng(0))
  module, params = _init(user)
  out = module.apply({'params': params}, user)
  assert out.tokens.shape == (2, 4, 8)
  assert out.mask.all() and out.recency is None
  changed = user.tokens.copy()
  changed[0, 3:] += 1  # After what the first target sees.
  other = module.apply({'params': params}, user._replace(tokens=changed))
  np.testing.assert_array_equal(out.tokens[0], other.tokens[0])
  assert np.abs(out.tokens[1] - other.tokens[1]).max() > 1e-3


def test_the_last_event_that_a_target_sees_is_its_one_token():
  user = _user(np.random.default_rng(0))
  mask = np.array([[
      [True, True, True, False, False], [True] * 5, [False] * 5
  ]])
  module = resampler.LastEventConfig().make()
  out = module.apply({}, user._replace(mask=mask))
  assert out.tokens.shape == (3, 1, 6) and out.recency is None
  np.testing.assert_array_equal(out.tokens[:2, 0], user.tokens[0, [2, 4]])
  np.testing.assert_array_equal(out.mask, [[[True]], [[True]], [[False]]])


def test_latents_start_as_nearly_unseen():
  """Else the constant that they are drowns the user, and training stalls.

  With zero queries attention is the softmax of the biases alone.
  """
  user = _user(np.random.default_rng(1))
  _, params = _init(user)
  latents = _CONFIG.num_latents * np.exp(params['blocks_0']['own_bias'])
  last_event = np.exp(params['blocks_0']['recency']['table'][:, 0])
  assert np.all(latents < 0.02 * last_event)
  assert np.all(latents > 0.01 * last_event)  # But not out of reach.


@pytest.mark.parametrize('field', [dict(num_latents=0), dict(num_heads=3)])
def test_wrong_sizes_are_named(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    resampler.ResamplerConfig(**field)

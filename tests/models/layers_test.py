"""Shared layers against numpy; dropout's masks and their statistics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.models import layers


def _init(module, *args, seed=0):
  """Parameters that are all random, zeros and ones too."""
  params = partitioning.unbox(module.init(jax.random.key(0), *args)['params'])
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), params
  )


def _x(*shape, seed=1):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_dense():
  x = _x(2, 3, 4)
  module = layers.Dense(5, ('embed', 'mlp'), use_bias=True)
  params = {'kernel': _x(4, 5, seed=2), 'bias': _x(5, seed=3)}
  np.testing.assert_allclose(
      module.apply({'params': params}, x),
      x @ params['kernel'] + params['bias'],
      rtol=1e-5,
      atol=1e-6,
  )


def test_rms_norm():
  x = _x(2, 3, 8)
  module = layers.RMSNorm()
  params = _init(module, x)
  norm = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(
      module.apply({'params': params}, x),
      x / norm * params['scale'],
      rtol=1e-5,
      atol=1e-6,
  )
  # In bfloat16 the squares of these would not be added up exactly.
  large = jnp.full((1, 300), 1e3, jnp.bfloat16)
  ones = module.apply({'params': {'scale': jnp.ones(300)}}, large)
  assert ones.dtype == jnp.bfloat16
  np.testing.assert_array_equal(ones.astype(np.float32), 1)


def test_rms_norm_of_zeros():
  module = layers.RMSNorm()
  params = {'scale': jnp.ones(4)}
  grad = jax.grad(lambda x: module.apply({'params': params}, x).sum())
  assert np.all(np.isfinite(grad(jnp.zeros((1, 4)))))


def test_embed():
  module = layers.Embed(7, 3)
  ids = np.array([[1, 6], [0, 1]])
  params = {'table': _x(7, 3)}
  np.testing.assert_array_equal(
      module.apply({'params': params}, ids), params['table'][ids]
  )
  # An id past the table must not be taken for another one.
  beyond = module.apply({'params': params}, np.array([7]))
  assert np.all(np.isnan(beyond))


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize('gated', [True, False])
def test_mlp(gated):
  x = _x(2, 3, 4)
  activation = jax.nn.silu if gated else jax.nn.gelu
  module = layers.MLP(6, activation=activation, gated=gated)
  params = _init(module, x)
  up, down = params['up']['kernel'], params['down']['kernel']
  if gated:
    gate = x @ params['gate']['kernel']
    hidden = gate / (1 + np.exp(-gate)) * (x @ up)
  else:
    assert 'gate' not in params
    hidden = _gelu(x @ up)
  np.testing.assert_allclose(
      module.apply({'params': params}, x), hidden @ down, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('keep_rate', [0.1, 0.5, 0.9])
def test_random_mask_statistics(keep_rate):
  shape = (64, 32, 50)
  masks = np.stack([
      layers.random_mask(jax.random.key(seed), keep_rate, shape)
      for seed in range(2)
  ]).astype(np.float64)
  spread = math.sqrt(keep_rate * (1 - keep_rate))
  for mask in masks:
    assert abs(mask.mean() - keep_rate) < 4 * spread / math.sqrt(mask.size)
    for axis in range(3):
      others = tuple(a for a in range(3) if a != axis)
      means = mask.mean(axis=others)
      bound = 5 * spread / math.sqrt(mask.size / mask.shape[axis])
      assert np.abs(means - keep_rate).max() < bound
    # Neighbours along each axis are independent.
    centred = (mask - keep_rate) / spread
    for axis in range(3):
      product = centred * np.roll(centred, 1, axis)
      assert abs(product.mean()) < 5 / math.sqrt(mask.size)
  # And so are the masks of two keys.
  first, second = (masks - keep_rate) / spread
  assert abs((first * second).mean()) < 5 / math.sqrt(first.size)


def test_random_mask_of_consecutive_steps():
  """fold_in(key, step) gives unrelated masks, element by element."""
  key = jax.random.key(0)
  masks = np.stack([
      layers.random_mask(jax.random.fold_in(key, step), 0.5, (64,))
      for step in range(200)
  ])
  assert len({mask.tobytes() for mask in masks}) == 200
  assert np.abs(masks.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(200)


def _dropout(x, rate, seed):
  return layers.Dropout(rate).apply(
      {}, x, rngs={'dropout': jax.random.key(seed)}
  )


def test_dropout():
  x = _x(200, 100) + 3
  y = np.asarray(_dropout(x, 0.2, 0))
  kept = y != 0
  assert abs(kept.mean() - 0.8) < 4 * 0.4 / math.sqrt(x.size)
  np.testing.assert_allclose(y[kept], x[kept] / 0.8, rtol=1e-6)
  assert y.mean() == pytest.approx(x.mean(), rel=0.02)
  np.testing.assert_array_equal(y, _dropout(x, 0.2, 0))
  assert np.any(y != _dropout(x, 0.2, 1))


def test_no_dropout_without_rate_or_rng():
  x = _x(3, 4)
  assert _dropout(x, 0.0, 0) is x
  assert layers.Dropout(0.5).apply({}, x) is x


def test_dropout_is_the_same_on_any_mesh():
  x = _x(16, 8)
  mesh = partitioning.MeshConfig(data=2, model=4).make()
  sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('data', 'model')
  )
  x_sharded = jax.device_put(x, sharding)
  with jax.set_mesh(mesh):
    sharded = jax.jit(lambda x: _dropout(x, 0.3, 0))(x_sharded)
  np.testing.assert_array_equal(sharded == 0, _dropout(x, 0.3, 0) == 0)

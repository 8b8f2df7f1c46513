"""Attention, rotary positions and masks against numpy."""

import jax
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.models import attention

_B, _T, _S, _N, _H = 2, 3, 5, 4, 6


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _numpy_attend(q, key, value, mask):
  """Query by query and head by head."""
  out = np.zeros(q.shape, np.float64)
  group = q.shape[2] // key.shape[2]
  for b, t, n in np.ndindex(q.shape[:3]):
    seen = np.flatnonzero(mask[b, t])
    if not seen.size:
      continue
    logits = key[b, seen, n // group] @ q[b, t, n] / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max())
    out[b, t, n] = weights / weights.sum() @ value[b, seen, n // group]
  return out


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_attend(num_kv_heads):
  q = _normal(_B, _T, _N, _H)
  kv = attention.KeyValue(
      *(_normal(_B, _S, num_kv_heads, _H, seed=seed) for seed in (1, 2))
  )
  mask = np.random.default_rng(3).random((_B, _T, _S)) < 0.5
  mask[0, 1] = False  # A query that may look nowhere.
  np.testing.assert_allclose(
      attention.attend(q, kv, mask),
      _numpy_attend(q, *kv, mask),
      rtol=1e-4,
      atol=1e-5,
  )
  np.testing.assert_allclose(
      attention.attend(q, kv, None),
      _numpy_attend(q, *kv, np.ones_like(mask)),
      rtol=1e-4,
      atol=1e-5,
  )


def test_a_query_that_sees_nothing_has_finite_gradients():
  q = _normal(1, 2, 1, 4)
  kv = attention.KeyValue(_normal(1, 3, 1, 4), _normal(1, 3, 1, 4))
  grads = jax.grad(
      lambda q, kv: attention.attend(q, kv, np.zeros((1, 2, 3), bool)).sum(),
      argnums=(0, 1),
  )(q, kv)
  assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_rotary():
  x = _normal(1, 4, 2, 6)
  positions = np.array([[0, 1, 7, 300]])
  found = np.asarray(attention.rotary(x, positions, 10_000.0))
  for t, position in enumerate(positions[0]):
    for i in range(3):
      turn = np.exp(1j * position * 10_000.0 ** (-2 * i / 6))
      expected = (x[0, t, :, i] + 1j * x[0, t, :, i + 3]) * turn
      pair = found[0, t, :, i] + 1j * found[0, t, :, i + 3]
      np.testing.assert_allclose(pair, expected, atol=1e-4)


def test_rotary_scores_depend_on_the_distance_only():
  q, k = _normal(1, 1, 1, 8), _normal(1, 1, 1, 8, seed=1)

  def score(at, to):
    return float(np.sum(
        attention.rotary(q, np.array([[at]]), 100.0)
        * attention.rotary(k, np.array([[to]]), 100.0)
    ))

  assert score(3, 1) == pytest.approx(score(12, 10), rel=1e-4)
  assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-2)


def test_causal_mask():
  # The docstring's example, and two events of padding.
  mask = attention.causal_mask(
      np.array([[0, 1, 0, 0, 0]]), np.array([[1, 1, 2, 0, 0]])
  )
  np.testing.assert_array_equal(
      mask[0],
      [
          [1, 0, 0, 0, 0],
          [1, 1, 0, 0, 0],
          [0, 0, 1, 0, 0],
          [0, 0, 0, 0, 0],
          [0, 0, 0, 0, 0],
      ],
  )


def _module():
  return attention.SelfAttention(num_heads=4, head_dim=6, rotary_base=100.0)


def _opened(module, *args):
  params = partitioning.unbox(module.init(jax.random.key(0), *args)['params'])
  return jax.tree.map(
      lambda x: 0.5 * _normal(*x.shape, seed=x.size), params
  )


def test_self_attention():
  x = _normal(_B, _T, 8)
  positions = np.tile(np.arange(_T), (_B, 1))
  mask = attention.causal_mask(positions, np.ones((_B, _T), int))
  module = _module()
  params = _opened(module, x, positions, mask)
  found = module.apply({'params': params}, x, positions, mask)
  proj = params['proj']

  def heads(name):
    return (x @ proj[name]['kernel']).reshape(_B, _T, -1, 6)

  y = _numpy_attend(
      np.asarray(attention.rotary(heads('q'), positions, 100.0)),
      np.asarray(attention.rotary(heads('k'), positions, 100.0)),
      heads('v'),
      np.asarray(mask),
  )
  expected = y.reshape(_B, _T, -1) @ proj['o']['kernel']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

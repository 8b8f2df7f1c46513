"""Attention of many rows to one user, against plain attention on copies."""

import jax
import numpy as np
import pytest

from user_llm.models import attention
from user_llm.models import cross_attention


def _random(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def _rows(x, num_rows):
  return np.repeat(x, num_rows, axis=0)


def _attend(q, *parts):
  return cross_attention.attend_parts(q, parts)


def test_shared_keys_equal_repeated_keys():
  rng = np.random.default_rng(0)
  q = _random(rng, 2, 3, 4, 6, 8)
  shared = attention.KeyValue(*(_random(rng, 2, 5, 2, 8) for _ in range(2)))
  mask = rng.random((2, 3, 5)) < 0.6
  mask[1, 2] = False
  got = _attend(q, cross_attention.Part(shared, mask[:, :, None]))
  want = attention.attend(
      q.reshape(6, 4, 6, 8),
      attention.KeyValue(*(_rows(x, 3) for x in shared)),
      mask.reshape(6, 1, 5),
  )
  np.testing.assert_allclose(got, want.reshape(q.shape), atol=1e-5)
  assert np.all(got[1, 2] == 0)


def test_shared_and_own_keys_equal_their_concatenation():
  rng = np.random.default_rng(1)
  q = _random(rng, 2, 3, 4, 6, 8)
  shared = attention.KeyValue(*(_random(rng, 2, 5, 2, 8) for _ in range(2)))
  own = attention.KeyValue(*(_random(rng, 2, 3, 4, 2, 8) for _ in range(2)))
  own_mask = np.tri(4, dtype=bool)
  got = _attend(
      q,
      cross_attention.Part(shared),
      cross_attention.Part(own, own_mask[None, None]),
  )
  both = attention.KeyValue(*(
      np.concatenate([_rows(s, 3), o.reshape(6, 4, 2, 8)], axis=1)
      for s, o in zip(shared, own)
  ))
  mask = np.concatenate([np.ones((4, 5), bool), own_mask], axis=1)[None]
  want = attention.attend(q.reshape(6, 4, 6, 8), both, mask)
  np.testing.assert_allclose(got, want.reshape(q.shape), atol=1e-5)


def test_a_part_that_may_not_be_seen_changes_no_bit():
  """Beside other keys and alone: as if the part were not there, or zeros."""
  rng = np.random.default_rng(2)
  q = _random(rng, 2, 3, 4, 6, 8)
  shared = attention.KeyValue(*(_random(rng, 2, 9, 2, 8) for _ in range(2)))
  own = attention.KeyValue(*(_random(rng, 2, 3, 4, 2, 8) for _ in range(2)))
  hidden = np.ones((2, 3, 1, 9), bool)
  hidden[1, 2] = False
  text = cross_attention.Part(own, np.tri(4, dtype=bool)[None, None])
  both = _attend(q, cross_attention.Part(shared, hidden), text)
  alone = _attend(q, text)
  np.testing.assert_array_equal(both[1, 2], alone[1, 2])
  assert np.abs(both - alone)[0].max() > 0.01
  assert not _attend(q, cross_attention.Part(shared, hidden))[1, 2].any()


def test_own_bias_scales_the_weight_of_own_keys():
  """One more shared key of weight 1 against own keys of weight 1 / 4 each."""
  shared = attention.KeyValue(
      np.zeros((1, 1, 1, 1), 'f'), np.full((1, 1, 1, 1), 6, 'f')
  )
  own = attention.KeyValue(
      np.zeros((1, 1, 4, 1, 1), 'f'),
      np.arange(4, dtype='f').reshape(1, 1, 4, 1, 1),
  )
  bias = np.log(np.full((1, 1, 1, 1, 1), 0.25, 'f'))
  out = _attend(
      np.ones((1, 1, 1, 1, 1), 'f'),
      cross_attention.Part(shared),
      cross_attention.Part(own, bias=bias),
  )
  np.testing.assert_allclose(out[0, 0, 0, 0, 0], (6 + 1.5) / 2, rtol=1e-6)


def test_bias_by_recency():
  """One head, keys and queries zero: attention is softmax of the bias alone."""
  module = cross_attention.RecencyBias(num_heads=2, max_recency=3)
  table = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], np.float32)
  recency = np.array([[[2, 1, 0, 0], [7, 2, 1, 0]]])
  bias = module.apply({'params': {'table': table}}, recency)
  np.testing.assert_array_equal(
      bias[:, 0],
      [[[2, 1, 0, 0], [2, 2, 1, 0]], [[5, 4, 3, 3], [5, 5, 4, 3]]],
  )
  shared = attention.KeyValue(
      np.zeros((1, 4, 2, 1), 'f'), np.arange(8, dtype='f').reshape(1, 4, 2, 1)
  )
  mask = np.array([[[1, 1, 1, 0], [1, 1, 1, 1]]], bool)
  out = _attend(
      np.ones((1, 2, 1, 2, 1), 'f'),
      cross_attention.Part(shared, mask[:, :, None], bias[:, :, :, None]),
  )
  prob = np.exp([2.0, 1.0, 0.0])
  want = prob / prob.sum() @ [0.0, 2.0, 4.0]
  np.testing.assert_allclose(out[0, 0, 0, 0, 0], want, rtol=1e-6)


def test_gates_open_by_training():
  """At zero the gates have a gradient; what is behind them has none yet."""
  module = cross_attention.GatedCrossAttention(
      cross_attention.CrossAttentionConfig(head_dim=4, mlp_dim=8), features=8
  )
  rng = np.random.default_rng(0)
  x, tokens = _random(rng, 4, 3, 8), _random(rng, 2, 5, 8)
  mask = np.ones((2, 2, 5), bool)
  recency = np.zeros((2, 2, 5), np.int32)

  def run(module, x):
    return module(x, module.key_value(tokens), mask, recency)

  params = jax.jit(lambda rng: module.init(rng, x, method=run))(
      jax.random.key(0)
  )
  assert not params['params']['gate'].value
  assert not params['params']['mlp_gate'].value
  grads = jax.jit(
      jax.grad(lambda p: module.apply(p, x, method=run)[..., 0].sum())
  )(params)['params']
  assert grads['gate'].value != 0 and grads['mlp_gate'].value != 0
  assert not np.any(grads['proj']['o']['kernel'].value)


@pytest.mark.parametrize(
    'field', [dict(every=0), dict(num_kv_heads=3), dict(mlp_dim=-1)], ids=str
)
def test_wrong_sizes_are_named(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    cross_attention.CrossAttentionConfig(**field)

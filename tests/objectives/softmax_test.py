"""Sampled softmax: what is drawn, its formula, and what it is an estimate of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm.data import item_features
from user_llm.objectives import softmax

_COUNTS = np.array([0, 100, 0, 25, 9, 1, 64, 4])
_SIZE = len(_COUNTS)
_FEATURES = item_features.ItemFeatures(
    labels=np.zeros((_SIZE, 0), np.int32), num_labels=1, counts=_COUNTS
)
_SAMPLED = softmax.SampledSoftmax(features=_FEATURES, num_negatives=6)
_RNG = np.random.default_rng(0)
_H = _RNG.normal(size=(2, 3, 5)).astype(np.float32)
# Two rows more than there are ids: padding of the vocabulary.
_TABLE = _RNG.normal(size=(_SIZE + 2, 5)).astype(np.float32)
_TARGETS = np.array([[1, 7, 0], [3, 3, 2]])


def _logits():
  return _H.astype(np.float64) @ _TABLE.astype(np.float64).T


@pytest.mark.parametrize('power', [0, 0.5, 1])
def test_shares(power):
  sampled = dataclasses.replace(
      _SAMPLED, num_negatives=200_000, power=power
  )
  # What never trains counts as once; id 0 is no item.
  expected = np.array([0, 100, 1, 25, 9, 1, 64, 4.0]) ** power
  expected[0] = 0
  expected /= expected.sum()
  drawn = np.bincount(sampled.draw(jax.random.key(0)), minlength=_SIZE)
  np.testing.assert_allclose(drawn / drawn.sum(), expected, atol=5e-3)
  np.testing.assert_allclose(np.exp(sampled.log_share()), expected, rtol=1e-5)


def test_formula():
  rng = jax.random.key(4)
  ids = np.asarray(_SAMPLED.draw(rng))
  share = np.exp(_SAMPLED.log_share().astype(np.float64))
  logits, expected = _logits(), 0.0
  for b, l in zip(*np.nonzero(_TARGETS)):
    target = np.exp(logits[b, l, _TARGETS[b, l]])
    negatives = sum(
        np.exp(logits[b, l, i]) / (6 * share[i])
        for i in ids
        if i != _TARGETS[b, l]
    )
    expected -= np.log(target / (target + negatives))
  total = _SAMPLED.total(_H, _TABLE, jnp.asarray(_TARGETS), _SIZE, rng)
  np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_its_denominator_is_the_full_one_in_the_mean():
  h, targets = _H[:1, :1], jnp.asarray([[3]])
  one = lambda rng: _SAMPLED.total(h, _TABLE, targets, _SIZE, rng)
  nats = jax.vmap(one)(jax.random.split(jax.random.key(1), 20_000))
  logits = _logits()[0, 0]
  found = np.exp(np.asarray(nats, np.float64) + logits[3])
  stderr = found.std() / np.sqrt(len(found))
  expected = np.exp(logits[1:_SIZE]).sum()
  assert stderr < 0.02 * expected
  assert abs(found.mean() - expected) < 4 * stderr


def test_gradients_come_near_the_full_ones():
  many = dataclasses.replace(_SAMPLED, num_negatives=100_000)
  targets = jnp.asarray(_TARGETS)

  def grads(candidates):
    total = lambda h, table: candidates.total(
        h, table, targets, _SIZE, jax.random.key(2)
    )
    return jax.grad(total, argnums=(0, 1))(_H, _TABLE)

  for found, wanted in zip(grads(many), grads(softmax.FullSoftmax())):
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_without_an_rng_it_is_the_full_softmax():
  targets = jnp.asarray(_TARGETS)
  full = softmax.FullSoftmax().total(_H, _TABLE, targets, _SIZE, None)
  assert _SAMPLED.total(_H, _TABLE, targets, _SIZE, None) == full


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'num_negatives': 0}, 'NUM_NEGATIVES must be a positive integer'),
        ({'power': 1.5}, r'NEGATIVES_POWER must be in \[0, 1\], not 1.5'),
        ({'power': 'half'}, 'NEGATIVES_POWER'),
    ],
)
def test_mistakes(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(_SAMPLED, **fields)

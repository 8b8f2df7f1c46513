"""The chunked cross-entropy against a plain one, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import losses

_B, _L, _E, _V, _SIZE = 3, 8, 5, 16, 11


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  h = rng.normal(size=(_B, _L, _E)).astype(np.float32)
  table = rng.normal(size=(_V, _E)).astype(np.float32)
  targets = rng.integers(1, _SIZE, (_B, _L))
  targets[rng.random((_B, _L)) < 0.3] = 0
  return h, table, targets


def _numpy_loss(h, table, targets):
  """The sum over positions with a target, over the ids 1 .. size - 1."""
  total = 0.0
  for b, l in zip(*np.nonzero(targets)):
    logits = table[1:_SIZE].astype(np.float64) @ h[b, l]
    total += np.log(np.exp(logits).sum()) - logits[targets[b, l] - 1]
  return total


def _plain_loss(h, table, targets):
  logp = jax.nn.log_softmax(h @ table[1:_SIZE].T)
  picked = jnp.take_along_axis(
      logp, jnp.maximum(targets - 1, 0)[..., None], axis=-1
  )[..., 0]
  return -jnp.sum(jnp.where(targets > 0, picked, 0))


@pytest.mark.parametrize('chunks', [1, 2, 4, 8])
def test_value_and_gradients(monkeypatch, chunks):
  monkeypatch.setattr(losses, 'CHUNK_FLOATS', _B * _V * _L // chunks)
  monkeypatch.setattr(losses, 'CHUNK_POSITIONS', 1)
  assert losses.num_chunks(_B, _L, _V) == chunks
  h, table, targets = _inputs()
  loss = losses.linear_cross_entropy(h, table, targets, _SIZE)
  np.testing.assert_allclose(loss, _numpy_loss(h, table, targets), rtol=1e-5)

  def scaled(loss_fn):
    return lambda h, table: 0.5 * loss_fn(h, table) ** 2

  ours = jax.value_and_grad(
      scaled(lambda h, t: losses.linear_cross_entropy(h, t, targets, _SIZE)),
      argnums=(0, 1),
  )(h, table)
  plain = jax.value_and_grad(
      scaled(lambda h, t: _plain_loss(h, t, targets)), argnums=(0, 1)
  )(h, table)
  for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain)):
    np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-3)
  dh, dtable = ours[1]
  assert not np.any(dh[targets == 0])
  assert not np.any(dtable[0]) and not np.any(dtable[_SIZE:])


@pytest.mark.parametrize('softcap', [0.0, 2.0])
def test_losses_of_positions(monkeypatch, softcap):
  """With the padding id as a candidate, in chunks, and none behind the last."""
  monkeypatch.setattr(losses, 'CHUNK_FLOATS', 1)
  monkeypatch.setattr(losses, 'CHUNK_POSITIONS', _B)
  h, table, targets = _inputs()
  targets[:, 6:] = 0
  found = losses.token_losses(h, table, targets, (0, _SIZE), softcap)

  def nats(h, table):
    logits = h @ table[:_SIZE].T
    if softcap:
      logits = softcap * jnp.tanh(logits / softcap)
    logp = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
    return jnp.where(targets > 0, -picked, 0), logits

  want, logits = nats(h, table)
  np.testing.assert_allclose(found.nats, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.total, want.sum(), rtol=1e-5)
  best = np.argmax(np.asarray(logits), axis=-1)
  np.testing.assert_array_equal(found.correct, (best == targets) & (targets > 0))
  ours = jax.grad(
      lambda *x: losses.token_losses(
          *x, targets, (0, _SIZE), softcap
      ).total, (0, 1),
  )(h, table)
  plain = jax.grad(lambda *x: nats(*x)[0].sum(), (0, 1))(h, table)
  for mine, theirs in zip(ours, plain):
    np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-4)


def test_targets_first():
  h, _, targets = _inputs()
  moved, first, place = losses.targets_first(h, targets)
  for b in range(_B):
    kept = targets[b] > 0
    np.testing.assert_array_equal(first[b, : kept.sum()], targets[b][kept])
    np.testing.assert_array_equal(moved[b, : kept.sum()], h[b][kept])
    assert not np.any(first[b, kept.sum() :])
    np.testing.assert_array_equal(moved[b][place[b]], h[b])


def test_large_logits_stay_finite():
  h, table, targets = _inputs()
  loss, grads = jax.value_and_grad(losses.linear_cross_entropy)(
      300 * h, 300 * table, targets, _SIZE
  )
  assert np.isfinite(loss) and np.all(np.isfinite(grads))


def test_no_targets():
  h, table, targets = _inputs()
  loss, grads = jax.value_and_grad(losses.linear_cross_entropy, (0, 1))(
      h, table, 0 * targets, _SIZE
  )
  assert loss == 0 and not any(np.any(g) for g in grads)


def test_bfloat16_hidden_states():
  h, table, targets = _inputs()
  loss, grad = jax.value_and_grad(losses.linear_cross_entropy)(
      jnp.asarray(h, jnp.bfloat16), table, targets, _SIZE
  )
  assert loss.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
  np.testing.assert_allclose(loss, _numpy_loss(h, table, targets), rtol=2e-2)


@pytest.mark.parametrize(
    ['batch', 'length', 'vocab', 'chunks'],
    [
        (1, 1, 1, 1),
        (64, 40, 2**10, 2),  # Twenty positions of each row fit in 2**21.
        (64, 37, 2**10, 37),  # A prime length is not cut in two.
        (64, 40, 2**14, 10),  # 256 positions, whatever they take.
        (512, 8, 2**20, 8),  # Not even one position of each row fits.
    ],
)
def test_num_chunks(batch, length, vocab, chunks):
  assert losses.num_chunks(batch, length, vocab) == chunks

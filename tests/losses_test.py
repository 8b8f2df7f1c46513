"""The chunked cross-entropy against a plain one, values and gradients."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import losses
from user_llm import partitioning

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
        (64, 37, 2**10, 2),  # A prime length: 19 positions, and 18.
        (32, 200, 3456, 20),  # Equal, rather than the 11 that would do.
        (32, 199, 27392, 25),  # A share of 256 rows on 8 devices.
        (64, 40, 2**14, 10),  # 256 positions, whatever they take.
        (512, 8, 2**20, 8),  # Not even one position of each row fits.
    ],
)
def test_num_chunks(batch, length, vocab, chunks):
  assert losses.num_chunks(batch, length, vocab) == chunks


_MESHES = {
    'data': partitioning.MeshConfig(data=8),
    'replica': partitioning.MeshConfig(replica=2, data=4),
    'model': partitioning.MeshConfig(data=4, model=2),
}
_ROWS, _LENGTH, _WIDTH, _VOCAB = 16, 7, 24, 128


def _on_mesh(mesh, targets, softcap, wrt=(0, 1)):
  """Compiled, of a sharded batch and an FSDP table, as in training."""
  rows = partitioning.batch_sharding(mesh)
  table = jax.sharding.NamedSharding(
      mesh, partitioning.resolve(('vocab', 'embed'), (_VOCAB, _WIDTH), mesh)
  )

  def loss(h, table):
    found = losses.token_losses(h, table, targets, (1, 120), softcap)
    return found.total, found

  shape = lambda sharding, *sizes: jax.ShapeDtypeStruct(
      sizes, jnp.float32, sharding=sharding
  )
  with jax.set_mesh(mesh):
    return (
        jax.jit(
            jax.value_and_grad(loss, wrt, has_aux=True),
            out_shardings=(None, tuple((rows, table)[i] for i in wrt)),
        )
        .lower(
            shape(rows, _ROWS, _LENGTH, _WIDTH), shape(table, _VOCAB, _WIDTH)
        )
        .compile()
    )


def _many_inputs(monkeypatch):
  """And chunks of 3 positions of 2 rows, or 1 of 4, of a prime length."""
  monkeypatch.setattr(losses, 'CHUNK_FLOATS', 1)
  monkeypatch.setattr(losses, 'CHUNK_POSITIONS', 6)
  rng = np.random.default_rng(0)
  targets = rng.integers(0, 120, (_ROWS, _LENGTH))
  return (
      rng.normal(size=(_ROWS, _LENGTH, _WIDTH)).astype(np.float32),
      rng.normal(size=(_VOCAB, _WIDTH)).astype(np.float32),
      targets,
  )


@pytest.mark.parametrize(
    ['name', 'softcap', 'whole'],
    [
        ('data', 0.0, True), ('replica', 2.0, True), ('model', 2.0, True),
        ('data', 2.0, False), ('model', 0.0, False),
    ],
)
def test_many_devices_find_what_one_does(monkeypatch, name, softcap, whole):
  *arrays, targets = _many_inputs(monkeypatch)
  if not whole:
    monkeypatch.setattr(losses, 'WHOLE_TABLE_FLOATS', _VOCAB * _WIDTH - 1)
  one = jax.make_mesh(
      (1, 1, 1), partitioning.MESH_AXES, devices=jax.devices()[:1],
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  found, wanted = (
      compiled(*map(jax.device_put, arrays, compiled.input_shardings[0]))
      for compiled in (
          _on_mesh(mesh, targets, softcap)
          for mesh in (_MESHES[name].make(), one)
      )
  )
  for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def _sent_in_loops(hlo):
  """Floats that each collective of a loop's body sends."""
  found = []
  for body in re.findall(r' while\(.*body=%?([\w.\-]+)', hlo):
    text = re.search(rf'^%?{re.escape(body)} .*?^}}', hlo, re.M | re.S)[0]
    for result in re.findall(
        r'= (.+) (?:all-|reduce-scatter|collective-permute)', text
    ):
      sizes = re.findall(r'f(?:32|16)\[([\d,]*)\]', result)
      found += [math.prod(map(int, x.split(','))) if x else 1 for x in sizes]
  return found


@pytest.mark.parametrize('name', _MESHES)
def test_the_table_s_gradient_is_summed_over_devices_once(monkeypatch, name):
  targets = _many_inputs(monkeypatch)[-1]
  hlo = _on_mesh(_MESHES[name].make(), targets, 0.0).as_text()
  assert hlo.count(' while(') == 1
  assert re.search(rf'f32\[\d+,{_WIDTH}\].* all-reduce\(', hlo)
  sent = _sent_in_loops(hlo)
  if name == 'model':
    # A device has half of the vocabulary: of one chunk of one position of
    # four rows it sends the maximum, two sums, and the gradient by h.
    assert sorted(sent) == [4, 4, 4, 4 * _WIDTH]
  else:
    assert not sent


def test_chunks_are_of_the_rows_of_a_device(monkeypatch):
  targets = _many_inputs(monkeypatch)[-1]
  asked, num_chunks = [], losses.num_chunks
  monkeypatch.setattr(
      losses, 'num_chunks', lambda *x: asked.append(x) or num_chunks(*x)
  )
  for config in _MESHES.values():
    _on_mesh(config.make(), targets, 0.0)
  assert set(asked[:2]) == {(2, _LENGTH, _VOCAB)}
  assert asked[-1] == (4, _LENGTH, _VOCAB)


def test_a_frozen_table_has_no_gradient_in_the_loop(monkeypatch):
  targets = _many_inputs(monkeypatch)[-1]
  held = rf'f32\[1,{_VOCAB},{_WIDTH}\].* while\('
  mesh = _MESHES['data'].make()
  assert re.search(held, _on_mesh(mesh, targets, 0.0).as_text())
  frozen = _on_mesh(mesh, targets, 0.0, wrt=(0,)).as_text()
  assert ' while(' in frozen and not re.search(held, frozen)


def test_rows_that_the_devices_cannot_share():
  h, table, targets = _inputs()
  with jax.set_mesh(_MESHES['data'].make()):
    with pytest.raises(ValueError, match='not divisible by the 8 parts'):
      losses.token_losses(h, table, targets, (1, _SIZE))


def test_a_prime_length(monkeypatch):
  """Seven positions in chunks of three: nothing of the last two is seen."""
  monkeypatch.setattr(losses, 'CHUNK_FLOATS', 3 * _B * _V)
  monkeypatch.setattr(losses, 'CHUNK_POSITIONS', 1)
  h, table, targets = _inputs()
  h, targets = h[:, :7], targets[:, :7]
  targets[0, 6] = 3
  assert losses.num_chunks(_B, 7, _V) == 3
  ours, plain = (
      jax.value_and_grad(loss, (0, 1))(h, table)
      for loss in (
          lambda h, t: losses.linear_cross_entropy(h, t, targets, _SIZE),
          lambda h, t: _plain_loss(h, t, targets),
      )
  )
  for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain)):
    np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-4)
  found = losses.token_losses(h, table, targets, (1, _SIZE))
  assert found.nats.shape == found.correct.shape == (_B, 7)
  np.testing.assert_allclose(found.nats.sum(), found.total, rtol=1e-6)

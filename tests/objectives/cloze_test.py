"""Which events are hidden, the loss against numpy, and learning a rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from user_llm import partitioning
from user_llm.data import schema as schema_lib
from user_llm.models import user_encoder
from user_llm.objectives import cloze
from user_llm.objectives import next_event

_SCHEMA = schema_lib.EventSchema(
    name='tiny',
    modalities=(
        schema_lib.Modality(name='item', size=12),
        schema_lib.Modality(name='genre', size=4),
    ),
)
_ENCODER = user_encoder.UserEncoderConfig(
    schema=_SCHEMA, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16,
    feature_embed_dim=4, dropout_rate=0.0, causal=False,
)
_OBJECTIVE = cloze.Cloze(encoder=_ENCODER)
_SEGMENTS = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]]
)
_POSITIONS = np.array(
    [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0]]
)


def _batch(seed=0):
  """Three rows: one full, one of two segments, one with padding."""
  rng = np.random.default_rng(seed)
  real = _SEGMENTS > 0
  draw = lambda high: rng.integers(1, high, _SEGMENTS.shape) * real
  return {
      'user_item': draw(12), 'user_genre': draw(4),
      'target_item': draw(12), 'target_genre': draw(4),
      'positions': _POSITIONS, 'segment_ids': _SEGMENTS,
      'label_item': rng.integers(1, 12, 3),
      'seen_item': np.array([[3, 4], [5, 0], [0, 0]]),
  }


def _params(objective=_OBJECTIVE):
  boxed = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32),
      partitioning.unbox(boxed),
  )


def _log_probs(params, events, segments, positions):
  """f64[B, L, size] over the items; -inf for 0."""
  variables = {'params': params['user_encoder']}
  module = user_encoder.UserEncoder(_ENCODER)
  x = module.apply(variables, events, positions, segments)
  h, table = module.apply(variables, x, 'item', method='head')
  logits = np.asarray(h, np.float64) @ np.asarray(table, np.float64).T
  logits = logits[..., :12]
  logits[..., 0] = -np.inf
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_loss_of_the_last_events():
  batch, params = _batch(), _params()
  loss = _OBJECTIVE.loss(params, batch, None)
  masked = np.zeros(_SEGMENTS.shape, bool)
  masked[0, 5] = masked[1, 1] = masked[1, 5] = masked[2, 2] = True
  events = {
      name: np.where(masked, 0, batch[f'target_{name}'])
      for name in ('item', 'genre')
  }
  log_probs = _log_probs(params, events, _SEGMENTS, _POSITIONS)
  expected = -sum(
      log_probs[b, i, batch['target_item'][b, i]]
      for b, i in zip(*np.nonzero(masked))
  )
  assert loss.weight == 4
  np.testing.assert_allclose(loss.total, expected, rtol=1e-5)


def test_what_is_hidden_is_not_read():
  """A masked event's features change nothing but the target itself."""
  batch, params = _batch(), _params()
  masked = np.asarray(_OBJECTIVE._masked(jnp.asarray(_SEGMENTS), None))
  other = dict(batch)
  other['target_genre'] = np.where(masked, 3, batch['target_genre'])
  first, second = (_OBJECTIVE.loss(params, b, None) for b in (batch, other))
  assert first.total == second.total
  other['target_genre'] = np.where(masked, batch['target_genre'], 3)
  assert _OBJECTIVE.loss(params, other, None).total != first.total


def test_shares_of_what_is_hidden():
  segments = jnp.tile(jnp.asarray([[1] * 30 + [2] * 15 + [0] * 5]), (4000, 1))
  objective = dataclasses.replace(
      _OBJECTIVE, mask_rate=0.3, last_event_rate=0.25
  )
  masked = np.asarray(objective._masked(segments, jax.random.key(3)))
  assert not masked[:, 45:].any()
  last = np.zeros(50, bool)
  last[[29, 44]] = True
  is_last = (masked == last).all(axis=1)
  # Five standard deviations.
  assert abs(is_last.mean() - 0.25) < 0.035
  assert abs(masked[~is_last][:, :45].mean() - 0.3) < 0.006


def test_ranks_the_event_behind_a_history():
  batch, params = _batch(), _params()
  # Rows of evaluations hold one user each.
  batch['segment_ids'] = np.minimum(_SEGMENTS, 1)
  batch['positions'] = np.arange(6) * batch['segment_ids']
  found = _OBJECTIVE.predict(params, batch)
  for row, length in enumerate((6, 6, 3)):
    events = {
        name: np.append(batch[f'user_{name}'][row, :length], 0)[None]
        for name in ('item', 'genre')
    }
    places = np.arange(length + 1)[None]
    log_probs = _log_probs(params, events, np.ones_like(places), places)[0, -1]
    label = batch['label_item'][row]
    np.testing.assert_allclose(
        found['label_score'][row], log_probs[label], rtol=1e-4
    )
    ahead = (log_probs >= log_probs[label]).sum()
    assert found['rank_all'][row] == ahead


def test_learns_to_read_both_sides():
  """The first and the last of three are the same: the first needs the last."""
  rng = np.random.default_rng(0)
  objective = dataclasses.replace(
      _OBJECTIVE, mask_rate=0.34, last_event_rate=0.0,
      encoder=dataclasses.replace(_ENCODER, embed_dim=32),
  )

  def batch():
    a, b = rng.integers(1, 12, (2, 64))
    items = np.stack([a, b, a], axis=1)
    return {
        'target_item': items,
        'target_genre': np.ones_like(items),
        'positions': np.tile(np.arange(3), (64, 1)),
        'segment_ids': np.ones_like(items),
    }

  params = partitioning.unbox(objective.init(jax.random.key(0), batch()))
  optimizer = optax.adam(1e-2)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, batch, rng):
    def mean(params):
      loss = objective.loss(params, batch, rng)
      return loss.total / loss.weight

    value, grads = jax.value_and_grad(mean)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  losses = []
  for i in range(300):
    params, state, value = step(params, state, batch(), jax.random.key(i))
    losses.append(float(value))
  # Of log 11 nats: all for the middle, of the others the share of rows that
  # hide both. Who sees the past alone cannot tell the first: (2 + .34) / 3.
  best = (1 + 2 * 0.34) / 3
  assert np.mean(losses[-20:]) < (best + 0.08) * np.log(11)


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'mask_rate': 0}, r'MASK_RATE\) must be in'),
        ({'last_event_rate': 'half'}, r'LAST_EVENT_RATE\) must be in'),
        (
            {'encoder': dataclasses.replace(_ENCODER, causal=True)},
            'must be False, as in runs/pretrain_bert4rec.gin',
        ),
    ],
)
def test_mistakes(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(_OBJECTIVE, **fields)


def test_what_reads_the_past_needs_a_causal_encoder():
  with pytest.raises(ValueError, match='NextEvent needs a causal encoder'):
    next_event.NextEvent(encoder=_ENCODER)
  with pytest.raises(ValueError, match='causal must be True or False'):
    dataclasses.replace(_ENCODER, causal='no')

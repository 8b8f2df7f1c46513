"""Loss against numpy, ranks by hand, and learning one batch by heart."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from user_llm import partitioning
from user_llm.data import schema as schema_lib
from user_llm.models import gru4rec
from user_llm.models import user_encoder
from user_llm.objectives import next_event

_SCHEMA = schema_lib.EventSchema(
    name='tiny',
    modalities=(
        schema_lib.Modality(name='item', size=12),
        schema_lib.Modality(name='genre', size=4),
    ),
)
_LENGTH = 6
_EACH_FUSION = pytest.mark.parametrize(
    'fusion',
    [user_encoder.EarlyFusion(), user_encoder.LateFusion(), gru4rec.GRU4Rec()],
    ids=['early', 'late', 'gru'],
)


def _objective(fusion=user_encoder.EarlyFusion(), **fields):
  encoder = user_encoder.UserEncoderConfig(
      schema=_SCHEMA, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16,
      feature_embed_dim=4, dropout_rate=0.1, fusion=fusion,
  )
  return next_event.NextEvent(encoder=encoder, **fields)


def _batch(seed=0):
  """Three rows: one full, one of two segments, one with padding."""
  rng = np.random.default_rng(seed)
  shape = (3, _LENGTH)
  segments = np.array(
      [[1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]]
  )
  positions = np.array(
      [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0]]
  )
  real = segments > 0
  return {
      'user_item': rng.integers(1, 12, shape) * real,
      'user_genre': rng.integers(1, 4, shape) * real,
      'target_item': rng.integers(1, 12, shape) * real,
      'target_genre': rng.integers(1, 4, shape) * real,
      'positions': positions,
      'segment_ids': segments,
      'label_item': rng.integers(1, 12, 3),
      'seen_item': np.array([[3, 4], [5, 0], [0, 0]]),
  }


@functools.cache
def _params():
  objective = _objective()
  boxed = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32),
      partitioning.unbox(boxed),
  )


def _log_probs(batch, name):
  """f64[B, L, size]: log p(id) of a feature of the next event; -inf for 0."""
  objective = _objective()
  variables = {'params': _params()['user_encoder']}
  module = user_encoder.UserEncoder(objective.encoder)
  x = module.apply(variables, *user_encoder.inputs(batch, objective.encoder))
  h, table = module.apply(variables, x, name, method='head')
  logits = np.asarray(h, np.float64) @ np.asarray(table, np.float64).T
  logits = logits[..., : _SCHEMA[name].size]
  logits[..., 0] = -np.inf
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ['targets', 'weights'],
    [(None, {}), (('item',), {}), (None, {'genre': 0.25})],
)
def test_loss(targets, weights):
  batch = _batch()
  objective = _objective(targets=targets, target_weights=weights)
  loss = objective.loss(_params(), batch, None)
  totals = {}
  for name in targets or ('item', 'genre'):
    target = batch[f'target_{name}']
    logp = _log_probs(batch, name)
    totals[name] = -sum(
        logp[b, l, target[b, l]] for b, l in zip(*np.nonzero(target))
    )
    np.testing.assert_allclose(
        loss.metrics[f'loss_{name}'][0], totals[name], rtol=1e-5
    )
  total = sum(weights.get(name, 1) * x for name, x in totals.items())
  np.testing.assert_allclose(loss.total, total, rtol=1e-5)
  assert objective in {objective}, 'evaluators look it up'
  assert loss.weight == 15
  assert len(loss.metrics) == len(totals)


def test_predict():
  batch = _batch()
  found = _objective().predict(_params(), batch)
  logp = _log_probs(batch, 'item')[np.arange(3), [5, 5, 2]]
  for b in range(3):
    label = batch['label_item'][b]
    order = np.argsort(-logp[b])
    assert found['rank_all'][b] == 1 + list(order).index(label)
    unseen = [i for i in order if i == label or i not in batch['seen_item'][b]]
    assert found['rank_unseen'][b] == 1 + unseen.index(label)
    np.testing.assert_array_equal(found['top_all'][b], order[:10])
    np.testing.assert_allclose(
        found['score_all'][b], logp[b, order[:10]], rtol=1e-4
    )
    shown = [i for i in unseen if i > 0]
    np.testing.assert_array_equal(
        found['top_unseen'][b, : len(shown)], shown[:10]
    )


@_EACH_FUSION
def test_it_learns_a_batch_by_heart(fusion):
  objective, batch = _objective(fusion), _batch()
  optimizer = optax.adam(0.02)

  @jax.jit
  def step(params, opt_state, rng):
    def total(params):
      loss = objective.loss(params, batch, rng)
      return loss.total / loss.weight

    loss, grads = jax.value_and_grad(total)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  params = partitioning.unbox(objective.init(jax.random.key(0), batch))
  opt_state, losses = optimizer.init(params), []
  for i in range(60):
    params, opt_state, loss = step(params, opt_state, jax.random.key(i))
    losses.append(float(loss))
  # It starts at chance: ln 11 + ln 3.
  assert losses[0] == pytest.approx(np.log(11) + np.log(3), rel=0.05)
  assert losses[-1] < 0.2 * losses[0]


def test_keys():
  objective = _objective(targets=('item',))
  assert objective.batch_keys == (
      'user_item', 'user_genre', 'positions', 'segment_ids', 'target_item'
  )
  assert set(objective.predict_keys) >= {'label_item', 'seen_item'}


@pytest.mark.parametrize(
    ['targets', 'message'],
    [
        (('item', 'rating'), "no modality 'rating'"),
        (('genre',), "TARGETS.* must include 'item'"),
    ],
)
def test_errors(targets, message):
  with pytest.raises(ValueError, match=message):
    _objective(targets=targets)


@pytest.mark.parametrize(
    ['weights', 'message'],
    [
        ({'genre': 1.0}, "has 'genre', which is no target; targets are item"),
        ({'item': -1.0}, r"TARGET_WEIGHTS\['item'\] must be a number from 0"),
        ({'item': '1'}, "must be a number from 0, not '1'"),
    ],
)
def test_weights_that_are_none(weights, message):
  with pytest.raises(ValueError, match=message):
    _objective(targets=('item',), target_weights=weights)


@_EACH_FUSION
def test_a_feature_that_is_only_predicted(fusion):
  objective = _objective(fusion)
  objective = dataclasses.replace(
      objective,
      encoder=dataclasses.replace(objective.encoder, inputs=('item',)),
  )
  assert 'user_genre' not in objective.batch_keys
  batch = {key: _batch()[key] for key in objective.batch_keys}
  params = partitioning.unbox(objective.init(jax.random.key(0), batch))
  grads = jax.grad(lambda p: objective.loss(p, batch, None).total)(params)
  assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(grads))
  assert {'embeds_genre', 'heads_genre'} <= grads['user_encoder'].keys()


def test_items_must_be_read():
  with pytest.raises(ValueError, match=r'INPUTS\) is .*genre.* must be None or'):
    dataclasses.replace(_objective().encoder, inputs=('genre',))
  with pytest.raises(ValueError, match="has no modality 'gnere'"):
    dataclasses.replace(_objective().encoder, inputs=('item', 'gnere'))

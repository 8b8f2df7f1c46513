"""Loss against numpy, ranks of all items, and learning what follows what."""

import json

import jax
import numpy as np
import pytest

import fixtures
import small_run
import small_user_llm
from user_llm import evaluator
from user_llm import partitioning
from user_llm import restore
from user_llm import train as train_lib
from user_llm import train_state
from user_llm.data import item_features
from user_llm.data import schema as schema_lib
from user_llm.models import dual_encoder
from user_llm.models import user_encoder
from user_llm.objectives import contrastive

_SCHEMA = schema_lib.EventSchema(
    name='tiny',
    modalities=(
        schema_lib.Modality(name='item', size=8),
        schema_lib.Modality(name='genre', size=4),
    ),
)
_FEATURES = item_features.ItemFeatures(
    labels=np.array([[0, 0], [1, 0], [1, 2], [2, 0], [0, 0], [3, 1], [3, 0],
                     [2, 3]]),
    num_labels=4,
    counts=np.array([0, 9, 1, 4, 2, 2, 0, 6]),
)
_NO_LABELS = item_features.ItemFeatures(
    labels=np.zeros((8, 0), int), num_labels=1, counts=_FEATURES.counts
)


def _objective(negatives=4, **fields):
  encoder = user_encoder.UserEncoderConfig(
      schema=_SCHEMA, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16,
      feature_embed_dim=4, dropout_rate=0.0,
  )
  config = dual_encoder.DualEncoderConfig(
      user_encoder=encoder,
      label_embed_dim=3,
      **{
          'features': _FEATURES, 'item_embed_dim': 6, 'temperature': 0.5,
          **fields,
      },
  )
  return contrastive.Contrastive(model=config, negatives_per_row=negatives)


def _batch():
  """Three rows: one full, one of two segments, one with padding."""
  return {
      'user_item': np.array([[5, 1, 7, 3], [2, 1, 4, 7], [3, 1, 0, 0]]),
      'user_genre': np.array([[1, 2, 3, 1], [2, 2, 1, 3], [3, 1, 0, 0]]),
      # Items 1 and 7 are hits: other users' next items too.
      'target_item': np.array([[1, 7, 3, 1], [1, 2, 7, 5], [1, 4, 0, 0]]),
      'positions': np.array([[0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 0, 0]]),
      'segment_ids': np.array([[1, 1, 1, 1], [1, 1, 2, 2], [1, 1, 0, 0]]),
      'label_item': np.array([3, 1, 6]),
      'seen_item': np.array([[5, 1], [2, 0], [0, 0]]),
  }


def _params(objective):
  boxed = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32),
      partitioning.unbox(boxed),
  )


def _towers(objective, params):
  """f64[B, L, D] users and [V, D] items, written out; users by the encoder."""
  encoder = objective.model.user_encoder
  inputs = user_encoder.inputs(_batch(), encoder)
  users = user_encoder.UserEncoder(encoder).apply(
      {'params': params['user_encoder']}, *inputs
  )
  tower = params['item_tower']
  features = objective.model.features
  of_items = [tower['embeds_item']['table'][:8]]
  if features.num_labels > 1:
    table = tower['embeds_label']['table'].copy()
    table[0] = 0
    of_items.append(table[features.labels].sum(axis=1))
  items = np.concatenate(of_items, axis=1) @ tower['projection']['kernel']
  users, items = (np.asarray(x, np.float64) for x in (users, items))
  if objective.model.normalised:
    users /= np.linalg.norm(users, axis=-1, keepdims=True)
    items /= np.linalg.norm(items, axis=-1, keepdims=True)
  if objective.model.learned_temperature:
    return users * np.exp(params['log_scale']), items
  return users / objective.model.temperature, items


@pytest.mark.parametrize('fields', [
    {}, {'negatives': 2}, {'normalised': False}, {'features': _NO_LABELS},
    {'learned_temperature': False},
], ids=str)
def test_loss(fields):
  objective, batch = _objective(**fields), _batch()
  params = _params(objective)
  assert ('log_scale' in params) == objective.model.learned_temperature
  users, items = _towers(objective, params)
  counts = [9, 1, 4, 2, 2, 1, 6]  # Of items 1 .. 7; item 6 counts as one.
  log_q = np.log(np.array([1, *counts]) / (1 + sum(counts)))
  targets = batch['target_item']
  # The first targets of each row, of which the last has two.
  pool = [t for row in targets for t in row[: fields.get('negatives', 4)] if t]
  total, correct = 0.0, 0
  for b, l in zip(*np.nonzero(targets)):
    target = targets[b, l]
    negatives = [t for t in pool if t != target]
    scores = items[[target, *negatives]] @ users[b, l]
    scores -= log_q[[target, *negatives]]
    total += np.log(np.exp(scores).sum()) - scores[0]
    correct += scores[0] > scores[1:].max()
  loss = objective.loss(params, batch, None)
  np.testing.assert_allclose(loss.total, total, rtol=1e-5)
  assert loss.weight == loss.metrics['accuracy'][1] == 10
  assert loss.metrics['accuracy'][0] == correct


def test_negatives_are_drawn_from_a_rows_targets_evenly():
  objective, targets = _objective(negatives=2), _batch()['target_item']
  draw = jax.jit(objective._negatives)
  drawn = np.array([draw(targets, jax.random.key(i)) for i in range(600)])
  assert (drawn[:, 2] > 0).all()  # Padding only where nothing else is left.
  assert (np.sort(drawn[:, 2]) == [1, 4]).all()
  for row in (0, 1):
    ids, counts = np.unique(drawn[:, row], return_counts=True)
    want = [300 * (targets[row] == i).sum() for i in ids]
    np.testing.assert_allclose(counts, want, atol=4 * 600**0.5)


def test_nothing_to_tell_apart_is_no_loss():
  """All have the same next item: no negatives, and finite gradients."""
  objective, batch = _objective(), _batch()
  batch['target_item'] = np.where(batch['target_item'] > 0, 3, 0)
  total, grads = jax.value_and_grad(
      lambda params: objective.loss(params, batch, None).total
  )(_params(objective))
  assert total == 0
  assert all(np.all(g == 0) for g in jax.tree.leaves(grads))


def test_predict_ranks_all_items_by_uncorrected_scores():
  objective = _objective()
  params, batch = _params(objective), _batch()
  found = objective.predict(params, batch)
  users, items = _towers(objective, params)
  scores = users[np.arange(3), [3, 3, 1]] @ items.T
  scores[:, 0] = -np.inf
  logp = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
  label = batch['label_item']
  np.testing.assert_allclose(
      found['label_score'], logp[np.arange(3), label], rtol=1e-4
  )
  for b in range(3):
    order = np.argsort(-logp[b])[:7].tolist()
    assert found['top_all'][b, :7].tolist() == order
    assert found['rank_all'][b] == 1 + order.index(label[b])
    unseen = [i for i in order if i not in batch['seen_item'][b]]
    assert found['rank_unseen'][b] == 1 + unseen.index(label[b])


def test_the_encoders_parameters_are_those_of_other_runs():
  objective = _objective()
  encoder = objective.model.user_encoder
  inputs = user_encoder.inputs(_batch(), encoder)
  alone = jax.eval_shape(
      user_encoder.UserEncoder(encoder).init, jax.random.key(0), *inputs
  )['params']
  params = jax.eval_shape(objective.init, jax.random.key(0), _batch())
  assert params.keys() == {'user_encoder', 'item_tower', 'log_scale'}
  assert jax.tree.structure(params['user_encoder']) == jax.tree.structure(alone)


def test_a_decoder_starts_from_the_user_tower(
    tmp_path, tiny_dataset, tiny_vocabulary
):
  """One user token of a dual encoder: the item tower stays behind."""
  _, params = small_user_llm.write_workdir(
      tmp_path / 'dual', small_user_llm.DUAL_ENCODER, DATA_DIR=tiny_dataset
  )
  config = small_user_llm.USER_LLM.replace('no_resampler', 'last_event')
  parts, other = small_user_llm.write_workdir(
      tmp_path / 'llm', config, DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )
  source = restore.InitFrom(
      path=str(tmp_path / 'dual'), prefix='user_encoder'
  )
  found = source.load(train_state.flatten(other), parts['dataset'].identity)
  want = train_state.flatten({'user_encoder': params['user_encoder']})
  assert found.keys() == want.keys()
  for path, value in found.items():
    np.testing.assert_array_equal(value, want[path])
  # And the decoder reads it.
  objective = parts['objective']
  batch = next(parts['dataset'].train_batches(batch_size=8, seed=0))
  loss = jax.jit(objective.loss, static_argnums=2)
  taken = {**other, 'user_encoder': params['user_encoder']}
  before, after = (loss(p, batch, None).total for p in (other, taken))
  assert np.isfinite(after) and after != before


def test_it_learns_what_follows_what(tmp_path, compilation_cache):
  """Users walk a ring of 40 items from anywhere: all are equally popular."""
  del compilation_cache
  rng = np.random.default_rng(0)
  users = [
      fixtures.User(
          name=str(u),
          items=(rng.integers(40) + np.arange(rng.integers(8, 20))) % 40 + 1,
      )
      for u in range(80)
  ]
  data_dir = fixtures.write_dataset(tmp_path / 'ring', users)
  dataset = small_run.dataset(data_dir)
  config = dual_encoder.DualEncoderConfig(
      user_encoder=small_run.objective(data_dir).encoder,
      features=item_features.load_item_features(
          data_dir=data_dir, split_rule=dataset.split_rule
      ),
  )
  train_lib.train(**small_run.arguments(
      data_dir,
      tmp_path / 'run',
      objective=contrastive.Contrastive(model=config, negatives_per_row=4),
      evaluators=[
          evaluator.RankingEvaluator(dataset=dataset, row='dual_encoder')
      ],
      num_steps=100,
      save_every_steps=100,
  ))
  path = tmp_path / 'run' / 'eval' / 'tiny_events' / '100-validation.json'
  models = json.loads(path.read_text())['models']
  recall = {k: v['recall@1/unseen']['mean'] for k, v in models.items()}
  assert recall['popularity'] < 0.2 and recall['dual_encoder'] > 0.8


@pytest.mark.parametrize('log_scale', [3.0, 4.61, 6.0])
def test_a_learned_temperature_comes_back_from_its_cap(log_scale):
  """At a scale of 100 (log 4.605) scores are capped, gradients are not."""
  objective, batch = _objective(), _batch()
  params = _params(objective)

  def total(log_scale):
    tree = {**params, 'log_scale': log_scale}
    return objective.loss(tree, batch, jax.random.key(0)).total

  value, grad = jax.value_and_grad(total)(np.float32(log_scale))
  used = min(log_scale, np.log(100.0))
  np.testing.assert_allclose(value, total(np.float32(used)), rtol=1e-5)
  below = np.float32(min(used, np.log(100.0) - 0.01))
  want = (total(below) - total(below - np.float32(0.02))) / 0.02
  assert abs(want) > 0.1
  np.testing.assert_allclose(grad, want, rtol=0.05)


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'negatives': 0}, 'NEGATIVES_PER_ROW must be a positive'),
        ({'temperature': 0.001}, r'\(TEMPERATURE\) must be at least 0.01'),
        ({'temperature': '0.1'}, r"\(TEMPERATURE\) .* not '0.1'"),
        ({'temperature': float('nan')}, r'\(TEMPERATURE\) .* not nan'),
        ({'temperature': float('inf')}, r'\(TEMPERATURE\) .* not inf'),
        ({'item_embed_dim': 0}, 'item_embed_dim must be a positive'),
        ({'features': item_features.ItemFeatures(
            labels=np.zeros((9, 0), int), num_labels=1,
            counts=np.zeros(9, int),
        )}, 'of 9 items and the user encoder reads 8.* same DATA_DIR'),
    ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    _objective(**fields)

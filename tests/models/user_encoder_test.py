"""The encoder, early, late and GRU: causal, packed or not, blind to padding."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.data import schema as schema_lib
from user_llm.models import attention
from user_llm.models import gru4rec
from user_llm.models import user_encoder

_SCHEMA = schema_lib.EventSchema(
    name='tiny',
    modalities=(
        schema_lib.Modality(name='item', size=12),
        schema_lib.Modality(name='genre', size=4),
    ),
)
_SIZES = dict(
    schema=_SCHEMA, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24,
    feature_embed_dim=6,
)
_CONFIG = user_encoder.UserEncoderConfig(**_SIZES)
_LATE = user_encoder.UserEncoderConfig(
    **_SIZES, fusion=user_encoder.LateFusion()
)
_GRU = user_encoder.UserEncoderConfig(**_SIZES, fusion=gru4rec.GRU4Rec())
_EACH = pytest.mark.parametrize(
    'config', [_CONFIG, _LATE, _GRU], ids=['early', 'late', 'gru']
)


def _row(num_events, seed=0):
  rng = np.random.default_rng(seed)
  return {
      'user_item': rng.integers(1, 12, num_events),
      'user_genre': rng.integers(1, 4, num_events),
      'positions': np.arange(num_events),
      'segment_ids': np.ones(num_events, int),
  }


def _padded(row, length):
  """A batch of one row."""
  return {
      name: np.pad(x, (0, length - len(x)))[None] for name, x in row.items()
  }


@functools.cache
def _params(config=_CONFIG):
  boxed = jax.eval_shape(
      user_encoder.UserEncoder(config).init,
      jax.random.key(0),
      *user_encoder.inputs(_padded(_row(3), 8), config),
  )['params']
  rng = np.random.default_rng(5)
  return jax.tree.map(
      lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32),
      partitioning.unbox(boxed),
  )


@functools.partial(jax.jit, static_argnums=1)
def _apply(batch, config=_CONFIG):
  return user_encoder.UserEncoder(config).apply(
      {'params': _params(config)}, *user_encoder.inputs(batch, config)
  )


def _encode(row, config=_CONFIG, length=8):
  return np.asarray(_apply(_padded(row, length), config))[0]


def test_parameters():
  params = _params()
  assert {name for name in params if not name.startswith('blocks')} == {
      'embeds_item', 'embeds_genre', 'projection', 'input_norm', 'norm',
      'heads_item', 'heads_genre',
  }
  assert params['embeds_item']['table'].shape == (128, 16)
  assert params['embeds_genre']['table'].shape == (128, 6)
  assert params['projection']['kernel'].shape == (22, 16)
  assert params['heads_genre']['kernel'].shape == (16, 6)


def test_parameters_of_late_fusion():
  """A Transformer a modality, as the early one; the rest is the same."""
  params = _params(_LATE)
  assert params.keys() == {
      'embeds_item', 'embeds_genre', 'inputs_item', 'inputs_genre',
      'transformers', 'projection', 'norm', 'heads_item', 'heads_genre',
  }
  assert params['inputs_genre']['kernel'].shape == (6, 16)
  assert params['projection']['kernel'].shape == (32, 16)
  early = {k: _params()[k] for k in params['transformers']}
  assert early.keys() == {'input_norm', 'blocks_0', 'blocks_1', 'norm'}
  assert jax.tree.map(lambda x: (2, *x.shape), early) == jax.tree.map(
      lambda x: x.shape, params['transformers']
  )


def test_a_gru_by_hand():
  """Gates of one layer in float64, of numpy."""
  config = dataclasses.replace(_GRU, num_layers=1)
  params = jax.tree.map(np.float64, _params(config))
  row = _row(6)
  x = np.concatenate(
      [params[f'embeds_{m}']['table'][row[f'user_{m}']] for m in _SCHEMA.names],
      axis=-1,
  )
  x /= np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
  x *= params['input_norm']['scale']
  x = x @ params['gru_0']['input']['kernel'] + params['gru_0']['input']['bias']
  kernels = np.split(params['gru_0']['state']['gates']['kernel'], 3, axis=-1)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  h, states = np.zeros(16), []
  for event in x:
    reset, update, new = np.split(event, 3)
    reset = sigmoid(reset + h @ kernels[0])
    update = sigmoid(update + h @ kernels[1])
    h = update * h + (1 - update) * np.tanh(new + reset * (h @ kernels[2]))
    states.append(h)
  np.testing.assert_allclose(_encode(row, config)[:6], states, atol=1e-5)


def test_late_transformers_start_apart():
  module = user_encoder.UserEncoder(_LATE)
  boxed = module.init(
      jax.random.key(0), *user_encoder.inputs(_padded(_row(3), 8), _LATE)
  )['params']
  kernel = boxed['transformers']['blocks_0']['mlp']['up']['kernel']
  assert kernel.names == ('modalities', 'embed', 'mlp')
  first, second = kernel.value
  assert np.abs(first - second).max() > 0.1
  # One modality's fan-in, not both's.
  np.testing.assert_allclose(first.std(), 16**-0.5, rtol=0.2)


def test_late_features_do_not_mix_before_fusion():
  module = user_encoder.UserEncoder(_LATE)

  @jax.jit
  def apart(batch):
    events, positions, segments = user_encoder.inputs(batch, _LATE)

    def run(module):
      mask = attention.causal_mask(positions, segments)
      return module.fusion.apart(module.embedded(events), positions, mask)

    return module.apply({'params': _params(_LATE)}, method=run)

  row = _row(6)
  want = apart(_padded(row, 8))
  assert want.shape == (2, 1, 8, 16)
  for m, name in enumerate(('user_item', 'user_genre')):
    changed = {**row, name: row[name] % 3 + 1}
    found = apart(_padded(changed, 8))
    assert np.abs(found[m] - want[m])[0, :6].max(axis=-1).min() > 1e-3
    np.testing.assert_array_equal(found[1 - m], want[1 - m])


@pytest.mark.parametrize('name', ['user_item', 'user_genre'])
@pytest.mark.parametrize('at', [0, 3, 5])
@_EACH
def test_an_event_changes_itself_and_later_ones_only(config, name, at):
  row = _row(6)
  changed = {k: v.copy() for k, v in row.items()}
  changed[name][at] = changed[name][at] % 3 + 1
  difference = np.abs(_encode(changed, config) - _encode(row, config))
  difference = difference.max(axis=-1)
  np.testing.assert_array_equal(difference[:6] > 1e-6, np.arange(6) >= at)


@_EACH
def test_padding_changes_nothing(config):
  row = _row(6)
  alone = _encode(row, config, length=6)
  np.testing.assert_allclose(
      _encode(row, config)[:6], alone, rtol=1e-5, atol=1e-6
  )
  # Whatever the padding's ids are.
  batch = _padded(row, 8)
  batch['user_item'][0, 6:] = 5
  np.testing.assert_array_equal(
      _apply(batch, config)[0, :6], _encode(row, config)[:6]
  )


@_EACH
def test_packed_segments_equal_separate_rows(config):
  first, second = _row(3), _row(4, seed=1)
  packed = {
      name: np.concatenate([first[name], second[name]]) for name in first
  }
  packed['segment_ids'] = np.repeat([1, 2], [3, 4])
  found = _encode(packed, config)
  np.testing.assert_allclose(
      found[:3], _encode(first, config)[:3], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
      found[3:7], _encode(second, config)[:4], rtol=1e-5, atol=1e-6
  )


def test_the_order_of_events_matters():
  row = _row(5)
  swapped = {k: v.copy() for k, v in row.items()}
  for name in ('user_item', 'user_genre'):
    swapped[name][[0, 1]] = swapped[name][[1, 0]]
  assert np.abs(_encode(swapped)[4] - _encode(row)[4]).max() > 1e-3


@_EACH
def test_dropout_needs_its_rng(config):
  variables = {'params': _params(config)}
  config = dataclasses.replace(config, dropout_rate=0.5)
  module = user_encoder.UserEncoder(config)
  arguments = user_encoder.inputs(_padded(_row(6), 8), config)
  rngs = {'dropout': jax.random.key(0)}
  quiet = module.apply(variables, *arguments)
  np.testing.assert_array_equal(quiet, module.apply(variables, *arguments))
  noisy = module.apply(variables, *arguments, rngs=rngs)
  assert np.abs(noisy - quiet).max() > 1e-2
  np.testing.assert_array_equal(
      noisy, module.apply(variables, *arguments, rngs=rngs)
  )


def test_the_head_scores_in_the_table_of_its_feature():
  x = np.asarray(_apply(_padded(_row(4), 8)))
  module = user_encoder.UserEncoder(_CONFIG)
  h, table = module.apply({'params': _params()}, x, 'genre', method='head')
  assert table.shape == (128, 6)
  np.testing.assert_allclose(
      h, x @ _params()['heads_genre']['kernel'], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'num_heads': 3}, 'embed_dim=16 is not divisible by num_heads=3'),
        ({'num_heads': 16}, 'head width 1 must be even'),
        ({'num_layers': 0}, 'num_layers must be a positive integer, not 0'),
        ({'mlp_dim': '24'}, "mlp_dim must be a positive integer, not '24'"),
        ({'feature_embed_dim': 2.0}, 'feature_embed_dim must be'),
        ({'item_embed_dim': -1}, 'item_embed_dim must be'),
        ({'dropout_rate': 1.0}, r'dropout_rate must be in \[0, 1\)'),
        ({'dropout_rate': '0.1'}, 'dropout_rate must be'),
        ({'fusion': 'late'}, r"\(FUSION\) must be .* not 'late'"),
        ({'fusion': user_encoder.LateFusion}, r'\(FUSION\) must be'),
    ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    user_encoder.UserEncoderConfig(**{**_SIZES, **fields})


def test_a_gru_does_not_see_both_sides():
  config = dataclasses.replace(_GRU, causal=False)
  with pytest.raises(ValueError, match='GRU4Rec needs a causal encoder'):
    _params(config)

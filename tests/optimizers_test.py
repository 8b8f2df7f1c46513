"""Schedule, updates against a hand-written AdamW, factors, errors."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import optimizers
from user_llm import train_state


def test_schedule():
  config = optimizers.AdamW(
      learning_rate=0.2, warmup_steps=10, end_factor=0.1
  )
  schedule = config.schedule(110)
  for step, rate in {
      0: 0.0,
      5: 0.1,
      10: 0.2,
      # Half of the cosine: the mean of the peak and the end.
      60: (0.2 + 0.02) / 2,
      85: 0.02 + 0.18 * (1 + math.cos(0.75 * math.pi)) / 2,
      110: 0.02,
  }.items():
    assert schedule(step) == pytest.approx(rate, rel=1e-5), step


def test_no_warmup():
  schedule = optimizers.AdamW(learning_rate=0.2, warmup_steps=0).schedule(4)
  assert schedule(0) == pytest.approx(0.2)


def _numpy_adamw(value, grads, rates, decay, b2=0.98, b1=0.9, epsilon=1e-8):
  mu = nu = 0.0
  for t, (grad, rate) in enumerate(zip(grads, rates), start=1):
    mu = b1 * mu + (1 - b1) * grad
    nu = b2 * nu + (1 - b2) * grad**2
    update = mu / (1 - b1**t) / (np.sqrt(nu / (1 - b2**t)) + epsilon)
    value = value - rate * (update + decay * value)
  return value


def _updated(config, params, grads, num_steps):
  optimizer = config.make(num_steps)
  state = optimizer.init(params)
  for step_grads in grads:
    updates, state = optimizer.update(step_grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params


def test_updates_equal_numpy():
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  config = optimizers.AdamW(
      learning_rate=0.1, warmup_steps=2, weight_decay=0.3, clip_norm=1e9,
      scales=(('new/kernel', 10.0), ('new', 5.0)),
  )
  # In scanned layers the vectors are stacked, and yet not decayed.
  params = {
      'old': {'kernel': normal(2, 3), 'bias': normal(3)},
      'new': {'kernel': normal(2, 3), 'gate': normal(2)},
      'norms': {'scale': normal(4, 3)},
  }
  grads = [
      jax.tree.map(lambda x: normal(*x.shape), params) for _ in range(3)
  ]
  found = _updated(config, params, grads, 5)
  rates = np.array([0.0, 0.05, 0.1])
  for part, name, factor, decay in (
      ('old', 'kernel', 1, 0.3),
      ('old', 'bias', 1, 0.0),
      ('new', 'kernel', 10, 0.3),
      ('new', 'gate', 5, 0.0),
      ('norms', 'scale', 1, 0.0),
  ):
    expected = _numpy_adamw(
        params[part][name],
        [g[part][name] for g in grads],
        factor * rates,
        decay,
    )
    np.testing.assert_allclose(
        found[part][name], expected, rtol=1e-4, atol=1e-5
    )


def test_what_is_decayed():
  paths = {
      'encoder/q/kernel': True,
      'resampler/latents': True,
      'embeds/table': True,
      'resampler/blocks_0/recency/table': False,
      'decoder/groups/cross_attention/recency/table': False,
      'recency/table': False,
      'recency/kernel': True,
      'norm/scale': False,
      'table_norm': False,
  }
  config = optimizers.AdamW(
      learning_rate=0.1, warmup_steps=0, weight_decay=0.5
  )
  params = train_state.unflatten({path: jnp.ones(2) for path in paths})
  grads = jax.tree.map(jnp.zeros_like, params)
  found = train_state.flatten(_updated(config, params, [grads], 5))
  for path, is_decayed in paths.items():
    want = 0.95 if is_decayed else 1.0
    np.testing.assert_allclose(found[path], want, rtol=1e-6, err_msg=path)


def test_clipping_is_of_the_global_norm():
  config = optimizers.AdamW(
      learning_rate=0.1, warmup_steps=0, weight_decay=0.0, clip_norm=0.5
  )
  optimizer = config.make(3)
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  _, state = optimizer.update(
      {'a': jnp.array([3.0]), 'b': jnp.array([4.0])},
      optimizer.init(params),
      params,
  )
  # The norm is 5: a tenth of each remains, and a tenth of it is the moment.
  mu = state[1].mu
  np.testing.assert_allclose([mu['a'][0], mu['b'][0]], [0.03, 0.04], rtol=1e-5)


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'learning_rate': '1e-3'}, r"\(LEARNING_RATE\) must .* not '1e-3'"),
        ({'learning_rate': 0}, 'learning_rate .* number above 0'),
        ({'learning_rate': -0.1}, 'learning_rate .* number above 0'),
        ({'learning_rate': True}, 'learning_rate .* number above 0'),
        ({'learning_rate': math.nan}, 'learning_rate .* finite .* not nan'),
        ({'learning_rate': math.inf}, 'learning_rate .* finite .* not inf'),
        ({'learning_rate': 1e39}, r'learning_rate .* float32, not 1e\+39'),
        ({'weight_decay': '0'}, r'\(WEIGHT_DECAY\) must be a finite number'),
        ({'weight_decay': -0.1}, 'weight_decay .* of at least 0 .* not -0.1'),
        ({'end_factor': '0'}, 'end_factor must be a finite number'),
        ({'end_factor': -1}, 'end_factor .* of at least 0'),
        ({'b2': '0.9'}, 'b2 must be a finite number'),
        ({'b2': 1.0}, 'b2 .* from 0 to below 1 .* not 1.0'),
        ({'b2': 1 - 1e-9}, 'b2 .* from 0 to below 1 in float32'),
        ({'b2': -0.1}, 'b2 .* from 0 to below 1'),
        ({'clip_norm': 0.0}, 'clip_norm .* above 0 .* not 0.0'),
        ({'clip_norm': -1}, 'clip_norm .* above 0 .* not -1'),
        ({'clip_norm': math.nan}, 'clip_norm .* finite'),
        ({'warmup_steps': 10.0}, r'\(WARMUP_STEPS\) must be an integer'),
        ({'warmup_steps': -1}, r'\(WARMUP_STEPS\) must be an integer'),
    ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    optimizers.AdamW(**{'learning_rate': 0.1, **fields})


def test_settings_at_their_limits_make_finite_updates():
  """A step with finite gradients is taken to be a good one."""
  params = {'kernel': jnp.float32([1e3, -1e-3, 0.0, 1.0])}
  grads = {'kernel': jnp.float32([1e18, 1e-30, 0.0, -1.0])}
  config = {'learning_rate': 1.0, 'warmup_steps': 0}
  for fields in (
      {'b2': 0.0},
      {'b2': 1 - 2**-24},
      {'clip_norm': 1e-37},
      {'clip_norm': 1e38},
      {'weight_decay': 0, 'end_factor': 0},
  ):
    for num in (1, 3):
      found = _updated(
          optimizers.AdamW(**config | fields), params, [grads] * num, 9
      )
      assert np.all(np.isfinite(found['kernel'])), fields


def test_no_step_after_the_warmup():
  config = optimizers.AdamW(learning_rate=0.1, warmup_steps=10)
  with pytest.raises(ValueError, match='NUM_STEPS=10 .*WARMUP_STEPS=10'):
    config.make(10)


@pytest.mark.parametrize('scales', [
    ('a.*', 10.0), 'a', None, (('a', '10'),), (('a', True),), (('a', -10.0),),
    (('a', math.nan),), (('a', math.inf),), (('a',),), ((1, 10.0),),
    (('a', 1.0), 'ab'),
], ids=str)
def test_scales_that_are_no_rules(scales):
  message = r'\(LEARNING_RATE_SCALES\) must be a tuple of .* such as .* not '
  with pytest.raises(ValueError, match=message + re.escape(repr(scales))):
    optimizers.AdamW(learning_rate=0.1, scales=scales)


def test_scales_of_no_regular_expression():
  message = r"LEARNING_RATE_SCALES: '\*a' is no regular expression"
  with pytest.raises(ValueError, match=message):
    optimizers.AdamW(learning_rate=0.1, scales=(('*a', 10.0),))


@pytest.mark.parametrize(
    ['scales', 'idle'],
    [
        ((('gaet', 10.0),), 'gaet'),
        ((('.*', 1.0), ('gate', 10.0)), 'gate'),
        ((('gate', 10.0), ('gate', 2.0)), 'gate'),
        ((('gate', 10.0), ('new', 2.0), ('.*gate', 3.0)), '.*gate'),
    ],
)
def test_scales_that_decide_nothing(scales, idle):
  params = {'gate': jnp.zeros(1), 'new': {'gate': jnp.zeros(1)}}
  optimizer = optimizers.AdamW(learning_rate=0.1, scales=scales).make(200)
  message = (
      f'LEARNING_RATE_SCALES={scales} on what trains: {[idle]} decide no '
      'parameter; parameters start with gate, new/gate.'
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    optimizer.init(params)

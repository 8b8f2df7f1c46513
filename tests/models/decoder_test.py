"""Decoder: against numpy, with and without cache, groups and users."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import losses
from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.models import decoder_layers
from user_llm.models import decoder_config
from user_llm.models import kv_cache
from user_llm.models import layers
from user_llm.models import positions


def _config(every=2, **kwargs):
  sizes = dict(
      vocab_size=50, num_layers=5, embed_dim=16, num_heads=4, num_kv_heads=2,
      head_dim=6, mlp_dim=24,
  )
  cross = cross_attention.CrossAttentionConfig(
      every=every, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=8,
      max_recency=3,
  )
  return decoder_config.DecoderConfig(
      **{**sizes, **kwargs}, cross_attention=cross
  )


def _tokens(rows=6, length=7, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(1, 50, (rows, length)).astype(np.int32)


def _user(num_users=3, rows=2, seed=1):
  rng = np.random.default_rng(seed)
  mask = rng.random((num_users, rows, 5)) < 0.7
  mask[0, 0] = False
  return cross_attention.UserTokens(
      rng.normal(size=(num_users, 5, 16)).astype(np.float32),
      mask,
      rng.integers(0, 5, (num_users, rows, 5)).astype(np.int32),
  )


def _forward(module, tokens, user=None):
  context = None if user is None else module.user_context(user)
  x, _ = module(tokens, context)
  return module.logits(x)


def _init(config, user=None, seed=3):
  """Random parameters; gates (and nothing else) as a fresh model has them."""
  boxed = jax.eval_shape(
      lambda: decoder.Decoder(config).init(
          jax.random.key(0), _tokens(), user, method=_forward
      )
  )
  rng = np.random.default_rng(seed)

  def value(path, shape):
    if 'gate' in path[-1].key:
      return np.zeros(shape.shape, np.float32)
    return 0.5 * rng.normal(size=shape.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(
      value, partitioning.unbox(boxed)['params']
  )


def _logits(config, params, tokens, user=None):
  module = decoder.Decoder(config)
  return jax.jit(
      lambda p: module.apply({'params': p}, tokens, user, method=_forward)
  )(params)


def _opened(params, opening=0.7):
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x + opening * ('gate' in path[-1].key), params
  )


def _layers_of(params, config):
  """Single layers, from the stacks."""
  every = config.cross_attention.every
  single = []
  for i in range(config.num_layers):
    if i < every * config.num_groups:
      stack = params['groups'][f'layers_{i % every}']
      single.append(jax.tree.map(lambda x: np.asarray(x[i // every]), stack))
    else:
      rest = params['rest'][f'layers_{i - every * config.num_groups}']
      single.append(jax.tree.map(np.asarray, rest))
  return single


def _stacked(single, config):
  """The inverse of `_layers_of`."""
  every = config.cross_attention.every
  scanned = every * config.num_groups
  stack = lambda *xs: np.stack(xs)
  params = {
      'groups': {
          f'layers_{i}': jax.tree.map(stack, *single[i:scanned:every])
          for i in range(every)
      }
  }
  if config.num_rest:
    rest = enumerate(single[scanned:])
    params['rest'] = {f'layers_{i}': layer for i, layer in rest}
  return params


def _numpy_rms(x, scale):
  return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def _numpy_rotary(x_THh, base=10_000.0):
  half = x_THh.shape[-1] // 2
  pairs = x_THh[..., :half] + 1j * x_THh[..., half:]
  freqs = base ** (-np.arange(half) / half)
  angle = np.arange(len(x_THh))[:, None, None] * freqs
  turned = pairs * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag], -1)


def _numpy_decoder(params, config, tokens_T):
  """One row, by loops over heads and positions, in float64."""
  table = np.asarray(params['embed']['table'], np.float64)
  x = table[tokens_T]
  head_dim, length = config.head_dim, len(tokens_T)
  for layer in _layers_of(params, config):
    h = _numpy_rms(x, layer['attention_norm']['scale'])
    split = lambda name: (h @ layer['attention'][name]['kernel']).reshape(
        length, -1, head_dim
    )
    q, k, v = _numpy_rotary(split('q')), _numpy_rotary(split('k')), split('v')
    out = np.zeros_like(q)
    for n in range(config.num_heads):
      kv_head = n * config.num_kv_heads // config.num_heads
      for t in range(length):
        score = k[: t + 1, kv_head] @ q[t, n] / np.sqrt(head_dim)
        prob = np.exp(score - score.max())
        out[t, n] = (prob / prob.sum()) @ v[: t + 1, kv_head]
    x = x + out.reshape(length, -1) @ layer['attention']['o']['kernel']
    h = _numpy_rms(x, layer['mlp_norm']['scale'])
    mlp = {name: h_['kernel'] for name, h_ in layer['mlp'].items()}
    gate = h @ mlp['gate']
    x = x + (gate / (1 + np.exp(-gate)) * (h @ mlp['up'])) @ mlp['down']
  return _numpy_rms(x, np.asarray(params['norm']['scale'])) @ table.T


def test_equals_numpy_with_grouped_heads_and_a_rest():
  config = _config()
  params = _opened(_init(config))
  got = _logits(config, params, _tokens())
  for row, tokens in zip(got, _tokens()):
    want = _numpy_decoder(params, config, tokens)
    np.testing.assert_allclose(row[:, :50], want[:, :50], atol=2e-4)
  assert np.all(got[..., 50:] == attention.MASKED)


def test_groups_are_only_a_layout():
  params = _opened(_init(_config()))
  single = _layers_of(params, _config())
  want = _logits(_config(), params, _tokens())
  for every in (1, 3, 5):
    config = _config(every)
    other = {
        'embed': params['embed'], 'norm': params['norm'],
        **_stacked(single, config),
    }
    got = _logits(config, other, _tokens())
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_names_are_the_same_with_users_and_gates_closed_at_first():
  config = _config()
  bare = _init(config)
  full = _init(config, _user())
  paths = lambda p: {
      jax.tree_util.keystr(k): v.shape
      for k, v in jax.tree_util.tree_leaves_with_path(p)
  }
  assert paths(bare).items() <= paths(full).items()
  extra = paths(full).keys() - paths(bare).keys()
  assert extra and all("['groups']['cross_attention']" in e for e in extra)
  np.testing.assert_array_equal(
      _logits(config, full, _tokens(), _user()),
      _logits(config, full, _tokens()),
  )


def test_stacked_parameters_carry_their_names():
  variables = jax.eval_shape(
      lambda: decoder.Decoder(_config()).init(
          jax.random.key(0), _tokens(), _user(), method=_forward
      )
  )
  groups = variables['params']['groups']
  kernel = groups['layers_1']['attention']['k']['kernel']
  assert kernel.names == ('layers', 'embed', 'kv_heads')
  assert groups['cross_attention']['gate'].names == ('layers',)
  assert groups['cross_attention']['gate'].value.shape == (2,)


def test_users_change_the_logits_where_they_may_be_seen():
  config = _config()
  params = _opened(_init(config, _user()))
  with_user = _logits(config, params, _tokens(), _user())
  user = _user()
  nobody = user._replace(mask=np.zeros_like(user.mask))
  without = _logits(config, params, _tokens(), nobody)
  # Row 0 of user 0 has no history.
  np.testing.assert_allclose(with_user[0], without[0], atol=1e-5)
  assert np.abs(with_user[1:] - without[1:]).max(axis=(1, 2)).min() > 1e-3


def test_remat_and_unrolling_change_nothing():
  config = _config(num_layers=4)
  params = _opened(_init(config, _user()))

  def gradients(config):
    def loss(p):
      return jnp.mean(_logits(config, p, _tokens(), _user())[..., :50] ** 2)

    return jax.jit(jax.grad(loss))(params)

  want = gradients(config)
  got = gradients(dataclasses.replace(config, remat=True, scan_unroll=2))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
      got, want,
  )


@pytest.mark.parametrize('tied', [True, False])
def test_cached_rows_equal_whole_rows(tied):
  config = _config(tied_embeddings=tied, qkv_bias=True)
  user = _user(rows=1)
  params = _opened(_init(config, _user()))
  prompts, added = _tokens(rows=3, length=4), _tokens(6, 3, seed=5)
  parents = np.array([[1, 0], [0, 0], [1, 0]])
  order = np.array([1, 0, 2, 2, 5, 4])

  def run(module):
    context = module.user_context(user)
    logits, cache = module.prefill(prompts, context, rows=2, capacity=3)
    outputs = [jnp.repeat(logits, 2, axis=0)]
    for i in range(2):
      logits, cache = module.extend(added[:, i], context, cache)
      outputs.append(logits)
    cache = kv_cache.reorder(cache, parents)
    logits, cache = module.extend(added[:, 2], context, cache)
    return outputs, logits

  module = decoder.Decoder(config)
  outputs, last = jax.jit(
      lambda p: module.apply({'params': p}, method=run)
  )(params)
  whole = np.concatenate([np.repeat(prompts, 2, axis=0), added], axis=1)
  want = _logits(config, params, whole, _user_rows(user))
  for i, got in enumerate(outputs):
    np.testing.assert_allclose(got, want[:, 3 + i], atol=1e-4)
  shuffled = np.concatenate([whole[order, :6], added[:, 2:]], axis=1)
  want = _logits(config, params, shuffled, _user_rows(user))
  np.testing.assert_allclose(last, want[:, 6], atol=1e-4)


@pytest.mark.parametrize('tied', [True, False])
def test_steps_score_tokens_as_the_loss_does_in_bfloat16(monkeypatch, tied):
  """Of prompts and of one more token, -log p of all tokens; not compiled.

  Compiled, a CPU would keep float32 where bfloat16 is said.
  """
  monkeypatch.setattr(
      layers, 'compute_dtype', lambda: jnp.dtype(jnp.bfloat16)
  )
  config = _config(every=1, num_layers=1, tied_embeddings=tied)
  params = _init(config)
  ids = np.arange(*config.candidates)[1:]

  def nats_of_loss(module, x_RTD):
    x_RTD = jnp.repeat(x_RTD[:, -1:], len(ids), axis=1)
    targets = jnp.broadcast_to(ids, x_RTD.shape[:2])
    return losses.token_losses(
        x_RTD, module.token_table(), targets, config.candidates
    ).nats

  def run(module):
    prompts, added = _tokens(rows=3, length=4), _tokens(3, 1, seed=5)
    first, cache = module.prefill(prompts, None, rows=1, capacity=1)
    x_RTD, _ = module(added, None, cache, keep_kv=True)
    second, _ = module.extend(added[:, 0], None, cache)
    assert x_RTD.dtype == jnp.bfloat16
    return [
        (first, nats_of_loss(module, module(prompts)[0])),
        (second, nats_of_loss(module, x_RTD)),
    ]

  found = decoder.Decoder(config).apply({'params': params}, method=run)
  for logits, wanted in found:
    nats = -jax.nn.log_softmax(logits)[:, ids]
    np.testing.assert_allclose(nats, wanted, rtol=1e-5, atol=1e-5)


def _user_rows(user):
  """The same users, whose mask says that they have two rows."""
  twice = lambda x: np.repeat(x, 2, axis=1)
  return user._replace(mask=twice(user.mask), recency=twice(user.recency))


def _continued(config, params, prompts, user, added):
  """Logits f[R, 1 + n, V] after prompts i[B, T] and added tokens i[R, n]."""
  rows = len(added) // len(prompts)

  def run(module):
    context = module.user_context(user)
    logits, cache = module.prefill(prompts, context, rows, added.shape[1])
    outputs = [jnp.repeat(logits, rows, axis=0)]
    for tokens in added.T:
      logits, cache = module.extend(tokens, context, cache)
      outputs.append(logits)
    return jnp.stack(outputs, axis=1)

  module = decoder.Decoder(config)
  return np.asarray(
      jax.jit(lambda p: module.apply({'params': p}, method=run))(params)
  )


def test_padding_in_front_changes_nothing():
  """Each of some ragged prompts gives what it gives alone, without padding.

  A prompt may contain the id 0, which is padding only in front.
  """
  config = _config()
  user = _user(rows=1)
  params = _opened(_init(config, user))
  tokens, added = _tokens(3, 6), _tokens(6, 3, seed=5)
  tokens[1, 4] = 0
  lengths = [6, 3, 1]
  padded = np.zeros((3, 8), np.int32)
  for i, length in enumerate(lengths):
    padded[i, 8 - length :] = tokens[i, 6 - length :]
  together = _continued(config, params, padded, user, added)
  for i, length in enumerate(lengths):
    rows = slice(2 * i, 2 * i + 2)
    alone = _continued(
        config, params, tokens[i : i + 1, 6 - length :],
        jax.tree.map(lambda x: x[i : i + 1], user), added[rows],
    )
    np.testing.assert_allclose(
        together[rows, :, :50], alone[..., :50], atol=1e-5
    )


def test_without_stacks_it_is_the_same_decoder():
  windows = tuple(
      positions.PositionsConfig(window=w, base=b)
      for w, b in ((3, 10.0), (0, 1e4))
  )
  config = _config(positions=windows)
  user = _user(rows=1)
  params = _opened(_init(config, user))
  prompts, added = _tokens(3, 6), _tokens(6, 3, seed=5)
  unstacked = dataclasses.replace(config, stacked=False)
  own = decoder_layers.unstack(params)
  assert own['groups'].keys() == {'groups_0', 'groups_1'}
  np.testing.assert_allclose(
      _continued(unstacked, own, prompts, user, added),
      _continued(config, params, prompts, user, added),
      atol=1e-5,
  )


@pytest.mark.parametrize(
    'field', [dict(num_kv_heads=3), dict(head_dim=5), dict(vocab_size=0),
              dict(num_layers=1), dict(dropout_rate=1.0),
              dict(context_length=-1)], ids=str,
)
def test_wrong_sizes_are_named(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    _config(**field)

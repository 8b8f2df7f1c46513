"""LoRA: nothing at first, the merged decoder later, no gradient of a kernel."""

import dataclasses

import jax
import jax.extend
import numpy as np
import pytest

from user_llm import partitioning
from user_llm import train_state
from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.models import decoder_config
from user_llm.models import lora

_EVERY_KERNEL = lora.LoraConfig(rank=3, alpha=6.0, matrices=('.*',))
_NAMES = {
    'attention/q', 'attention/k', 'attention/v', 'attention/o',
    'mlp/gate', 'mlp/up', 'mlp/down',
}


def _config(lora_config=lora.LoraConfig(rank=2, alpha=6.0), **kwargs):
  sizes = dict(
      vocab_size=50, num_layers=5, embed_dim=16, num_heads=4, num_kv_heads=2,
      head_dim=6, mlp_dim=40, tied_embeddings=False,
      cross_attention=cross_attention.CrossAttentionConfig(
          every=2, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=8
      ),
  )
  return decoder_config.DecoderConfig(
      **{**sizes, **kwargs}, lora=lora_config
  )


def _inputs(num_users=2, length=7):
  rng = np.random.default_rng(0)
  user = cross_attention.UserTokens(
      rng.normal(size=(num_users, 5, 16)).astype(np.float32),
      np.ones((num_users, 1, 5), bool),
      np.tile(np.arange(5), (num_users, 1, 1)),
  )
  return rng.integers(1, 50, (num_users, length)).astype(np.int32), user


def _forward(module, tokens, user):
  x, _ = module(tokens, module.user_context(user))
  return module.logits(x)


def _init(config):
  return decoder.Decoder(config).init(
      jax.random.key(0), *_inputs(), method=_forward
  )


def _boxed(config):
  return jax.eval_shape(lambda: _init(config))['params']


def _random(config, seed=1):
  """Random parameters, by path."""
  rng = np.random.default_rng(seed)
  return {
      path: (0.3 * rng.normal(size=x.shape)).astype(np.float32)
      for path, x in train_state.flatten(
          partitioning.unbox(_boxed(config))
      ).items()
  }


def _logits(config, flat):
  return jax.jit(
      lambda p: decoder.Decoder(config).apply(
          {'params': p}, *_inputs(), method=_forward
      )
  )(train_state.unflatten(flat))


def _without(flat):
  return {k: v for k, v in flat.items() if '/lora_' not in k}


def test_at_first_the_logits_are_those_of_the_kernels_bit_by_bit():
  config = _config(_EVERY_KERNEL)
  fresh = train_state.flatten(
      partitioning.unbox(jax.jit(lambda: _init(config))())['params']
  )
  updates = {k: v for k, v in fresh.items() if '/lora_' in k}
  for path, value in updates.items():
    assert np.any(value) == ('/lora_a/' in path), path
  flat = {**_random(config), **updates}
  base = _config(lora.NoLoraConfig())
  np.testing.assert_array_equal(
      _logits(config, flat), _logits(base, _without(flat))
  )


@pytest.mark.parametrize('lora_config', [lora.LoraConfig(), _EVERY_KERNEL])
def test_the_merged_decoder_computes_the_same(lora_config):
  config = _config(lora_config)
  flat = _random(config)
  merged = train_state.flatten(
      lora.merge(train_state.unflatten(flat), lora_config)
  )
  base = _config(lora.NoLoraConfig())
  assert merged.keys() == _without(flat).keys()
  want = _logits(base, merged)
  np.testing.assert_allclose(_logits(config, flat), want, rtol=1e-5, atol=1e-5)
  # And the updates do something.
  assert np.abs(want - _logits(base, _without(flat))).max() > 0.1


def test_merging_by_hand():
  """One kernel of two stacked layers: W + alpha / rank * A B."""
  q = {
      'kernel': np.ones((2, 2, 3), np.float32),
      'lora_a': {'kernel': np.array([[[1], [2]], [[0], [1]]], np.float32)},
      'lora_b': {'kernel': np.array([[[1, 0, 3]], [[2, 2, 0]]], np.float32)},
  }
  got = lora.merge({'q': q}, lora.LoraConfig(rank=1, alpha=0.5))
  want = [
      [[1.5, 1.0, 2.5], [2.0, 1.0, 4.0]],
      [[1.0, 1.0, 1.0], [2.0, 2.0, 1.0]],
  ]
  np.testing.assert_array_equal(got['q']['kernel'], want)
  assert got['q'].keys() == {'kernel'}


def test_only_the_layers_own_kernels_are_adapted():
  def adapted(matrices):
    config = _config(lora.LoraConfig(matrices=matrices))
    return {
        path.removesuffix('/lora_a/kernel')
        for path in train_state.flatten(_boxed(config))
        if '/lora_a/' in path
    }

  layers = {'groups/layers_0', 'groups/layers_1', 'rest/layers_0'}
  everything = {f'{layer}/{name}' for layer in layers for name in _NAMES}
  assert adapted(('.*',)) == everything
  assert adapted(lora.LoraConfig().matrices) == {
      path for path in everything if '/attention/' in path
  }
  assert adapted(('rest/.*/q/', 'groups/layers_1/mlp/(up|down)')) == {
      'rest/layers_0/attention/q', 'groups/layers_1/mlp/up',
      'groups/layers_1/mlp/down',
  }


def test_updates_are_sharded_as_their_kernel():
  layer = _boxed(_config())['groups']['layers_0']['attention']
  assert layer['q']['lora_a']['kernel'].names == ('layers', 'embed', 'lora')
  assert layer['q']['lora_b']['kernel'].names == ('layers', 'lora', 'heads')
  assert layer['o']['lora_a']['kernel'].names == ('layers', 'heads', 'lora')
  assert layer['o']['lora_b']['kernel'].names == ('layers', 'lora', 'embed')
  assert layer['o']['lora_a']['kernel'].value.shape == (2, 24, 2)
  mesh = partitioning.MeshConfig(data=2, model=4).make()
  shardings = partitioning.param_shardings(layer, mesh)
  assert tuple(shardings['k']['lora_b']['kernel'].spec) == (
      None, None, 'model'
  )


def _loss(config, trainable, frozen):
  params = train_state.unflatten({**trainable, **frozen})
  logits = decoder.Decoder(config).apply(
      {'params': params}, *_inputs(), method=_forward
  )
  return (logits[..., :50] ** 2).mean()


def _shapes_of_products(jaxpr):
  """Shapes that matrix products give, at any depth; each smaller axis first."""
  found = set()
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      found |= {tuple(sorted(out.aval.shape)) for out in eqn.outvars}
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      found |= _shapes_of_products(inner)
  return found


def test_no_gradient_is_as_large_as_a_kernel():
  config = _config(_EVERY_KERNEL, remat=True)
  flat = _random(config)
  # Of q and o, of k and v, of the feed-forward: no activation has these.
  kernels = {(16, 24), (12, 16), (16, 40)}

  def products(regex):
    trainable, frozen = train_state.split(train_state.unflatten(flat), [regex])
    grad = jax.grad(_loss, argnums=1)
    jaxpr = jax.make_jaxpr(grad, static_argnums=0)(
        config, train_state.flatten(trainable), train_state.flatten(frozen)
    )
    return _shapes_of_products(jaxpr.jaxpr)

  assert not kernels & products('.*/lora_[ab]/')
  assert kernels <= products('.*')


def test_remat_changes_nothing():
  config = _config(num_layers=4)
  flat = _random(config)

  def gradients(config):
    grad = jax.grad(lambda p: _loss(config, p, {}))
    return jax.jit(grad)(flat)

  want = gradients(config)
  got = gradients(dataclasses.replace(config, remat=True, scan_unroll=2))
  for path, value in got.items():
    np.testing.assert_allclose(
        value, want[path], rtol=1e-3, atol=1e-4, err_msg=path
    )


@pytest.mark.parametrize('regex', ['.*/attention/query', '.*cross_attention'])
def test_a_regex_that_matches_no_kernel_is_named(regex):
  config = _config(lora.LoraConfig(matrices=('.*/mlp/up', regex)))
  with pytest.raises(ValueError, match='matches no kernel') as error:
    _boxed(config)
  assert repr(regex) in str(error.value)
  assert 'rest/layers_0/attention/q/kernel' in str(error.value)


@pytest.mark.parametrize(
    'field',
    [dict(rank=0), dict(rank=2.0), dict(alpha='16'), dict(alpha=0.0),
     dict(matrices=()), dict(matrices='.*'), dict(matrices=('(',))],
    ids=str,
)
def test_wrong_fields_are_named(field):
  with pytest.raises(ValueError, match=f'LoraConfig.{next(iter(field))}'):
    lora.LoraConfig(**field)

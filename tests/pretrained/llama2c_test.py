"""stories260K, a trained language model: its text shows the conversion."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.pretrained import loading

_MODEL = pathlib.Path(__file__).parents[3] / 'shared/models/stories260K'


@pytest.fixture(scope='module')
def stories():
  if not _MODEL.is_dir():
    pytest.skip(f'no {_MODEL}')
  import seqio  # Late: it imports TensorFlow.

  path = str(_MODEL / 'stories260K.bin')
  config = loading.load_config(
      path=path,
      cross_attention=cross_attention.CrossAttentionConfig(
          every=2, num_heads=4, head_dim=8
      ),
  )
  vocabulary = seqio.SentencePieceVocabulary(str(_MODEL / 'tok512.model'))
  return path, config, loading.load_params(path, config), vocabulary


def _forward(module, tokens, user=None):
  context = None if user is None else module.user_context(user)
  return module.logits(module(tokens, context)[0])


@functools.cache
def _run(config):
  module = decoder.Decoder(config)
  return jax.jit(
      lambda params, tokens, user=None: module.apply(
          {'params': params}, tokens, user, method=_forward
      )
  )


def test_a_story_is_likely(stories):
  _, config, params, vocabulary = stories
  assert config.context_length == 512
  text = (
      'Once upon a time, there was a little girl named Lily. She loved to play'
      ' outside in the park. One day, she saw a big, red ball.'
  )
  tokens = np.array([[vocabulary.bos_id, *vocabulary.encode(text)]])
  logp = jax.nn.log_softmax(_run(config)(params, tokens[:, :-1])[0])
  nats = -np.take_along_axis(np.asarray(logp), tokens[0, 1:, None], axis=1)
  assert nats.mean() < 1.5


def test_greedy_text_is_a_story_and_the_cache_changes_nothing(stories):
  _, config, params, vocabulary = stories
  module = decoder.Decoder(config)
  prompt = [vocabulary.bos_id, *vocabulary.encode('Once upon a time')]
  steps = 24

  @jax.jit
  def prefill(params, tokens):
    return module.apply(
        {'params': params}, tokens, None, 1, steps, method='prefill'
    )

  @jax.jit
  def extend(params, tokens, cache):
    return module.apply(
        {'params': params}, tokens, None, cache, method='extend'
    )

  logits, cache = prefill(params, np.array([prompt]))
  found = [int(logits.argmax())]
  for _ in range(steps - 1):
    logits, cache = extend(params, np.array(found[-1:]), cache)
    found.append(int(logits.argmax()))
  whole = np.array([prompt + found])
  logits = _run(config)(params, whole)
  assert found == logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
  text = vocabulary.decode(found)
  assert text.startswith(', there was a little girl named Lily.'), text


def test_attaching_users_leaves_the_logits_bit_equal(stories):
  _, config, params, vocabulary = stories
  module = decoder.Decoder(config)
  rng = np.random.default_rng(0)
  tokens = np.array([vocabulary.encode('Lily and Tom went to the park.')] * 4)
  user = cross_attention.UserTokens(
      rng.normal(size=(2, 6, 64)).astype('f'),
      np.ones((2, 2, 6), bool),
      np.zeros((2, 2, 6), np.int32),
  )
  fresh = jax.jit(
      lambda rng: module.init(rng, tokens, user, method=_forward)
  )(jax.random.key(0))
  cross = partitioning.unbox(fresh)['params']['groups']['cross_attention']
  both = {**params, 'groups': {**params['groups'], 'cross_attention': cross}}
  np.testing.assert_array_equal(
      _run(config)(both, tokens, user), _run(config)(params, tokens)
  )


def test_wrong_files_are_named(stories, tmp_path):
  path, config, _, _ = stories
  weights = pathlib.Path(path).read_bytes()
  for name, content in (
      ('short.bin', weights[:-4]),
      ('long.bin', weights + b'1234'),
      ('other.bin', b'GGUF' + weights),
      ('empty.bin', b''),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
      loading.load_params(str(tmp_path / name), config)
  with pytest.raises(ValueError, match='absent.bin'):
    loading.load_config(path=str(tmp_path / 'absent.bin'))


def test_another_config_is_named(stories):
  path, config, _, _ = stories
  with pytest.raises(ValueError, match='num_layers'):
    loading.load_params(path, dataclasses.replace(config, num_layers=4))

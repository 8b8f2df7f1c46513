"""stories260K, a trained language model: its text shows the conversion."""

import pathlib

import jax
import numpy as np
import pytest

from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.pretrained import llama2c

_MODEL = pathlib.Path(__file__).parents[3] / 'shared/models/stories260K'


@pytest.fixture(scope='module')
def stories():
  if not _MODEL.is_dir():
    pytest.skip(f'no {_MODEL}')
  import seqio  # Late: it imports TensorFlow.

  path = str(_MODEL / 'stories260K.bin')
  config = llama2c.load_config(
      path,
      cross_attention=cross_attention.CrossAttentionConfig(
          every=2, num_heads=4, head_dim=8
      ),
  )
  vocabulary = seqio.SentencePieceVocabulary(str(_MODEL / 'tok512.model'))
  return path, config, llama2c.load_params(path, config), vocabulary


def _forward(module, tokens, user=None):
  context = None if user is None else module.user_context(user)
  return module.logits(module(tokens, context)[0])


def test_a_story_is_likely(stories):
  _, config, params, vocabulary = stories
  text = (
      'Once upon a time, there was a little girl named Lily. She loved to play'
      ' outside in the park. One day, she saw a big, red ball.'
  )
  tokens = np.array([[vocabulary.bos_id, *vocabulary.encode(text)]])
  logits = decoder.Decoder(config).apply(
      {'params': params}, tokens[:, :-1], method=_forward
  )
  logp = jax.nn.log_softmax(logits)[0, np.arange(tokens.shape[1] - 1), tokens[0, 1:]]
  assert -logp.mean() < 1.5


def test_greedy_text_is_a_story_and_the_cache_changes_nothing(stories):
  _, config, params, vocabulary = stories
  module = decoder.Decoder(config)
  prompt = [vocabulary.bos_id, *vocabulary.encode('Once upon a time')]
  steps = 24

  def cached(module):
    logits, cache = module.prefill(np.array([prompt]), None, 1, steps)
    tokens = [logits.argmax(-1)]
    for _ in range(steps - 1):
      logits, cache = module.extend(tokens[-1], None, cache)
      tokens.append(logits.argmax(-1))
    return tokens

  found = module.apply({'params': params}, method=cached)
  found = [int(t[0]) for t in found]
  whole = np.array([prompt + found])
  logits = module.apply({'params': params}, whole, method=_forward)
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
  fresh = module.init(jax.random.key(0), tokens, user, method=_forward)
  fresh = jax.tree.map(lambda x: x, fresh['params'])
  cross = fresh['groups']['cross_attention']
  both = {**params, 'groups': {**params['groups'], 'cross_attention': cross}}
  run = jax.jit(
      lambda p, user: module.apply({'params': p}, tokens, user, method=_forward)
  )
  np.testing.assert_array_equal(run(both, user), run(params, None))


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
      llama2c.load_params(str(tmp_path / name), config)
  with pytest.raises(ValueError, match='absent.bin'):
    llama2c.load_config(str(tmp_path / 'absent.bin'))


def test_another_config_is_named(stories):
  path, config, _, _ = stories
  import dataclasses

  with pytest.raises(ValueError, match='num_layers'):
    llama2c.load_params(path, dataclasses.replace(config, num_layers=4))


def test_rows_of_interleaved_rotary_positions():
  rows = np.arange(8)[:, None]
  got = llama2c.rotate_half_rows(rows, 4)[:, 0]
  assert got.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]

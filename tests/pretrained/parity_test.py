"""Each family against logits by Hugging Face `transformers`.

`make_fixtures.py` has made the models and their logits.
"""

import pathlib

import jax
import numpy as np
import pytest

from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.pretrained import loading

_TINY = pathlib.Path(__file__).parent / 'tiny'
_FAMILIES = (
    'gemma2', 'gemma3', 'llama2', 'llama3', 'mistral', 'qwen2', 'qwen3',
    'smollm2',
)
_PROMPT = 14


def _load(family, every):
  path = str(_TINY / family)
  config = loading.load_config(
      path=path,
      cross_attention=cross_attention.CrossAttentionConfig(every=every),
  )
  expected = np.load(_TINY / family / 'expected.npz')
  return (
      decoder.Decoder(config),
      {'params': loading.load_params(path, config)},
      expected['tokens'].astype(np.int32),
      expected['logits'],
  )


@pytest.mark.parametrize('family', _FAMILIES)
@pytest.mark.parametrize('every', [1, 2])
def test_logits_of_a_whole_text(family, every):
  module, variables, tokens, want = _load(family, every)

  def forward(module, tokens):
    return module.logits(module(tokens)[0])

  got = jax.jit(lambda v: module.apply(v, tokens, method=forward))(variables)
  np.testing.assert_allclose(got[..., : want.shape[-1]], want, atol=1e-4)


@pytest.mark.parametrize('family', _FAMILIES)
def test_logits_of_a_prompt_and_then_token_by_token(family):
  module, variables, tokens, want = _load(family, 2)
  vocab_size, length = want.shape[-1], tokens.shape[1]
  # The second prompt is three shorter, padded in front.
  prompts = tokens[:, :_PROMPT].copy()
  prompts[1] = np.pad(tokens[1, : _PROMPT - 3], (3, 0))
  added = np.stack([
      tokens[0, _PROMPT:], tokens[1, _PROMPT - 3 : length - 3]
  ])
  want = np.stack([want[0, _PROMPT - 1 :], want[1, _PROMPT - 4 : -3]])

  prefill = jax.jit(
      lambda v: module.apply(
          v, prompts, None, 1, length - _PROMPT, method='prefill'
      )
  )
  extend = jax.jit(
      lambda v, x, cache: module.apply(v, x, None, cache, method='extend')
  )
  logits, cache = prefill(variables)
  got = [logits]
  for column in added.T:
    logits, cache = extend(variables, column, cache)
    got.append(logits)
  got = np.stack(got, axis=1)[..., :vocab_size]
  np.testing.assert_allclose(got, want, atol=1e-4)

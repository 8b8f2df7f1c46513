"""Families: published config.json files, and how many parameters they make."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.models import decoder
from user_llm.models import decoder_config
from user_llm.models import positions
from user_llm.pretrained import families

_LLAMA_3_2_1B = dict(
    model_type='llama', hidden_size=2048, intermediate_size=8192, head_dim=64,
    num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=16,
    rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=True,
    hidden_act='silu', vocab_size=128_256, attention_bias=False,
    rope_scaling=dict(
        factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0,
        original_max_position_embeddings=8192, rope_type='llama3',
    ),
)
_SMOLLM2_135M = dict(
    model_type='llama', hidden_size=576, intermediate_size=1536,
    num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=30,
    rms_norm_eps=1e-5, rope_theta=100_000, tie_word_embeddings=True,
    hidden_act='silu', vocab_size=49_152, rope_scaling=None,
    max_position_embeddings=8192,
)
_MISTRAL_7B = dict(
    model_type='mistral', hidden_size=4096, intermediate_size=14_336,
    num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=32,
    rms_norm_eps=1e-5, rope_theta=10_000.0, tie_word_embeddings=False,
    hidden_act='silu', vocab_size=32_000, sliding_window=4096,
)
_QWEN_2_5_0_5B = dict(
    model_type='qwen2', hidden_size=896, intermediate_size=4864,
    num_attention_heads=14, num_key_value_heads=2, num_hidden_layers=24,
    rms_norm_eps=1e-6, rope_theta=1_000_000.0, tie_word_embeddings=True,
    hidden_act='silu', vocab_size=151_936, sliding_window=32_768,
    use_sliding_window=False, max_window_layers=24,
)
_QWEN_3_0_6B = dict(
    model_type='qwen3', hidden_size=1024, intermediate_size=3072, head_dim=128,
    num_attention_heads=16, num_key_value_heads=8, num_hidden_layers=28,
    rms_norm_eps=1e-6, rope_theta=1_000_000, tie_word_embeddings=True,
    hidden_act='silu', vocab_size=151_936, sliding_window=None,
    use_sliding_window=False, max_window_layers=28, attention_bias=False,
)
_GEMMA_2_2B = dict(
    model_type='gemma2', hidden_size=2304, intermediate_size=9216,
    head_dim=256, num_attention_heads=8, num_key_value_heads=4,
    num_hidden_layers=26, rms_norm_eps=1e-6, rope_theta=10_000.0,
    hidden_act='gelu_pytorch_tanh', hidden_activation='gelu_pytorch_tanh',
    vocab_size=256_000, sliding_window=4096, query_pre_attn_scalar=256,
    attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
)
_GEMMA_3_1B = dict(
    model_type='gemma3_text', hidden_size=1152, intermediate_size=6912,
    head_dim=256, num_attention_heads=4, num_key_value_heads=1,
    num_hidden_layers=26, rms_norm_eps=1e-6, rope_theta=1_000_000,
    rope_local_base_freq=10_000, rope_scaling=None, sliding_window=512,
    sliding_window_pattern=6, hidden_activation='gelu_pytorch_tanh',
    vocab_size=262_144, query_pre_attn_scalar=256,
)
# As their model cards and Hugging Face's safetensors metadata count them; that
# of Qwen 3 0.6B, 751,632,384, has the tied head besides.
_PUBLISHED = {
    'llama_3_2_1b': (_LLAMA_3_2_1B, 1_235_814_400),
    'smollm2_135m': (_SMOLLM2_135M, 134_515_008),
    'mistral_7b': (_MISTRAL_7B, 7_241_732_096),
    'qwen_2_5_0_5b': (_QWEN_2_5_0_5B, 494_032_768),
    'qwen_3_0_6b': (_QWEN_3_0_6B, 596_049_920),
    'gemma_2_2b': (_GEMMA_2_2B, 2_614_341_888),
    'gemma_3_1b': (_GEMMA_3_1B, 999_885_952),
}


def _config(raw):
  return decoder_config.DecoderConfig(
      **families.decoder_fields(raw, 'config.json')
  )


@pytest.mark.parametrize('name', _PUBLISHED)
def test_published_models_have_their_number_of_parameters(name):
  raw, want = _PUBLISHED[name]
  config = _config(raw)
  boxed = jax.eval_shape(
      decoder.Decoder(config).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 1), np.int32),
  )
  shapes = jax.tree.leaves(partitioning.unbox(boxed))
  count = sum(math.prod(x.shape) for x in shapes)
  padding = partitioning.padded_size(config.vocab_size) - config.vocab_size
  assert count - padding * config.embed_dim == want


def test_layers_look_as_far_as_published():
  assert _config(_LLAMA_3_2_1B).positions == (
      positions.PositionsConfig(
          base=500_000.0, scaling=positions.Llama3Scaling(factor=32.0)
      ),
  )
  assert _config(_MISTRAL_7B).positions == (
      positions.PositionsConfig(window=4096),
  )
  assert _config(_QWEN_2_5_0_5B).positions == (
      positions.PositionsConfig(base=1e6),
  )
  local, full = _config(_GEMMA_2_2B).positions
  assert (local.window, full.window) == (4096, 0)
  local, full = (
      positions.PositionsConfig(window=512, base=1e4),
      positions.PositionsConfig(base=1e6),
  )
  assert _config(_GEMMA_3_1B).positions == (*[local] * 5, full)
  some = {**_QWEN_2_5_0_5B, 'use_sliding_window': True, 'max_window_layers': 20}
  windows = [p.window for p in _config(some).positions]
  assert windows == [0] * 20 + [32_768] * 4


def test_the_older_and_the_newer_way_to_say_it_are_the_same():
  newer = {
      k: v for k, v in _GEMMA_3_1B.items()
      if not k.startswith('rope') and k != 'sliding_window_pattern'
  }
  newer['layer_types'] = [
      'full_attention' if i % 6 == 5 else 'sliding_attention'
      for i in range(26)
  ]
  newer['rope_parameters'] = dict(
      full_attention=dict(rope_type='default', rope_theta=1e6),
      sliding_attention=dict(rope_type='default', rope_theta=1e4),
  )
  assert _config(newer) == _config(_GEMMA_3_1B)
  flat = {k: v for k, v in _LLAMA_3_2_1B.items() if not k.startswith('rope')}
  flat['rope_parameters'] = dict(
      rope_theta=500_000.0, **_LLAMA_3_2_1B['rope_scaling']
  )
  assert _config(flat) == _config(_LLAMA_3_2_1B)
  # The base may stand beside them, or be the family's.
  del flat['rope_parameters']['rope_theta']
  assert _config({**flat, 'rope_theta': 500_000.0}) == _config(_LLAMA_3_2_1B)
  for rope in newer['rope_parameters'].values():
    del rope['rope_theta']
  assert _config(newer) == _config(_GEMMA_3_1B)


def test_the_context_is_as_long_as_published_or_unbounded():
  assert _config(_SMOLLM2_135M).context_length == 8192
  assert _config(_LLAMA_3_2_1B).context_length == 0
  assert 'max_position_embeddings' not in families.hf_config(
      _config(_LLAMA_3_2_1B)
  )


@pytest.mark.parametrize('name', _PUBLISHED)
def test_a_config_that_is_written_says_the_same(name):
  config = _config(_PUBLISHED[name][0])
  raw = families.hf_config(config)
  assert raw['model_type'] == _PUBLISHED[name][0]['model_type']
  assert _config(raw) == config


def test_frequencies_of_llama_3():
  """At the bounds: at 1 and 4 turns within the original context of 8192."""
  scaling = positions.Llama3Scaling(factor=8.0)
  turns = np.array([0.5, 1.0, 2.5, 4.0, 9.0])
  frequencies = turns * 2 * np.pi / 8192
  want = np.array([1 / 8, 1 / 8, (1 + 1 / 8) / 2, 1, 1])
  np.testing.assert_allclose(scaling(frequencies) / frequencies, want)


@pytest.mark.parametrize(
    'change',
    [dict(model_type='mamba'), dict(attention_bias=True),
     dict(rope_scaling=dict(type='yarn', factor=2.0)),
     dict(hidden_act='relu'), dict(layer_types=['chunked_attention'] * 16),
     dict(layer_types=['full_attention'])],
    ids=lambda change: next(iter(change.items()))[0],
)
def test_what_the_decoder_cannot_do_is_named(change):
  with pytest.raises(ValueError, match='my/config.json'):
    families.decoder_fields({**_LLAMA_3_2_1B, **change}, 'my/config.json')
  raw = {k: v for k, v in _LLAMA_3_2_1B.items() if k != 'hidden_size'}
  with pytest.raises(ValueError, match="'hidden_size' is missing"):
    families.decoder_fields(raw, 'my/config.json')


def test_the_scale_of_gemmas_queries_is_written_as_an_integer():
  """As Gemma 2 27B has it; transformers refuses 144.0."""
  config = _config({**_GEMMA_2_2B, 'query_pre_attn_scalar': 144})
  written = families.hf_config(config)['query_pre_attn_scalar']
  assert written == 144 and isinstance(written, int)


def test_a_decoder_of_no_family_is_not_exported():
  config = _config(_SMOLLM2_135M)
  capped = dataclasses.replace(config, logits_softcap=3.0)
  with pytest.raises(ValueError, match='logits_softcap=3.0; it cannot be exp'):
    families.hf_config(capped)
  # Mistral's libraries do not ask which layers have its window.
  (full,) = config.positions
  local = dataclasses.replace(full, window=512)
  mixed = dataclasses.replace(config, positions=(local, full))
  with pytest.raises(ValueError, match='with positions=.*cannot be exported'):
    families.hf_config(mixed)

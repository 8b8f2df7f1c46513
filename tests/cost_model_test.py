"""Counts against a formula, sizes by hand, and what is timed."""

import functools
import time

import pytest

from user_llm import cost_model
from user_llm.models import cross_attention
from user_llm.models import decoder_config
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm

_LAYERS, _DIM, _HEADS, _KV_HEADS, _HEAD_DIM, _MLP, _VOCAB = (
    5, 256, 2, 1, 128, 512, 512
)
_CROSS_LAYERS, _CROSS_WIDTH, _RECENCY = 2, 256, 64
_ENCODER_LAYERS, _ENCODER_DIM, _ENCODER_MLP = 2, 128, 256
_LATENTS, _EVENTS, _TOKENS, _QUESTION = 16, 60, 90, 20
# Multiplications and additions.
_MAC = 2


def _model(has_user, resample):
  decoder = decoder_config.DecoderConfig(
      vocab_size=_VOCAB, num_layers=_LAYERS, embed_dim=_DIM,
      num_heads=_HEADS, num_kv_heads=_KV_HEADS, head_dim=_HEAD_DIM,
      mlp_dim=_MLP, cross_attention=cross_attention.CrossAttentionConfig(
          every=2, num_heads=2, num_kv_heads=2, head_dim=128,
          max_recency=_RECENCY,
      ),
  )
  if not has_user:
    return user_llm.UserLLMConfig(decoder=decoder)
  encoder = user_encoder.UserEncoderConfig(
      schema=cost_model.movielens_schema(), num_layers=_ENCODER_LAYERS,
      embed_dim=_ENCODER_DIM, num_heads=2, mlp_dim=_ENCODER_MLP,
  )
  perceiver = resampler.ResamplerConfig(
      num_layers=2, num_latents=_LATENTS, embed_dim=_ENCODER_DIM, num_heads=2,
      mlp_dim=_ENCODER_MLP, max_recency=0,
  )
  return user_llm.UserLLMConfig(
      decoder=decoder,
      user_encoder=encoder,
      resampler=perceiver if resample else resampler.NoResamplerConfig(),
  )


@functools.cache
def _request(has_user, resample=False):
  model = _model(has_user, resample)
  stacked = conditioned_lm.ConditionedLM(model=model)
  tokens = _QUESTION if has_user else _TOKENS
  batch = cost_model.make_batch(model, _EVENTS, tokens)
  objective, params = stacked.unstacked(cost_model.make_params(stacked, batch))
  return cost_model.Request(objective, params, batch, (4,))


def _attention(queries, keys, width):
  """Scores and values."""
  return 2 * _MAC * queries * keys * width


def _decoder(tokens, keys, user_tokens):
  """Layers and cross-attentions over `tokens`, and the head for one."""
  width = _HEADS * _HEAD_DIM
  of_layer = _MAC * tokens * _DIM * (
      2 * width + 2 * _KV_HEADS * _HEAD_DIM + 3 * _MLP
  ) + _attention(tokens, keys, width)
  cross = _MAC * tokens * _DIM * 2 * _CROSS_WIDTH + _attention(
      tokens, user_tokens, _CROSS_WIDTH
  )
  if user_tokens == _EVENTS:  # A bias a head for how long ago.
    cross += _MAC * 2 * _EVENTS * _RECENCY
  return (
      _LAYERS * of_layer
      + (_CROSS_LAYERS * cross if user_tokens else 0)
      + _MAC * _DIM * _VOCAB
  )


def _user(resample):
  """Encoder, resampler, projection, and keys and values of the user."""
  width, events = _ENCODER_DIM, _EVENTS
  # The item's embedding and two of 32.
  total = _MAC * events * (width + 64) * width
  total += _ENCODER_LAYERS * (
      _MAC * events * (4 * width**2 + 2 * width * _ENCODER_MLP)
      + _attention(events, events, width)
  )
  if resample:
    keys = events + _LATENTS
    total += _MAC * events * width**2
    total += 2 * (
        _MAC * 2 * (_LATENTS + keys) * width**2
        + _attention(_LATENTS, keys, width)
        + _MAC * _LATENTS * 2 * width * _ENCODER_MLP
    )
  tokens = _LATENTS if resample else events
  total += _MAC * tokens * width * _DIM
  return total + _CROSS_LAYERS * _MAC * tokens * _DIM * 2 * _CROSS_WIDTH


@pytest.mark.parametrize(
    ['has_user', 'resample'], [(False, False), (True, False), (True, True)]
)
def test_flops_equal_a_formula(has_user, resample):
  request = _request(has_user, resample)
  tokens = _QUESTION if has_user else _TOKENS
  user_tokens = has_user and (_LATENTS if resample else _EVENTS)
  want = _decoder(tokens, tokens, user_tokens)
  want += _user(resample) if has_user else 0
  assert request.prefill_flops() == want
  # Of 4 tokens 3 are read, each with the slots of all.
  want += 3 * _decoder(1, tokens + 3, user_tokens)
  assert request.request_flops(4) == want


def test_masked_scores_are_nearly_half_of_the_attention():
  request = _request(False)
  whole = _LAYERS * _attention(_TOKENS, _TOKENS, _HEADS * _HEAD_DIM)
  share = (_TOKENS - 1) / (2 * _TOKENS)
  assert request.masked_flops() == pytest.approx(share * whole)


def test_sizes():
  text, user = _request(False), _request(True, True)
  assert (text.llm_tokens(), user.llm_tokens()) == (_TOKENS, _QUESTION)
  of_token = _LAYERS * 2 * _KV_HEADS * _HEAD_DIM * 4
  assert text.kv_bytes() == _TOKENS * of_token
  of_latent = _CROSS_LAYERS * 2 * _CROSS_WIDTH * 4
  assert user.kv_bytes() == _QUESTION * of_token + _LATENTS * of_latent
  of_layer = _DIM * (
      2 * _HEADS * _HEAD_DIM + 2 * _KV_HEADS * _HEAD_DIM + 3 * _MLP + 2
  )
  lm = _LAYERS * of_layer + _DIM * _VOCAB + _DIM
  assert sum(x.size for x in text.step_params()) == lm
  # Norm, gate, and of the projections q and o.
  cross = _DIM + 1 + 2 * _DIM * _CROSS_WIDTH
  assert sum(x.size for x in user.step_params()) == lm + _CROSS_LAYERS * cross


def test_all_new_tokens_are_written():
  texts = _request(False).write[4]()
  assert texts.tokens.shape == (1, 1, 4)
  assert (texts.tokens > 0).all()


def test_calls_are_timed_in_turn():
  order = []

  def call(name, secs):
    order.append(name)
    time.sleep(secs)

  found = cost_model.time_calls(
      {
          'short': lambda: call('short', 0.002),
          'long': lambda: call('long', 0.6),
      },
      rounds=2,
  )
  assert order[:2] == ['short', 'long']  # To warm up.
  assert order[2:] == 2 * (5 * ['short'] + ['long'])
  assert found['short'].calls == 10 and found['long'].calls == 2
  assert found['short'].median_secs < 0.3 < 0.6 <= found['long'].fastest_secs
  # Sleeping is no work.
  assert found['long'].cpu_secs < 0.3

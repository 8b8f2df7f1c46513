"""Beam search over all texts.

Shapes: B users, P beams, U tokens of a text, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.decoding import beam_search as answer_beams


class _Beams(NamedTuple):
  """Texts so far, best first; of what is none the score is NO_SCORE."""

  tokens_BPU: jax.Array
  score_BP: jax.Array
  is_going_BP: jax.Array
  step: jax.Array


def _grow(
    beams: _Beams, logits_BPV: jax.Array, eos_id: int, length_penalty: float
) -> tuple[_Beams, jax.Array]:
  """The best continuations by a token, and each one's beam, i32[B, P]."""
  size, vocab = logits_BPV.shape[1:]
  is_pad_V = jnp.arange(vocab) == 0
  going_BP1 = beams.is_going_BP[..., None]
  # Padding is all that comes after eos, and never before.
  score_BPV = beams.score_BP[..., None] + jnp.where(
      going_BP1, jax.nn.log_softmax(logits_BPV), 0
  )
  score_BPV = jnp.where(
      going_BP1 != is_pad_V, score_BPV, answer_beams.NO_SCORE
  )
  length_BP = jnp.where(
      beams.is_going_BP,
      beams.step + 1,
      jnp.sum(beams.tokens_BPU > 0, axis=-1),
  )
  # Of the empty place of a beam that is none the length is 0.
  penalty_BP1 = jnp.maximum(length_BP[..., None], 1.0) ** length_penalty
  flat = lambda x: x.reshape(x.shape[0], -1)
  _, index_BP = partitioning.top_k(flat(score_BPV / penalty_BP1), size)
  score_BP = jnp.take_along_axis(flat(score_BPV), index_BP, axis=1)
  parent_BP, token_BP = index_BP // vocab, index_BP % vocab
  tokens_BPU = jnp.take_along_axis(
      beams.tokens_BPU, parent_BP[..., None], axis=1
  )
  is_going_BP = jnp.take_along_axis(beams.is_going_BP, parent_BP, axis=1)
  exists_BP = score_BP > answer_beams.NO_SCORE
  return _Beams(
      tokens_BPU.at[..., beams.step].set(token_BP),
      jnp.where(exists_BP, score_BP, answer_beams.NO_SCORE),
      is_going_BP & (token_BP != eos_id) & exists_BP,
      beams.step + 1,
  ), parent_BP


def beam_search(
    logits_BV: jax.Array,
    cache: Any,
    extend: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    reorder: Callable[[Any, jax.Array], Any],
    *,
    eos_id: int,
    beam_size: int,
    max_tokens: int,
    length_penalty: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """The likeliest texts, as far as that many beams find them.

  Finished and unfinished texts compete for the beams, ranked by log p / tokens
  ** length_penalty.

  Args:
    logits_BV: f32, of the first token.
    cache: What `extend` knows of the prompts.
    extend: (i32[B * P] tokens, cache) -> f32[B * P, V] logits, cache.
    reorder: (cache, i32[B, P] beams of the same user) -> cache.
    eos_id: Ends a text. The id 0 is padding, not generated.
    beam_size: P.
    max_tokens: U, eos included; what is longer is cut.
    length_penalty: 0: longer texts get no help.

  Returns:
    i32[B, P, U] tokens, best first, with eos unless cut, and then 0; f32[B, P]
    log p, NO_SCORE where there are fewer texts.
  """
  batch = logits_BV.shape[0]
  # All but one beam are none, so that the first step has no twins.
  is_first_P = jnp.arange(beam_size) == 0
  score_P = jnp.where(is_first_P, 0.0, answer_beams.NO_SCORE)
  beams = _Beams(
      jnp.zeros((batch, beam_size, max_tokens), jnp.int32),
      jnp.broadcast_to(score_P, (batch, beam_size)),
      jnp.broadcast_to(is_first_P, (batch, beam_size)),
      jnp.int32(0),
  )
  logits_BPV = jnp.repeat(logits_BV[:, None], beam_size, axis=1)
  beams, _ = _grow(beams, logits_BPV, eos_id, length_penalty)

  def step(state: tuple[_Beams, Any]) -> tuple[_Beams, Any]:
    beams, cache = state
    last_BP = beams.tokens_BPU[..., beams.step - 1]
    logits_RV, cache = extend(last_BP.reshape(-1), cache)
    logits_BPV = logits_RV.reshape(batch, beam_size, -1)
    beams, parent_BP = _grow(beams, logits_BPV, eos_id, length_penalty)
    return beams, reorder(cache, parent_BP)

  def is_going(state: tuple[_Beams, Any]) -> jax.Array:
    beams, _ = state
    return jnp.any(beams.is_going_BP) & (beams.step < max_tokens)

  beams, _ = jax.lax.while_loop(is_going, step, (beams, cache))
  return beams.tokens_BPU, beams.score_BP

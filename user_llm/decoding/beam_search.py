"""Beam search over a trie: every hypothesis is an answer, or begins one.

Shapes: B users, P beams, F children of a node, V vocabulary, A answers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.decoding import trie as trie_lib

# Of a hypothesis that is none; finite, for differences and JSON.
NO_SCORE = -1e30


class Hypotheses(NamedTuple):
  """Beams, best first.

  Attributes:
    node: i32[B, P] of the trie.
    token: i32[B, P], the last one.
    score: f32[B, P], log p of the tokens so far.
  """

  node: jax.Array
  token: jax.Array
  score: jax.Array


def _grow(
    trie: trie_lib.Trie,
    below_BA: jax.Array,
    beams: Hypotheses,
    logits_BPV: jax.Array,
    fan_out: int,
    size: int,
) -> tuple[Hypotheses, jax.Array]:
  """The best `size` children of all beams, and each one's beam, i32[B, P]."""
  edges_BPF = trie.offsets[beams.node][..., None] + jnp.arange(fan_out)
  exists = edges_BPF < trie.offsets[beams.node + 1][..., None]
  edges_BPF = jnp.minimum(edges_BPF, trie.edge_token.shape[0] - 1)
  token, child = trie.edge_token[edges_BPF], trie.edge_child[edges_BPF]
  rows = jnp.arange(below_BA.shape[0])[:, None, None]
  exists &= below_BA[rows, trie.last[child]] > below_BA[rows, trie.first[child]]
  norm = jax.nn.logsumexp(logits_BPV, axis=-1, keepdims=True)
  logp_BPF = jnp.take_along_axis(logits_BPV, token, axis=-1) - norm
  score = jnp.where(exists, beams.score[..., None] + logp_BPF, NO_SCORE)
  # A finished hypothesis has no edges: it stays, in the first one's place.
  finished = trie.answer[beams.node] >= 0
  stays = finished[..., None] & (jnp.arange(fan_out) == 0)
  score = jnp.where(stays, beams.score[..., None], score)
  child = jnp.where(stays, beams.node[..., None], child)
  flat = lambda x: x.reshape(x.shape[0], -1)
  missing = max(size - flat(score).shape[1], 0)
  pad = lambda x, value: jnp.pad(
      flat(x), ((0, 0), (0, missing)), constant_values=value
  )
  best, index = partitioning.top_k(pad(score, NO_SCORE), size)
  take = lambda x: jnp.take_along_axis(pad(x, 0), index, axis=1)
  parent = jnp.minimum(index // fan_out, beams.node.shape[1] - 1)
  # A beam that is none goes back to the root, where it can do nothing.
  node = jnp.where(best > NO_SCORE, take(child), 0)
  return Hypotheses(node, take(token), jnp.maximum(best, NO_SCORE)), parent


def beam_search(
    answers: trie_lib.Answers,
    allowed_BA: jax.Array,
    logits_BV: jax.Array,
    cache: Any,
    extend: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    reorder: Callable[[Any, jax.Array], Any],
    beam_size: int,
) -> tuple[jax.Array, jax.Array]:
  """The likeliest answers with their exact log p; no length normalisation.

  With at least as many beams as answers it is exhaustive.

  Args:
    answers: The candidates; closed over, not traced.
    allowed_BA: bool, which of them each user may get. Prefixes of nothing but
      others take no beam.
    logits_BV: f32, of the first token.
    cache: What `extend` knows of the prompts.
    extend: (i32[B * P] tokens, cache) -> f32[B * P, V] logits, cache.
    reorder: (cache, i32[B, P] beams of the same user) -> cache.
    beam_size: P.

  Returns:
    i32[B, P] answers, best first, -1 where there are fewer; f32[B, P] scores,
    NO_SCORE there.
  """
  trie = trie_lib.Trie(*map(jnp.asarray, answers.trie))
  batch, vocab = logits_BV.shape
  below_BA = jnp.pad(
      jnp.cumsum(allowed_BA, axis=1, dtype=jnp.int32), ((0, 0), (1, 0))
  )
  zeros = jnp.zeros((batch, 1), jnp.int32)
  beams, _ = _grow(
      trie,
      below_BA,
      Hypotheses(zeros, zeros, jnp.zeros((batch, 1), jnp.float32)),
      logits_BV[:, None],
      answers.root_fan_out,
      beam_size,
  )

  def unfinished(state: tuple[Hypotheses, Any, jax.Array]) -> jax.Array:
    beams, _, step = state
    going = (trie.answer[beams.node] < 0) & (beams.score > NO_SCORE)
    return jnp.any(going) & (step < answers.max_length)

  def step(state: tuple[Hypotheses, Any, jax.Array]):
    beams, cache, step = state
    logits_RV, cache = extend(beams.token.reshape(-1), cache)
    beams, parent_BP = _grow(
        trie,
        below_BA,
        beams,
        logits_RV.reshape(batch, beam_size, vocab),
        answers.max_fan_out,
        beam_size,
    )
    return beams, reorder(cache, parent_BP), step + 1

  beams, _, _ = jax.lax.while_loop(
      unfinished, step, (beams, cache, jnp.int32(1))
  )
  found = jnp.where(beams.score > NO_SCORE, trie.answer[beams.node], -1)
  return found, beams.score

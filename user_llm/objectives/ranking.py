"""Ranks of the next item, for objectives that score every item.

Shapes: B batch, L events, D width, V item ids, S seen.
"""

import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.objectives import objective as objective_lib

# What an evaluation's batch must have.
KEYS = ('label_item', 'seen_item')
TOP_K = 10


def at_last_event(x_BLD: jax.Array, batch: objective_lib.Batch) -> jax.Array:
  """Float [B, D]: of rows with one history each, the output at its end."""
  last_B = jnp.sum(batch['segment_ids'] > 0, axis=1) - 1
  return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0]


def scores(h_BE: jax.Array, table_VE: jax.Array) -> jax.Array:
  """f32[B, V]: products, of float32 numbers on accelerators as well."""
  return jnp.matmul(
      h_BE.astype(jnp.float32),
      table_VE.astype(jnp.float32).T,
      precision=jax.lax.Precision.HIGHEST,
  )


def predictions(
    logits_BV: jax.Array, num_items: int, batch: objective_lib.Batch
) -> dict[str, jax.Array]:
  """What `RankingEvaluator` reads.

  Args:
    logits_BV: f32, of every id; padding may follow.
    num_items: Ids, padding included.
    batch: Has `KEYS`.

  Returns:
    `rank_all`, `rank_unseen` i32[B]: 1 + the other items that score at least
    as much as the label (ties count against us), among all items and among
    those not in the history. `top_all`, `top_unseen` i32[B, 10] and their
    log-probabilities among all items, `score_all`, `score_unseen`, and the
    label's, `label_score`.
  """
  ids_V = jnp.arange(logits_BV.shape[1])
  valid_V = (ids_V > 0) & (ids_V < num_items)
  scores_BV = jax.nn.log_softmax(jnp.where(valid_V, logits_BV, -jnp.inf))
  return rank_items(scores_BV, batch['label_item'], batch['seen_item'])


def rank_items(
    scores_BV: jax.Array, label_B: jax.Array, seen_BS: jax.Array
) -> dict[str, jax.Array]:
  """See `predictions`; -inf scores are no candidates."""
  rows_B1 = jnp.arange(scores_BV.shape[0])[:, None]
  seen_BV = (
      jnp.zeros(scores_BV.shape, bool).at[rows_B1, seen_BS].set(True)
  )
  is_label_BV = jnp.arange(scores_BV.shape[1]) == label_B[:, None]
  label_score_B1 = jnp.take_along_axis(scores_BV, label_B[:, None], axis=1)
  unseen_BV = jnp.where(seen_BV & ~is_label_BV, -jnp.inf, scores_BV)
  out = {'label_score': label_score_B1[:, 0]}
  for policy, policy_BV in (('all', scores_BV), ('unseen', unseen_BV)):
    # Not `>=`: a NaN must not come out as the best rank.
    ahead_BV = ~(policy_BV < label_score_B1) & ~is_label_BV
    out[f'rank_{policy}'] = 1 + jnp.sum(ahead_BV, axis=1)
    size = min(TOP_K, policy_BV.shape[1])
    score, top = partitioning.top_k(policy_BV, size)
    out[f'top_{policy}'] = top
    out[f'score_{policy}'] = score
  return out

"""Autoregressive pretraining of the user encoder: predict the next event.

Shapes: B batch, L events, D width, E feature embedding, V item ids, S seen.
"""

import dataclasses

import jax
import jax.numpy as jnp

from user_llm import losses
from user_llm.models import user_encoder
from user_llm.objectives import objective as objective_lib

TOP_K = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextEvent:
  """Cross-entropies of every feature of the next event, summed.

  arXiv 2402.13598, section 3.1. Parameters: {'user_encoder': ...}.

  Attributes:
    encoder: What to train.
    targets: Modalities to predict, 'item' among them; None: all that the
      encoder reads.
  """

  encoder: user_encoder.UserEncoderConfig
  targets: tuple[str, ...] | None = None

  def __post_init__(self):
    for name in self.target_names:
      _ = self.encoder.schema[name]
    if 'item' not in self.target_names:
      raise ValueError(
          f"TARGETS={self.targets} must include 'item': the evaluation ranks "
          'items.'
      )

  @property
  def target_names(self) -> tuple[str, ...]:
    return tuple(self.targets or self.encoder.schema.names)

  @property
  def _event_keys(self) -> tuple[str, ...]:
    names = tuple(f'user_{name}' for name in self.encoder.schema.names)
    return (*names, 'positions', 'segment_ids')

  @property
  def batch_keys(self) -> tuple[str, ...]:
    targets = tuple(f'target_{name}' for name in self.target_names)
    return self._event_keys + targets

  @property
  def predict_keys(self) -> tuple[str, ...]:
    return (*self._event_keys, 'label_item', 'seen_item')

  @property
  def _module(self) -> user_encoder.UserEncoder:
    return user_encoder.UserEncoder(self.encoder)

  def init(
      self, rng: jax.Array, batch: objective_lib.Batch
  ) -> objective_lib.Params:
    inputs = user_encoder.inputs(batch, self.encoder)
    variables = self._module.init(rng, *inputs)
    return {'user_encoder': variables['params']}

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    variables = {'params': params['user_encoder']}
    x_BLD = self._module.apply(
        variables,
        *user_encoder.inputs(batch, self.encoder),
        rngs=None if rng is None else {'dropout': rng},
    )
    sums = {}
    for name in self.target_names:
      h_BLE, table_VE = self._module.apply(
          variables, x_BLD, name, method='head'
      )
      sums[f'loss_{name}'] = losses.linear_cross_entropy(
          h_BLE,
          table_VE,
          batch[f'target_{name}'],
          self.encoder.schema[name].size,
      )
    weight = jnp.sum(batch['target_item'] > 0).astype(jnp.float32)
    return objective_lib.Loss(
        total=sum(sums.values()),
        weight=weight,
        metrics={name: (total, weight) for name, total in sums.items()},
    )

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """Ranks the items as the event after each history.

    Returns:
      `rank_all`, `rank_unseen` i32[B]: 1 + the other items that score at least
      as much as the label (ties count against us), among all items and among
      those not in the history. `top_all`, `top_unseen` i32[B, 10] and their
      log-probabilities among all items, `score_all`, `score_unseen`, and the
      label's, `label_score`.
    """
    variables = {'params': params['user_encoder']}
    x_BLD = self._module.apply(
        variables, *user_encoder.inputs(batch, self.encoder)
    )
    last_B = jnp.sum(batch['segment_ids'] > 0, axis=1) - 1
    x_B1D = jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)
    h_B1E, table_VE = self._module.apply(
        variables, x_B1D, 'item', method='head'
    )
    logits = h_B1E[:, 0].astype(jnp.float32) @ table_VE.T
    ids_V = jnp.arange(table_VE.shape[0])
    size = self.encoder.schema['item'].size
    valid_V = (ids_V > 0) & (ids_V < size)
    scores_BV = jax.nn.log_softmax(jnp.where(valid_V, logits, -jnp.inf))
    return rank_items(scores_BV, batch['label_item'], batch['seen_item'])


def rank_items(
    scores_BV: jax.Array, label_B: jax.Array, seen_BS: jax.Array
) -> dict[str, jax.Array]:
  """See `NextEvent.predict`; -inf scores are no candidates."""
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
    score, top = jax.lax.top_k(policy_BV, min(TOP_K, policy_BV.shape[1]))
    out[f'top_{policy}'] = top
    out[f'score_{policy}'] = score
  return out

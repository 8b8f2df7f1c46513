"""The dual encoder's objective: tell a user's next item from other users'.

Shapes: B batch, L events, D width, N negatives of a row, C = B * N, V item ids.
"""

import dataclasses

import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import dual_encoder
from user_llm.models import user_encoder
from user_llm.objectives import objective as objective_lib
from user_llm.objectives import ranking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
  """Sampled softmax over the batch's own items, corrected for how they came.

  Every position of a history is a user whose next item is to be told from the
  next items of other positions, of all rows on all devices (with
  `num_microbatches`, of one part of the batch). Popular items come as negatives
  in proportion to how often they train; log of that frequency is taken off each
  score (Yi et al., RecSys 2019, "Sampling-bias-corrected neural modeling"), so
  that the scores estimate those of a softmax over all items. A negative that is
  the user's own next item is no negative.

  All positions are users, since one pass makes them all, but only
  `negatives_per_row` of a row's items are negatives: the scores are B * L times
  B * N numbers, and N = L would be dearer than a softmax over all items of a
  small catalogue.

  Parameters: {'user_encoder': ..., 'item_tower': ...} and, if learned,
  'log_scale'; the first as `NextEvent` has it.

  Attributes:
    model: The towers.
    negatives_per_row: N, drawn in each step from a row's targets.
  """

  model: dual_encoder.DualEncoderConfig
  negatives_per_row: int = 16

  context_length = 0

  def __post_init__(self):
    self.model.user_encoder.check_causal('Contrastive')
    value = self.negatives_per_row
    if not isinstance(value, int) or value <= 0:
      raise ValueError(
          f'NEGATIVES_PER_ROW must be a positive integer, not {value!r}.'
      )

  @property
  def encoder(self) -> user_encoder.UserEncoderConfig:
    return self.model.user_encoder

  @property
  def batch_keys(self) -> tuple[str, ...]:
    return (*self.encoder.event_keys, 'target_item')

  @property
  def predict_keys(self) -> tuple[str, ...]:
    return self.encoder.event_keys + ranking.KEYS

  @property
  def _module(self) -> dual_encoder.DualEncoder:
    return dual_encoder.DualEncoder(self.model)

  def _inputs(self, batch: objective_lib.Batch) -> tuple:
    return user_encoder.inputs(batch, self.encoder)

  def init(
      self, rng: jax.Array, batch: objective_lib.Batch
  ) -> objective_lib.Params:
    return self._module.init(rng, *self._inputs(batch))['params']

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    """Mean over targets; `accuracy` is the share that beat all negatives."""
    variables = {'params': params}
    x_BLD = self._module.apply(
        variables,
        *self._inputs(batch),
        rngs=None if rng is None else {'dropout': rng},
    )
    target_BL = batch['target_item']
    ids_BN = self._negatives(target_BL, rng)
    # Every device scores its users against the items of all.
    ids_C = partitioning.constrain(ids_BN.reshape(-1), None)
    items = lambda ids: self._module.apply(variables, ids, method='items')
    positive_BL = self._corrected(
        jnp.einsum('BLD,BLD->BL', x_BLD, items(target_BL)), target_BL
    )
    negative_BLC = self._corrected(
        jnp.einsum('BLD,CD->BLC', x_BLD, items(ids_C)), ids_C
    )
    is_negative_BLC = (ids_C > 0) & (ids_C != target_BL[..., None])
    negative_BLC = jnp.where(is_negative_BLC, negative_BLC, attention.MASKED)
    nats_BL = jnp.logaddexp(
        positive_BL, jax.nn.logsumexp(negative_BLC, axis=-1)
    ) - positive_BL
    best_BL = positive_BL > jnp.max(negative_BLC, axis=-1)
    weight_BL = (target_BL > 0).astype(jnp.float32)
    weight = jnp.sum(weight_BL)
    return objective_lib.Loss(
        total=jnp.sum(nats_BL * weight_BL),
        weight=weight,
        metrics={'accuracy': (jnp.sum(best_BL * weight_BL), weight)},
    )

  def _negatives(
      self, target_BL: jax.Array, rng: jax.Array | None
  ) -> jax.Array:
    """i32[B, N] targets of random positions, 0 where a row has fewer.

    Without an RNG, the first. Rows are packed, thus alike in how many targets
    they have, and all targets alike in how often they are drawn.
    """
    order_BL = (target_BL > 0).astype(jnp.float32)
    if rng is not None:
      order_BL += jax.random.uniform(rng, target_BL.shape)
    num = min(self.negatives_per_row, target_BL.shape[1])
    _, chosen_BN = partitioning.top_k(order_BL, num)
    return jnp.take_along_axis(target_BL, chosen_BN, axis=1)

  def _corrected(self, scores: jax.Array, ids: jax.Array) -> jax.Array:
    """Scores [..., *ids.shape] without what is due to sampling."""
    return scores - jnp.take(self.model.features.log_frequency, ids)

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """Ranks all items, by uncorrected scores; see `ranking.predictions`."""
    variables = {'params': params}
    x_BLD = self._module.apply(variables, *self._inputs(batch))
    num_items = self.model.features.num_items
    items_VD = self._module.apply(
        variables, jnp.arange(num_items), method='items'
    )
    last_BD = ranking.at_last_event(x_BLD, batch)
    logits_BV = ranking.scores(last_BD, items_VD)
    return ranking.predictions(logits_BV, num_items, batch)

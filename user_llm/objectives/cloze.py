"""BERT4Rec's objective: tell masked events from those on both sides.

Shapes: B batch, L events, E feature embedding, V item ids.
"""

import dataclasses

import jax
import jax.numpy as jnp

from user_llm import losses
from user_llm.models import user_encoder
from user_llm.objectives import objective as objective_lib
from user_llm.objectives import ranking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cloze:
  """Cross-entropy of the items of masked events (arXiv 1904.06690).

  A row's events are its targets: those of its users but the first ones, which
  no pass over a history predicts either. Of a masked event nothing is read but
  its place: all its features are 0, which no event else has and whose embedding
  is thus that of the mask. Ranking puts a masked event behind the history. In
  some rows only the last event of each user is masked, which is what ranking
  asks for.

  Parameters: {'user_encoder': ...}, as `NextEvent` has them.

  Attributes:
    encoder: What to train; not causal.
    mask_rate: Share of the events that are masked.
    last_event_rate: Share of the rows that mask last events alone.
  """

  encoder: user_encoder.UserEncoderConfig
  mask_rate: float = 0.2
  last_event_rate: float = 0.1

  context_length = 0

  def __post_init__(self):
    if self.encoder.causal:
      raise ValueError(
          'Cloze reads both sides of an event: UserEncoderConfig.causal must '
          'be False, as in runs/pretrain_bert4rec.gin.'
      )
    for name, low in (('mask_rate', 0.01), ('last_event_rate', 0.0)):
      value = getattr(self, name)
      if not isinstance(value, (int, float)) or not low <= value <= 1:
        raise ValueError(
            f'Cloze.{name} ({name.upper()}) must be in [{low}, 1], not '
            f'{value!r}.'
        )

  @property
  def batch_keys(self) -> tuple[str, ...]:
    targets = tuple(f'target_{name}' for name in self.encoder.input_names)
    return (*targets, 'positions', 'segment_ids')

  @property
  def predict_keys(self) -> tuple[str, ...]:
    return self.encoder.event_keys + ranking.KEYS

  @property
  def _module(self) -> user_encoder.UserEncoder:
    return user_encoder.UserEncoder(self.encoder)

  def _events(
      self, batch: objective_lib.Batch, prefix: str
  ) -> dict[str, jax.Array]:
    names = self.encoder.input_names
    return {name: batch[f'{prefix}_{name}'] for name in names}

  def init(
      self, rng: jax.Array, batch: objective_lib.Batch
  ) -> objective_lib.Params:
    variables = self._module.init(
        rng,
        self._events(batch, 'target'),
        batch['positions'],
        batch['segment_ids'],
    )
    return {'user_encoder': variables['params']}

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    """Mean over the masked events; without an RNG over the last ones."""
    variables = {'params': params['user_encoder']}
    segment_ids_BL = batch['segment_ids']
    masked_BL = self._masked(segment_ids_BL, rng)
    x_BLD = self._module.apply(
        variables,
        {
            name: jnp.where(masked_BL, 0, ids_BL)
            for name, ids_BL in self._events(batch, 'target').items()
        },
        batch['positions'],
        segment_ids_BL,
        rngs=None if rng is None else {'dropout': rng},
    )
    h_BLE, table_VE = self._module.apply(
        variables, x_BLD, 'item', method='head'
    )
    target_BL = jnp.where(masked_BL, batch['target_item'], 0)
    h_BLE, target_BL, _ = losses.targets_first(h_BLE, target_BL)
    total = losses.linear_cross_entropy(
        h_BLE, table_VE, target_BL, self.encoder.schema['item'].size
    )
    weight = jnp.sum(target_BL > 0).astype(jnp.float32)
    return objective_lib.Loss(total=total, weight=weight, metrics={})

  def _masked(
      self, segment_ids_BL: jax.Array, rng: jax.Array | None
  ) -> jax.Array:
    """bool[B, L], the events that are hidden."""
    next_BL = jnp.pad(segment_ids_BL[:, 1:], ((0, 0), (0, 1)))
    last_BL = (segment_ids_BL > 0) & (segment_ids_BL != next_BL)
    if rng is None:
      return last_BL
    # Dropout takes the key itself.
    rows_rng, events_rng = jax.random.split(jax.random.fold_in(rng, 1))
    is_drawn_BL = jax.random.bernoulli(
        events_rng, self.mask_rate, segment_ids_BL.shape
    )
    only_last_B1 = jax.random.bernoulli(
        rows_rng, self.last_event_rate, (segment_ids_BL.shape[0], 1)
    )
    drawn_BL = is_drawn_BL & (segment_ids_BL > 0)
    return jnp.where(only_last_B1, last_BL, drawn_BL)

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """Ranks the items as the event after each history.

    Returns:
      See `ranking.predictions`.
    """
    variables = {'params': params['user_encoder']}
    # One event more than the history, of which nothing is known.
    longer = {
        name: jnp.pad(batch[name], ((0, 0), (0, 1)))
        for name in self.encoder.event_keys
    }
    length_B1 = jnp.sum(longer['segment_ids'] > 0, axis=1, keepdims=True)
    order_L = jnp.arange(longer['segment_ids'].shape[1])
    longer['segment_ids'] = (order_L <= length_B1).astype(jnp.int32)
    longer['positions'] = jnp.where(
        order_L == length_B1, length_B1, longer['positions']
    )
    x_BLD = self._module.apply(
        variables, *user_encoder.inputs(longer, self.encoder)
    )
    h_BE, table_VE = self._module.apply(
        variables, ranking.at_last_event(x_BLD, longer), 'item', method='head'
    )
    return ranking.predictions(
        ranking.scores(h_BE, table_VE),
        self.encoder.schema['item'].size,
        batch,
    )

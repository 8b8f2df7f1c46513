"""Autoregressive pretraining of the user encoder: predict the next event.

Shapes: B batch, L events, D width, E feature embedding, V item ids.
"""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp

from user_llm.models import user_encoder
from user_llm.objectives import objective as objective_lib
from user_llm.objectives import ranking
from user_llm.objectives import softmax

_ALL = softmax.FullSoftmax()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextEvent:
  """Cross-entropies of every feature of the next event, summed.

  arXiv 2402.13598, section 3.1. Parameters: {'user_encoder': ...}.

  Attributes:
    encoder: What to train.
    targets: Modalities to predict, 'item' among them; None: all of the
      encoder's schema.
    target_weights: Of their cross-entropies in the total, by modality; 1 where
      none is given.
    item_softmax: What the next item is told from in training.
  """

  encoder: user_encoder.UserEncoderConfig
  targets: tuple[str, ...] | None = None
  # No part of the hash, by which compiled functions are looked up.
  target_weights: Mapping[str, float] = dataclasses.field(
      default_factory=dict, hash=False
  )
  item_softmax: softmax.FullSoftmax | softmax.SampledSoftmax = (
      softmax.FullSoftmax()
  )

  context_length = 0

  def __post_init__(self):
    self.encoder.check_causal('NextEvent')
    for name in self.target_names:
      _ = self.encoder.schema[name]
    if 'item' not in self.target_names:
      raise ValueError(
          f"TARGETS={self.targets} must include 'item': the evaluation ranks "
          'items.'
      )
    for name, weight in self.target_weights.items():
      if name not in self.target_names:
        raise ValueError(
            f'TARGET_WEIGHTS has {name!r}, which is no target; targets are '
            f'{", ".join(self.target_names)}.'
        )
      is_number = isinstance(weight, (int, float))
      if not is_number or not 0.0 <= weight < math.inf:
        raise ValueError(
            f'TARGET_WEIGHTS[{name!r}] must be a number from 0, not {weight!r}.'
        )

  @property
  def target_names(self) -> tuple[str, ...]:
    return tuple(self.targets or self.encoder.schema.names)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    targets = tuple(f'target_{name}' for name in self.target_names)
    return self.encoder.event_keys + targets

  @property
  def predict_keys(self) -> tuple[str, ...]:
    return self.encoder.event_keys + ranking.KEYS

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
      candidates = self.item_softmax if name == 'item' else _ALL
      sums[f'loss_{name}'] = candidates.total(
          h_BLE,
          table_VE,
          batch[f'target_{name}'],
          self.encoder.schema[name].size,
          # Dropout takes the key itself.
          None if rng is None else jax.random.fold_in(rng, 1),
      )
    weight = jnp.sum(batch['target_item'] > 0).astype(jnp.float32)
    return objective_lib.Loss(
        total=sum(
            self.target_weights.get(name, 1.0) * sums[f'loss_{name}']
            for name in self.target_names
        ),
        weight=weight,
        metrics={name: (total, weight) for name, total in sums.items()},
    )

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """Ranks the items as the event after each history.

    Returns:
      See `ranking.predictions`.
    """
    variables = {'params': params['user_encoder']}
    x_BLD = self._module.apply(
        variables, *user_encoder.inputs(batch, self.encoder)
    )
    h_BE, table_VE = self._module.apply(
        variables, ranking.at_last_event(x_BLD, batch), 'item', method='head'
    )
    return ranking.predictions(
        ranking.scores(h_BE, table_VE),
        self.encoder.schema['item'].size,
        batch,
    )

"""How the next item is told from all others: against all, or against some.

Shapes: B batch, L events, E embedding, V item ids (padded), N negatives.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from user_llm import losses
from user_llm import partitioning
from user_llm.data import item_features


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSoftmax:
  """Against all items: exact, and dear for a large catalogue."""

  def total(
      self,
      h_BLE: jax.Array,
      table_VE: jax.Array,
      targets_BL: jax.Array,
      size: int,
      rng: jax.Array | None,
  ) -> jax.Array:
    """f32[], the sum of -log p(target); see `losses.token_losses`.

    Args:
      h_BLE: Float.
      table_VE: f32.
      targets_BL: i32; 0 means no target here.
      size: The candidates are the ids 1 .. size - 1.
      rng: None: nothing is drawn.
    """
    del rng
    return losses.linear_cross_entropy(h_BLE, table_VE, targets_BL, size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSoftmax:
  """Against negatives that all targets of a step share, drawn with replacement.

  An item is drawn in proportion to a power of how often it trains, and the log
  of how often it is to be expected is taken off its score, so that what stands
  under the fraction, exp(score of the target) + sum over the negatives, has the
  full softmax's as its mean (Bengio and Senecal 2008, adaptive importance
  sampling; a draw of the target itself is left out). Their logarithm is biased:
  less so with more of them.

  Without an RNG it is the full softmax.

  Attributes:
    features: Of the items; their counts are read.
    num_negatives: N.
    power: 0 draws all items alike, 1 as often as they train.
  """

  features: item_features.ItemFeatures
  num_negatives: int = 1024
  power: float = 0.5

  def __post_init__(self):
    value = self.num_negatives
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(
          f'NUM_NEGATIVES must be a positive integer, not {value!r}.'
      )
    is_number = isinstance(self.power, (int, float))
    if not is_number or not 0 <= self.power <= 1:
      raise ValueError(f'NEGATIVES_POWER must be in [0, 1], not {self.power!r}.')

  def log_share(self) -> np.ndarray:
    """f32[V], log of how likely a draw is to be an item; that of id 0 is -inf.

    Items that never train count as if they did once.
    """
    weights = np.maximum(self.features.counts, 1.0) ** self.power
    weights[0] = 0
    with np.errstate(divide='ignore'):
      return np.log(weights / weights.sum()).astype(np.float32)

  def draw(self, rng: jax.Array) -> jax.Array:
    """i32[N] ids."""
    ends_V = np.cumsum(np.exp(self.log_share(), dtype=np.float64))
    # Integers: a float32 is too coarse for the shares of a million items.
    ends_V = np.minimum(ends_V / ends_V[-1] * 2.0**32, 2**32 - 1)
    bits_N = jax.random.bits(rng, (self.num_negatives,), jnp.uint32)
    ids_N = jnp.searchsorted(
        jnp.asarray(ends_V.astype(np.uint32)), bits_N, side='right'
    )
    return jnp.minimum(ids_N, len(ends_V) - 1).astype(jnp.int32)

  def total(
      self,
      h_BLE: jax.Array,
      table_VE: jax.Array,
      targets_BL: jax.Array,
      size: int,
      rng: jax.Array | None,
  ) -> jax.Array:
    """As `FullSoftmax.total`, estimated."""
    if rng is None:
      return losses.linear_cross_entropy(h_BLE, table_VE, targets_BL, size)
    ids_N = self.draw(rng)
    log_expected_N = (
        jnp.take(jnp.asarray(self.log_share()), ids_N)
        + np.log(self.num_negatives)
    )
    negatives_NE = partitioning.constrain(
        jnp.take(table_VE, ids_N, axis=0), None, None
    )
    return losses.sampled_cross_entropy(
        h_BLE,
        jnp.take(table_VE, targets_BL, axis=0),
        negatives_NE,
        targets_BL,
        ids_N,
        log_expected_N,
    )

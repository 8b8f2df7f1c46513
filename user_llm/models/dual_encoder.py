"""Two towers, users and items, whose outputs' product scores the next item.

Shapes: B batch, L events, D width, E embedding, F labels of an item.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.data import item_features
from user_llm.models import layers
from user_llm.models import user_encoder as encoder_lib

# Of the factor on the scores: a learned one else grows until training is
# unstable (arXiv 2103.00020, section 2.5).
_MAX_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
  """Parts of a `DualEncoder`.

  Attributes:
    user_encoder: The user tower; its width D is that of both towers.
    features: Of the items.
    item_embed_dim: Size E of an item's embedding.
    label_embed_dim: Size E of a genre's or category's embedding.
    normalised: Whether users and items have length 1, so that scores are
      cosines.
    temperature: Divides the scores; at first, if it is learned.
    learned_temperature: Whether it is.
  """

  user_encoder: encoder_lib.UserEncoderConfig
  features: item_features.ItemFeatures
  item_embed_dim: int = 64
  label_embed_dim: int = 32
  normalised: bool = True
  temperature: float = 0.1
  learned_temperature: bool = True

  def __post_init__(self):
    for name in ('item_embed_dim', 'label_embed_dim'):
      value = getattr(self, name)
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'DualEncoderConfig.{name} must be a positive integer, not '
            f'{value!r}.'
        )
    is_number = isinstance(self.temperature, (int, float))
    if not is_number or not 1 / _MAX_SCALE <= self.temperature < math.inf:
      raise ValueError(
          'DualEncoderConfig.temperature (TEMPERATURE) must be at least '
          f'{1 / _MAX_SCALE}, not {self.temperature!r}.'
      )
    size = self.user_encoder.schema['item'].size
    if self.features.num_items != size:
      raise ValueError(
          f'DualEncoderConfig.features are of {self.features.num_items} items '
          f'and the user encoder reads {size}: give both the same DATA_DIR.'
      )


class ItemTower(nn.Module):
  """An item's own embedding and the sum of its labels', projected."""

  config: DualEncoderConfig

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """i32[...] -> float[..., D]."""
    config = self.config
    features = config.features
    parts = [
        layers.Embed(
            partitioning.padded_size(features.num_items),
            config.item_embed_dim,
            name='embeds_item',
        )(ids)
    ]
    if features.num_labels > 1:
      labels = jnp.take(jnp.asarray(features.labels), ids, axis=0)
      of_labels = layers.Embed(
          partitioning.padded_size(features.num_labels),
          config.label_embed_dim,
          name='embeds_label',
      )(labels)
      is_label = labels[..., None] > 0
      parts.append(jnp.sum(jnp.where(is_label, of_labels, 0), axis=-2))
    return layers.Dense(
        config.user_encoder.embed_dim, ('features', 'embed'), name='projection'
    )(jnp.concatenate(parts, axis=-1))


class DualEncoder(nn.Module):
  """A user is the output at the last event seen: each prefix has its own.

  A user's vector is the encoder's output itself, so that a decoder that reads
  the encoder reads what was trained here. The encoder's heads are there, for
  the same parameters as in other runs, and have no part in this.
  """

  config: DualEncoderConfig

  def setup(self) -> None:
    config = self.config
    self.user_encoder = encoder_lib.UserEncoder(config.user_encoder)
    self.item_tower = ItemTower(config)
    if config.learned_temperature:
      init = nn.initializers.constant(-math.log(config.temperature))
      self.log_scale = self.param(
          'log_scale', partitioning.param(init, ()), ()
      )

  def __call__(
      self,
      events: dict[str, jax.Array],
      positions_BL: jax.Array,
      segment_ids_BL: jax.Array,
  ) -> jax.Array:
    """Users; see `UserEncoder.__call__`.

    Returns:
      f32[B, L, D], divided by the temperature: scores are their products with
      what `items` returns.
    """
    x_BLD = self.user_encoder(events, positions_BL, segment_ids_BL)
    if self.is_initializing():
      self.items(jnp.zeros((1,), jnp.int32))
    return self._scaled(x_BLD) * self._scale()

  def items(self, ids: jax.Array) -> jax.Array:
    """i32[...] -> f32[..., D]."""
    return self._scaled(self.item_tower(ids))

  def _scale(self) -> jax.Array | float:
    if not self.config.learned_temperature:
      return 1 / self.config.temperature
    # Straight through: the minimum alone has no gradient above the cap, so that
    # a scale which a step took there would stay for good. CLIP clips the
    # parameter after each step for the same: here only its use is clipped.
    capped = jnp.minimum(self.log_scale, math.log(_MAX_SCALE))
    return jnp.exp(
        self.log_scale + jax.lax.stop_gradient(capped - self.log_scale)
    )

  def _scaled(self, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    if not self.config.normalised:
      return x
    # Not a division by the length, whose gradient at zero is no number.
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + 1e-12)

"""GRU4Rec: a user encoder whose events are read by GRUs, one after the other.

Shapes: B batch, L events, D width, G the three gates of D each.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm.models import layers
from user_llm.models import user_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU4Rec:
  """GRUs instead of Transformers (Hidasi & Karatzoglou, arXiv 1706.03847).

  Of the sizes of `UserEncoderConfig`, `num_heads` and `mlp_dim` are not used.
  """

  def make(self, config: user_encoder.UserEncoderConfig) -> nn.Module:
    """The GRUs of an encoder.

    Raises:
      ValueError: it is to see later events.
    """
    config.check_causal('GRU4Rec')
    return GRU4RecEncoder(config)


class _Step(nn.Module):
  """One event of a GRU (arXiv 1406.1078, the reset after the product)."""

  @nn.compact
  def __call__(
      self, h_BD: jax.Array, event: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    x_BG, is_first_B = event
    h_BD = jnp.where(is_first_B[:, None], 0, h_BD)
    # Whole on every device, which else would gather it at each event.
    h_BG = layers.Dense(x_BG.shape[-1], (None, 'features'), name='gates')(h_BD)
    x_reset, x_update, x_new = jnp.split(x_BG, 3, axis=-1)
    h_reset, h_update, h_new = jnp.split(h_BG, 3, axis=-1)
    update_BD = nn.sigmoid(x_update + h_update)
    new_BD = jnp.tanh(x_new + nn.sigmoid(x_reset + h_reset) * h_new)
    h_BD = update_BD * h_BD + (1 - update_BD) * new_BD
    return h_BD, h_BD


class GRULayer(nn.Module):
  """A GRU whose state starts anew with each user of a row."""

  features: int

  @nn.compact
  def __call__(self, x_BLE: jax.Array, positions_BL: jax.Array) -> jax.Array:
    """Float [B, L, E] -> [B, L, D], the state after each event."""
    x_BLG = layers.Dense(
        3 * self.features, ('embed', 'features'), use_bias=True, name='input'
    )(x_BLE)
    scan = nn.scan(
        _Step, variable_broadcast='params', split_rngs={'params': False},
        in_axes=1, out_axes=1,
    )
    start_BD = jnp.zeros((len(x_BLG), self.features), x_BLG.dtype)
    _, h_BLD = scan(name='state')(start_BD, (x_BLG, positions_BL == 0))
    return h_BLD


class GRU4RecEncoder(nn.Module):
  """Concatenation, GRUs."""

  config: user_encoder.UserEncoderConfig

  @nn.compact
  def __call__(
      self,
      features: list[jax.Array],
      positions_BL: jax.Array,
      mask_BLL: jax.Array,
  ) -> jax.Array:
    """As `EarlyFusionEncoder`; positions of 0 part users as the mask does."""
    del mask_BLL
    dropout = layers.Dropout(self.config.dropout_rate)
    # Embeddings are small at first.
    x_BLD = layers.RMSNorm(name='input_norm')(
        jnp.concatenate(features, axis=-1)
    )
    x_BLD = dropout(x_BLD)
    for i in range(self.config.num_layers):
      gru = GRULayer(self.config.embed_dim, name=f'gru_{i}')
      x_BLD = dropout(gru(x_BLD, positions_BL))
    return x_BLD

"""The user encoder: events in, one embedding an event out.

Shapes: B batch, L events, D width, E feature embedding, V ids of a feature.
"""

from collections.abc import Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.data import schema as schema_lib
from user_llm.models import attention
from user_llm.models import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserEncoderConfig:
  """Sizes of a `UserEncoder`.

  Attributes:
    schema: The modalities that it reads and predicts.
    num_layers: Transformer blocks.
    embed_dim: Width D.
    num_heads: Attention heads; divides `embed_dim`.
    mlp_dim: Hidden size of the feed-forward.
    item_embed_dim: Size E of the item's embedding; None: `embed_dim`.
    feature_embed_dim: Size E of every other feature's embedding.
    rotary_base: Of the rotary positions.
    dropout_rate: On embeddings, attention and feed-forward outputs.
  """

  schema: schema_lib.EventSchema
  num_layers: int = 6
  embed_dim: int = 128
  num_heads: int = 8
  mlp_dim: int = 512
  item_embed_dim: int | None = None
  feature_embed_dim: int = 32
  rotary_base: float = 10_000.0
  dropout_rate: float = 0.1

  def __post_init__(self):
    for name in (
        'num_layers', 'embed_dim', 'num_heads', 'mlp_dim', 'item_embed_dim',
        'feature_embed_dim',
    ):
      value = getattr(self, name)
      if name == 'item_embed_dim' and value is None:
        continue
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'UserEncoderConfig.{name} must be a positive integer, not '
            f'{value!r}.'
        )
    if self.embed_dim % self.num_heads:
      raise ValueError(
          f'UserEncoderConfig.embed_dim={self.embed_dim} is not divisible by '
          f'num_heads={self.num_heads}.'
      )
    if self.embed_dim // self.num_heads % 2:
      raise ValueError(
          'UserEncoderConfig: head width '
          f'{self.embed_dim // self.num_heads} must be even, since rotary '
          'positions turn pairs; change num_heads.'
      )
    is_number = isinstance(self.dropout_rate, (int, float))
    if not is_number or not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
          'UserEncoderConfig.dropout_rate must be in [0, 1), not '
          f'{self.dropout_rate!r}.'
      )

  def modality_dim(self, name: str) -> int:
    if name == 'item':
      return self.item_embed_dim or self.embed_dim
    return self.feature_embed_dim


class EncoderBlock(nn.Module):
  """Pre-norm Transformer block (arXiv 2002.04745)."""

  config: UserEncoderConfig

  @nn.compact
  def __call__(
      self, x_BLD: jax.Array, positions_BL: jax.Array, mask_BLL: jax.Array
  ) -> jax.Array:
    config = self.config
    dropout = layers.Dropout(config.dropout_rate)
    y_BLD, _ = attention.SelfAttention(
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.embed_dim // config.num_heads,
        rotary_base=config.rotary_base,
        name='attention',
    )(layers.RMSNorm(name='attention_norm')(x_BLD), positions_BL, mask_BLL)
    x_BLD = x_BLD + dropout(y_BLD)
    y_BLD = layers.MLP(
        config.mlp_dim, activation=nn.gelu, gated=False, name='mlp'
    )(layers.RMSNorm(name='mlp_norm')(x_BLD))
    x_BLD = x_BLD + dropout(y_BLD)
    return partitioning.constrain(
        x_BLD, 'act_batch', 'act_length', 'act_embed'
    )


class UserEncoder(nn.Module):
  """Causal Transformer over events (arXiv 2402.13598, section 3.1).

  Each feature of an event has an embedding; they are concatenated and projected
  to the width: one token an event. A head per feature projects an output back
  to the feature's embedding space, to be scored against the same table.
  """

  config: UserEncoderConfig

  def setup(self) -> None:
    config = self.config
    self.embeds = {
        m.name: layers.Embed(
            partitioning.padded_size(m.size), config.modality_dim(m.name)
        )
        for m in config.schema.modalities
    }
    self.projection = layers.Dense(config.embed_dim, ('features', 'embed'))
    self.input_norm = layers.RMSNorm()
    self.dropout = layers.Dropout(config.dropout_rate)
    self.blocks = [EncoderBlock(config) for _ in range(config.num_layers)]
    self.norm = layers.RMSNorm()
    self.heads = {
        m.name: layers.Dense(
            config.modality_dim(m.name), ('embed', 'features')
        )
        for m in config.schema.modalities
    }

  def __call__(
      self,
      events: dict[str, jax.Array],
      positions_BL: jax.Array,
      segment_ids_BL: jax.Array,
  ) -> jax.Array:
    """Encodes histories.

    Args:
      events: i32[B, L] ids of each modality, by its name.
      positions_BL: i32, from 0 in each segment.
      segment_ids_BL: i32, from 1; 0 is padding. An event sees the earlier ones
        of its own segment.

    Returns:
      Float [B, L, D]: one embedding an event.
    """
    x_BLD = self.projection(
        jnp.concatenate(
            [
                self.embeds[m.name](events[m.name])
                for m in self.config.schema.modalities
            ],
            axis=-1,
        )
    )
    # Embeddings are small at first: without the norm, the blocks' outputs would
    # drown the event itself in the residual stream.
    x_BLD = self.dropout(self.input_norm(x_BLD))
    mask_BLL = attention.causal_mask(positions_BL, segment_ids_BL)
    for block in self.blocks:
      x_BLD = block(x_BLD, positions_BL, mask_BLL)
    x_BLD = self.norm(x_BLD)
    if self.is_initializing():
      for m in self.config.schema.modalities:
        self.head(x_BLD, m.name)
    return x_BLD

  def head(
      self, x_BLD: jax.Array, modality: str
  ) -> tuple[jax.Array, jax.Array]:
    """What scores a feature of the next event.

    Returns:
      Float [B, L, E] and the f32[V, E] table: logits are their product, over
      the padded vocabulary (ids >= the modality's size are not valid).
    """
    return self.heads[modality](x_BLD), self.embeds[modality].table


def inputs(
    batch: Mapping[str, jax.Array], config: UserEncoderConfig
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
  """The arguments of `UserEncoder.__call__` in a batch."""
  events = {name: batch[f'user_{name}'] for name in config.schema.names}
  return events, batch['positions'], batch['segment_ids']

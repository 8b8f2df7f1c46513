"""The user encoder: events in, one embedding an event out.

Shapes: B batch, L events, D width, E feature embedding, M modalities, V ids of
a feature.
"""

from collections.abc import Mapping
import dataclasses
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.data import schema as schema_lib
from user_llm.models import attention
from user_llm.models import layers


class Fusion(Protocol):
  """A network over events: a frozen dataclass of what is its own.

  Another one, such as `models.gru4rec`, is a module and a Fusion of its own.
  """

  def make(self, config: 'UserEncoderConfig') -> nn.Module:
    """A module that is called as `EarlyFusionEncoder` is."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyFusion:
  """The features of an event make one token of one Transformer."""

  def make(self, config: 'UserEncoderConfig') -> nn.Module:
    return EarlyFusionEncoder(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateFusion:
  """A Transformer a feature; their outputs are fused (arXiv 2402.13598v1).

  Each has the sizes of `UserEncoderConfig`, so that M modalities cost M times
  as much as one.
  """

  def make(self, config: 'UserEncoderConfig') -> nn.Module:
    return LateFusionEncoder(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserEncoderConfig:
  """Sizes of a `UserEncoder`.

  Attributes:
    schema: The modalities that it reads and predicts.
    inputs: Those that it reads, 'item' among them; None: all.
    num_layers: Transformer blocks.
    embed_dim: Width D.
    num_heads: Attention heads; divides `embed_dim`.
    mlp_dim: Hidden size of the feed-forward.
    item_embed_dim: Size E of the item's embedding; None: `embed_dim`.
    feature_embed_dim: Size E of every other feature's embedding.
    rotary_base: Of the rotary positions.
    dropout_rate: On embeddings, attention and feed-forward outputs.
    fusion: The network, and where the features of an event meet.
    causal: Whether an event sees the earlier ones alone; False: all of its
      user, for `objectives.cloze`.
  """

  schema: schema_lib.EventSchema
  inputs: tuple[str, ...] | None = None
  num_layers: int = 6
  embed_dim: int = 128
  num_heads: int = 8
  mlp_dim: int = 512
  item_embed_dim: int | None = None
  feature_embed_dim: int = 32
  rotary_base: float = 10_000.0
  dropout_rate: float = 0.1
  fusion: Fusion = EarlyFusion()
  causal: bool = True

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
    if isinstance(self.fusion, type) or not hasattr(self.fusion, 'make'):
      raise ValueError(
          'UserEncoderConfig.fusion (FUSION) must be a Fusion, such as '
          f'@user_encoder.LateFusion(), not {self.fusion!r}.'
      )
    for name in self.input_names:
      _ = self.schema[name]
    if 'item' not in self.input_names:
      raise ValueError(
          f"UserEncoderConfig.inputs (INPUTS) is {self.inputs!r}; it must be "
          "None or a tuple with 'item' in it."
      )
    if not isinstance(self.causal, bool):
      raise ValueError(
          'UserEncoderConfig.causal must be True or False, not '
          f'{self.causal!r}.'
      )

  def check_causal(self, what: str) -> None:
    """Raises ValueError if events see later ones, which `what` must not."""
    if not self.causal:
      raise ValueError(
          f'{what} needs a causal encoder: UserEncoderConfig.causal is False, '
          'as for runs/pretrain_bert4rec.gin, and events would see what is to '
          'be predicted.'
      )

  @property
  def input_names(self) -> tuple[str, ...]:
    """The modalities that are read."""
    return self.schema.names if self.inputs is None else tuple(self.inputs)

  @property
  def event_keys(self) -> tuple[str, ...]:
    """Batch keys of what `inputs` takes."""
    names = tuple(f'user_{name}' for name in self.input_names)
    return (*names, 'positions', 'segment_ids')

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
    y_BLD = attention.SelfAttention(
        num_heads=config.num_heads,
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


class Transformer(nn.Module):
  """Blocks between two norms: float [B, L, D] in and out."""

  config: UserEncoderConfig

  def setup(self) -> None:
    config = self.config
    self.input_norm = layers.RMSNorm()
    self.dropout = layers.Dropout(config.dropout_rate)
    self.blocks = [EncoderBlock(config) for _ in range(config.num_layers)]
    self.norm = layers.RMSNorm()

  def __call__(
      self, x_BLD: jax.Array, positions_BL: jax.Array, mask_BLL: jax.Array
  ) -> jax.Array:
    # Embeddings are small at first: without the norm, the blocks' outputs would
    # drown the event itself in the residual stream.
    x_BLD = self.dropout(self.input_norm(x_BLD))
    for block in self.blocks:
      x_BLD = block(x_BLD, positions_BL, mask_BLL)
    return self.norm(x_BLD)


class EarlyFusionEncoder(nn.Module):
  """Concatenation, projection, Transformer."""

  config: UserEncoderConfig

  def setup(self) -> None:
    self.projection = layers.Dense(
        self.config.embed_dim, ('features', 'embed')
    )
    self.transformer = Transformer(self.config)
    nn.share_scope(self, self.transformer)

  def __call__(
      self,
      features: list[jax.Array],
      positions_BL: jax.Array,
      mask_BLL: jax.Array,
  ) -> jax.Array:
    """Encodes events.

    Args:
      features: Float [B, L, E] of each of `UserEncoderConfig.input_names`.
      positions_BL: i32, 0 where a user of a row starts: several share one.
      mask_BLL: Which events each sees.

    Returns:
      Float [B, L, D].
    """
    x_BLD = self.projection(jnp.concatenate(features, axis=-1))
    return self.transformer(x_BLD, positions_BL, mask_BLL)


class LateFusionEncoder(nn.Module):
  """Projections, a Transformer each, concatenation, projection.

  The Transformers' parameters have a first axis of M: they run as one.
  """

  config: UserEncoderConfig

  def setup(self) -> None:
    config = self.config
    self.inputs = {
        name: layers.Dense(config.embed_dim, ('features', 'embed'))
        for name in config.input_names
    }
    self.transformers = nn.vmap(
        Transformer,
        in_axes=(0, None, None),
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        metadata_params={nn.PARTITION_NAME: 'modalities'},
    )(config)
    self.projection = layers.Dense(config.embed_dim, ('features', 'embed'))
    self.norm = layers.RMSNorm()

  def apart(
      self,
      features: list[jax.Array],
      positions_BL: jax.Array,
      mask_BLL: jax.Array,
  ) -> jax.Array:
    """The [B, L, E] of `UserEncoderConfig.input_names` -> [M, B, L, D]."""
    x_MBLD = jnp.stack([
        self.inputs[name](x_BLE)
        for name, x_BLE in zip(self.config.input_names, features)
    ])
    return self.transformers(x_MBLD, positions_BL, mask_BLL)

  def __call__(
      self,
      features: list[jax.Array],
      positions_BL: jax.Array,
      mask_BLL: jax.Array,
  ) -> jax.Array:
    """As `EarlyFusionEncoder`."""
    x_MBLD = self.apart(features, positions_BL, mask_BLL)
    x_BLD = self.projection(jnp.concatenate(list(x_MBLD), axis=-1))
    return self.norm(x_BLD)


class UserEncoder(nn.Module):
  """Embeddings, a `Fusion` and heads (arXiv 2402.13598, section 3.1).

  Each feature of an event has an embedding; fused they are one output an event.
  A head per feature projects it back to the feature's embedding space, to be
  scored against the same table.
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
    self.fusion = config.fusion.make(config)
    # Names that do not tell how they are fused.
    nn.share_scope(self, self.fusion)
    self.heads = {
        m.name: layers.Dense(
            config.modality_dim(m.name), ('embed', 'features')
        )
        for m in config.schema.modalities
    }

  def embedded(self, events: dict[str, jax.Array]) -> list[jax.Array]:
    """Float [B, L, E] of each modality that is read."""
    names = self.config.input_names
    return [self.embeds[name](events[name]) for name in names]

  def __call__(
      self,
      events: dict[str, jax.Array],
      positions_BL: jax.Array,
      segment_ids_BL: jax.Array,
  ) -> jax.Array:
    """Encodes histories.

    Args:
      events: i32[B, L] ids of each modality that is read, by its name.
      positions_BL: i32, from 0 in each segment.
      segment_ids_BL: i32, from 1; 0 is padding. An event sees its own segment
        and, if the encoder is causal, nothing later.

    Returns:
      Float [B, L, D]: one embedding an event.
    """
    if self.config.causal:
      mask_BLL = attention.causal_mask(positions_BL, segment_ids_BL)
    else:
      mask_BLL = attention.segment_mask(segment_ids_BL)
    x_BLD = self.fusion(self.embedded(events), positions_BL, mask_BLL)
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
  events = {name: batch[f'user_{name}'] for name in config.input_names}
  return events, batch['positions'], batch['segment_ids']

"""Many user tokens in, a few latents out.

Shapes: B users, P targets a user, S user tokens, K latents, D width, N heads, H
head width.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import cross_attention
from user_llm.models import layers


# Log of the weight of all latents together beside that of the last event.
_UNSEEN = -4.0


class Identity(nn.Module):
  """No resampler: every event is a user token."""

  def __call__(
      self, user: cross_attention.UserTokens
  ) -> cross_attention.UserTokens:
    return user


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoResamplerConfig:
  """The decoder reads every event."""

  def make(self) -> nn.Module:
    return Identity()

  def num_tokens(self, num_events: int) -> int:
    """User tokens of so many events."""
    return num_events


class LastEvent(nn.Module):
  """One user token: what the encoder has read by the last event seen."""

  def __call__(
      self, user: cross_attention.UserTokens
  ) -> cross_attention.UserTokens:
    """Tokens [B, S, D] -> [B * P, 1, D], one "user" for each target."""
    num_tokens = user.mask.shape[-1]
    last_BP = num_tokens - 1 - jnp.argmax(user.mask[..., ::-1], axis=-1)
    tokens_BPD = jnp.take_along_axis(user.tokens, last_BP[..., None], axis=1)
    is_any_BP = jnp.any(user.mask, axis=-1)
    return cross_attention.UserTokens(
        tokens_BPD.reshape(-1, 1, tokens_BPD.shape[-1]),
        is_any_BP.reshape(-1, 1, 1),
        None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LastEventConfig:
  """The decoder reads the last event alone: one vector a user."""

  def make(self) -> nn.Module:
    return LastEvent()

  def num_tokens(self, num_events: int) -> int:
    """User tokens of so many events."""
    del num_events
    return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
  """Sizes of a `PerceiverResampler`.

  Attributes:
    num_layers: Blocks of attention and feed-forward.
    num_latents: User tokens that come out, K.
    embed_dim: Width D.
    num_heads: Attention heads; divides `embed_dim`.
    mlp_dim: Hidden size of the feed-forward.
    max_recency: Recencies that have a bias of their own; 0: no recency bias.
  """

  num_layers: int = 2
  num_latents: int = 16
  embed_dim: int = 128
  num_heads: int = 8
  mlp_dim: int = 512
  max_recency: int = 64

  def __post_init__(self):
    for name in (
        'num_layers', 'num_latents', 'embed_dim', 'num_heads', 'mlp_dim'
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'ResamplerConfig.{name} must be a positive integer, not '
            f'{value!r}.'
        )
    if self.embed_dim % self.num_heads:
      raise ValueError(
          f'ResamplerConfig.embed_dim={self.embed_dim} is not divisible by '
          f'num_heads={self.num_heads}.'
      )
    if not isinstance(self.max_recency, int) or self.max_recency < 0:
      raise ValueError(
          'ResamplerConfig.max_recency must be an integer, 0 (none) or more, '
          f'not {self.max_recency!r}.'
      )

  def make(self) -> nn.Module:
    return PerceiverResampler(self)

  def num_tokens(self, num_events: int) -> int:
    """User tokens of so many events."""
    del num_events
    return self.num_latents


class ResamplerBlock(nn.Module):
  """Latents attend to the user tokens and to themselves, pre-norm."""

  config: ResamplerConfig

  @nn.compact
  def __call__(
      self, x_BPKD: jax.Array, user: cross_attention.UserTokens
  ) -> jax.Array:
    config = self.config
    proj = attention.Projections(
        config.num_heads,
        config.num_heads,
        config.embed_dim // config.num_heads,
        config.embed_dim,
        name='proj',
    )
    # A resampler's targets are rows to the projections.
    rows = x_BPKD.reshape(-1, *x_BPKD.shape[2:])
    y_RKD = layers.RMSNorm(name='latents_norm')(rows)
    tokens = layers.RMSNorm(name='tokens_norm')(user.tokens)
    bias = None
    if user.recency is not None and config.max_recency:
      bias = cross_attention.RecencyBias(
          config.num_heads, config.max_recency, name='recency'
      )(user.recency)[:, :, :, None]
    # The latents start as nearly unseen: saying nothing of the user at first,
    # they would drown the last event, and training would stall.
    own_bias_N = self.param(
        'own_bias',
        partitioning.param(
            nn.initializers.constant(_UNSEEN - math.log(config.num_latents)),
            ('heads',),
        ),
        (config.num_heads,),
    )
    split = lambda y: y.reshape(*x_BPKD.shape[:2], *y.shape[1:])
    own_kv = jax.tree.map(split, proj.key_value(y_RKD))
    own_bias = own_bias_N.reshape(-1, 1, 1, 1, 1)
    y = cross_attention.attend_parts(
        split(proj.query(y_RKD)),
        [
            cross_attention.Part(
                proj.key_value(tokens), user.mask[:, :, None], bias
            ),
            cross_attention.Part(own_kv, bias=own_bias),
        ],
    )
    rows = rows + proj.out(y.reshape(-1, *y.shape[2:]))
    y_RKD = layers.MLP(
        config.mlp_dim, activation=nn.gelu, gated=False, name='mlp'
    )(layers.RMSNorm(name='mlp_norm')(rows))
    return split(rows + y_RKD)


class PerceiverResampler(nn.Module):
  """Trained latents read the user tokens (arXiv 2204.14198, section 2.1).

  Keys and values are the user tokens, computed once a user, and the latents,
  which differ by target since each sees its own prefix of the history.
  """

  config: ResamplerConfig

  @nn.compact
  def __call__(
      self, user: cross_attention.UserTokens
  ) -> cross_attention.UserTokens:
    """Tokens [B, S, D'] -> [B * P, K, D], one "user" for each target.

    The latents of a target that sees no events are masked: they would say
    something of nobody.
    """
    config = self.config
    tokens = layers.Dense(
        config.embed_dim, ('features', 'embed'), name='projection'
    )(user.tokens)
    user = user._replace(tokens=tokens)
    latents_KD = self.param(
        'latents',
        partitioning.param(layers.embedding_init, ('latents', 'embed')),
        (config.num_latents, config.embed_dim),
    ).astype(tokens.dtype)
    num_users, num_targets = user.mask.shape[:2]
    x_BPKD = jnp.broadcast_to(
        latents_KD, (num_users, num_targets, *latents_KD.shape)
    )
    for i in range(config.num_layers):
      x_BPKD = ResamplerBlock(config, name=f'blocks_{i}')(x_BPKD, user)
    x_RKD = layers.RMSNorm(name='norm')(
        x_BPKD.reshape(-1, *x_BPKD.shape[2:])
    )
    has_events_R = jnp.any(user.mask, axis=-1).reshape(-1)
    mask = jnp.broadcast_to(
        has_events_R[:, None, None], (x_RKD.shape[0], 1, config.num_latents)
    )
    return cross_attention.UserTokens(x_RKD, mask, None)

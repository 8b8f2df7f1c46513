"""The layers of a `Decoder`, in groups.

Shapes: B users (prompts), P rows a user, R = B * P, T tokens, S tokens of a
user, D width, K KV heads, H head width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import causal_attention
from user_llm.models import cross_attention as cross_attention_lib
from user_llm.models import decoder_config
from user_llm.models import kv_cache
from user_llm.models import layers
from user_llm.models import positions as positions_lib


def _norm(config: decoder_config.DecoderConfig, name: str) -> layers.RMSNorm:
  return layers.RMSNorm(config.norm_epsilon, name=name)


class DecoderLayer(nn.Module):
  """Pre-norm block: rotary grouped attention, gated feed-forward."""

  config: decoder_config.DecoderConfig

  def _attend(
      self,
      x_RTD: jax.Array,
      cache: causal_attention.LayerCache,
      slots: kv_cache.Slots,
      where: positions_lib.Positions | None,
  ) -> tuple[jax.Array, attention.KeyValue]:
    config = self.config
    proj = attention.Projections(
        config.num_heads, config.num_kv_heads, config.head_dim,
        config.embed_dim, config.qkv_bias, dense=config.lora.dense,
        name='attention',
    )
    q, kv = proj.query(x_RTD), proj.key_value(x_RTD)
    if config.qk_norm:
      q = _norm(config, 'q_norm')(q)
      kv = kv._replace(key=_norm(config, 'k_norm')(kv.key))
    if where is None:
      where = config.positions[0].arrays(config.head_dim)
    y, kv = causal_attention.attend(
        q, kv, where, slots, cache,
        scale=(config.query_scalar or config.head_dim) ** -0.5,
        softcap=config.attention_softcap,
    )
    return proj.out(y), kv

  @nn.compact
  def __call__(
      self,
      x_RTD: jax.Array,
      cache: causal_attention.LayerCache = causal_attention.LayerCache(),
      slots: kv_cache.Slots = kv_cache.Slots(),
      where: positions_lib.Positions | None = None,
  ) -> tuple[jax.Array, attention.KeyValue]:
    """Returns the output, and keys and values, see `causal_attention`."""
    config = self.config
    dropout = layers.Dropout(config.dropout_rate)

    def add(x_RTD: jax.Array, y_RTD: jax.Array, name: str) -> jax.Array:
      if config.post_norms:
        y_RTD = _norm(config, name)(y_RTD)
      return x_RTD + dropout(y_RTD)

    y_RTD, kv = self._attend(
        _norm(config, 'attention_norm')(x_RTD), cache, slots, where
    )
    x_RTD = add(x_RTD, y_RTD, 'attention_post_norm')
    y_RTD = layers.MLP(
        config.mlp_dim, config.activation, dense=config.lora.dense, name='mlp'
    )(_norm(config, 'mlp_norm')(x_RTD))
    x_RTD = add(x_RTD, y_RTD, 'mlp_post_norm')
    x_RTD = partitioning.constrain(
        x_RTD, 'act_batch', 'act_length', 'act_embed'
    )
    return x_RTD, kv


class Group(nn.Module):
  """Layers, the last of them preceded by a cross-attention if users come."""

  config: decoder_config.DecoderConfig
  num_layers: int

  def setup(self) -> None:
    self.layers = [DecoderLayer(self.config) for _ in range(self.num_layers)]
    self.cross_attention = cross_attention_lib.GatedCrossAttention(
        self.config.cross_attention,
        self.config.embed_dim,
        self.config.norm_epsilon,
    )

  def key_value(
      self, carry: None, tokens_BSD: jax.Array
  ) -> tuple[None, attention.KeyValue]:
    return carry, self.cross_attention.key_value(tokens_BSD)

  def __call__(
      self,
      x_RTD: jax.Array,
      masks: tuple[jax.Array, jax.Array | None] | None,
      slots: kv_cache.Slots,
      keep_kv: bool,
      user_kv: attention.KeyValue | None,
      cache: causal_attention.LayerCache,
      where: tuple[positions_lib.Positions, ...] | None,
  ) -> tuple[jax.Array, tuple | None]:
    """Runs the layers.

    Args:
      x_RTD: Float input.
      masks: Mask and recency of the user tokens.
      slots: Of the prompts and the cache.
      keep_kv: Whether to return keys and values.
      user_kv: Of the user tokens, float[B, S, K, H]; None: no user.
      cache: As of one layer, with an entry for each layer in place of its keys
        and values.
      where: Of each layer; None: all as the config's first.
    """
    kept = []
    for i, layer in enumerate(self.layers):
      if user_kv is not None and i == self.num_layers - 1:
        x_RTD = self.cross_attention(x_RTD, user_kv, *masks)
      x_RTD, kv = layer(
          x_RTD, cache.at(i), slots, None if where is None else where[i]
      )
      kept.append(kv)
    return x_RTD, tuple(kept) if keep_kv else None


class UnstackedGroups(nn.Module):
  """What the scan of `Group` is, without its loop and its stacks.

  Whatever has a leading axis of groups there is a tuple of groups here.
  """

  config: decoder_config.DecoderConfig

  def setup(self) -> None:
    config = self.config
    self.groups = [
        Group(config, config.cross_attention.every)
        for _ in range(config.num_groups)
    ]

  def key_value(
      self, carry: None, tokens_BSD: jax.Array
  ) -> tuple[None, tuple[attention.KeyValue, ...]]:
    return carry, tuple(g.key_value(carry, tokens_BSD)[1] for g in self.groups)

  def __call__(
      self,
      x_RTD: jax.Array,
      masks: tuple[jax.Array, jax.Array | None] | None,
      slots: kv_cache.Slots,
      keep_kv: bool,
      user_kv: tuple[attention.KeyValue, ...] | None,
      cache: causal_attention.LayerCache,
      where: tuple[positions_lib.Positions, ...] | None,
  ) -> tuple[jax.Array, tuple | None]:
    """See `Group`."""
    kept = []
    for i, group in enumerate(self.groups):
      x_RTD, kv = group(
          x_RTD,
          masks,
          slots,
          keep_kv,
          None if user_kv is None else user_kv[i],
          cache.at(i),
          jax.tree.map(lambda x: x[i], where),
      )
      kept.append(kv)
    return x_RTD, tuple(kept) if keep_kv else None


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters for the same decoder with `DecoderConfig.stacked=False`.

  A scan copies each layer's weights out of its stack before it uses them, which
  for a short prompt takes as long as the rest.
  """
  stacks = params['groups']
  num_groups = jax.tree.leaves(stacks)[0].shape[0]
  groups = {
      f'groups_{i}': jax.tree.map(lambda x: x[i], stacks)
      for i in range(num_groups)
  }
  return {**params, 'groups': groups}

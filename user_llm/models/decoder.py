"""A decoder-only language model that can read users.

Layers are scanned in groups of `cross_attention.every`; the last layer of each
group is preceded by a `GatedCrossAttention`, which exists only where users are
given. Everything else has the same names with and without users.

Shapes: B users (prompts), P rows a user, R = B * P, T tokens, U capacity of a
cache, D width, N heads, K KV heads, H head width, V vocabulary (padded).
"""

from collections.abc import Callable
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import cross_attention as cross_attention_lib
from user_llm.models import kv_cache
from user_llm.models import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Sizes of a `Decoder`.

  Attributes:
    vocab_size: Tokens; the table is padded and the padding never predicted.
    num_layers: Transformer blocks.
    embed_dim: Width D.
    num_heads: Attention heads N.
    num_kv_heads: KV heads K; divides `num_heads`.
    head_dim: Width H of a head; even.
    mlp_dim: Hidden size of the gated feed-forward.
    activation: Of the feed-forward's gate.
    qkv_bias: Whether q, k and v have a bias.
    tied_embeddings: Whether the embeddings are the head's weights too.
    rotary_base: Of the rotary positions.
    norm_epsilon: Of every norm.
    dropout_rate: On the outputs of attention and feed-forward.
    cross_attention: Where and how users are read.
    scan_unroll: Groups that one iteration of the scan runs.
    remat: Whether to recompute a group's activations in the backward pass.
  """

  vocab_size: int
  num_layers: int = 3
  embed_dim: int = 128
  num_heads: int = 4
  num_kv_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 384
  activation: Callable[[jax.Array], jax.Array] = nn.silu
  qkv_bias: bool = False
  tied_embeddings: bool = True
  rotary_base: float = 10_000.0
  norm_epsilon: float = 1e-6
  dropout_rate: float = 0.0
  cross_attention: cross_attention_lib.CrossAttentionConfig = (
      cross_attention_lib.CrossAttentionConfig()
  )
  scan_unroll: int = 1
  remat: bool = False

  def __post_init__(self):
    for name in (
        'vocab_size', 'num_layers', 'embed_dim', 'num_heads', 'num_kv_heads',
        'head_dim', 'mlp_dim', 'scan_unroll',
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'DecoderConfig.{name} must be a positive integer, not {value!r}.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f'DecoderConfig.num_heads={self.num_heads} is not divisible by '
          f'num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim % 2:
      raise ValueError(
          f'DecoderConfig.head_dim={self.head_dim} must be even: rotary '
          'positions turn pairs.'
      )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
          'DecoderConfig.dropout_rate must be in [0, 1), not '
          f'{self.dropout_rate!r}.'
      )
    if self.cross_attention.every > self.num_layers:
      raise ValueError(
          f'CrossAttentionConfig.every={self.cross_attention.every} leaves a '
          f'decoder of DecoderConfig.num_layers={self.num_layers} without '
          'cross-attention; make it at most num_layers.'
      )

  @property
  def num_groups(self) -> int:
    """Groups of layers that are scanned, each with a cross-attention."""
    return self.num_layers // self.cross_attention.every

  @property
  def num_rest(self) -> int:
    """Layers after the last whole group."""
    return self.num_layers % self.cross_attention.every


class DecoderLayer(nn.Module):
  """Pre-norm block: rotary grouped attention, gated feed-forward."""

  config: DecoderConfig

  def _attend(
      self,
      x_RTD: jax.Array,
      cache: tuple[attention.KeyValue, attention.KeyValue] | None,
      slots: kv_cache.Slots,
  ) -> tuple[jax.Array, attention.KeyValue]:
    config = self.config
    proj = attention.Projections(
        config.num_heads, config.num_kv_heads, config.head_dim,
        config.embed_dim, config.qkv_bias, name='attention',
    )
    order = jnp.arange(x_RTD.shape[1])
    positions = order[None]
    if cache is not None:
      positions += cache[0].key.shape[1] + slots.length
    if slots.pads is not None:
      rows = x_RTD.shape[0] // slots.pads.shape[0]
      positions -= jnp.repeat(slots.pads, rows)[:, None]
    q, kv = proj.query(x_RTD), proj.key_value(x_RTD)
    q = attention.rotary(q, positions, config.rotary_base)
    kv = kv._replace(
        key=attention.rotary(kv.key, positions, config.rotary_base)
    )
    if cache is None:
      mask = (order[:, None] >= order)[None]
      if slots.pads is not None:
        mask &= (positions >= 0)[:, None]
      return proj.out(attention.attend(q, kv, mask)), kv
    prompt, added = cache
    added = attention.KeyValue(*(
        jax.lax.dynamic_update_slice_in_dim(old, new, slots.length, axis=1)
        for old, new in zip(added, kv)
    ))
    is_prompt_BS = jnp.arange(prompt.key.shape[1]) >= slots.pads[:, None]
    is_added_TU = (
        order[:, None] + slots.length >= jnp.arange(added.key.shape[1])
    )
    split = lambda y: y.reshape(prompt.key.shape[0], -1, *y.shape[1:])
    y = cross_attention_lib.attend_shared(
        split(q),
        prompt,
        is_prompt_BS[:, None],
        own=jax.tree.map(split, added),
        own_mask_TU=is_added_TU,
    )
    return proj.out(y.reshape(q.shape)), added

  @nn.compact
  def __call__(
      self,
      x_RTD: jax.Array,
      cache: tuple[attention.KeyValue, attention.KeyValue] | None = None,
      slots: kv_cache.Slots = kv_cache.Slots(),
  ) -> tuple[jax.Array, attention.KeyValue]:
    """Returns the output, and keys and values: all, or with a cache `added`."""
    config = self.config
    norm = lambda name: layers.RMSNorm(config.norm_epsilon, name=name)
    dropout = layers.Dropout(config.dropout_rate)
    y_RTD, kv = self._attend(norm('attention_norm')(x_RTD), cache, slots)
    x_RTD = x_RTD + dropout(y_RTD)
    y_RTD = layers.MLP(config.mlp_dim, config.activation, name='mlp')(
        norm('mlp_norm')(x_RTD)
    )
    x_RTD = x_RTD + dropout(y_RTD)
    x_RTD = partitioning.constrain(
        x_RTD, 'act_batch', 'act_length', 'act_embed'
    )
    return x_RTD, kv


class Group(nn.Module):
  """Layers, the last of them preceded by a cross-attention if users come."""

  config: DecoderConfig
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
      cache: tuple | None,
  ) -> tuple[jax.Array, tuple | None]:
    """Runs the layers.

    Args:
      x_RTD: Float input.
      masks: Mask and recency of the user tokens.
      slots: Of the prompts and the cache.
      keep_kv: Whether to return keys and values.
      user_kv: Of the user tokens, float[B, S, K, H]; None: no user.
      cache: For each layer, the prompt's and the added keys and values.
    """
    kept = []
    for i, layer in enumerate(self.layers):
      if user_kv is not None and i == self.num_layers - 1:
        x_RTD = self.cross_attention(x_RTD, user_kv, *masks)
      layer_cache = None if cache is None else tuple(c[i] for c in cache)
      x_RTD, kv = layer(x_RTD, layer_cache, slots)
      kept.append(kv)
    return x_RTD, tuple(kept) if keep_kv else None


class Decoder(nn.Module):
  """RMSNorm, rotary positions, gated MLP, grouped KV heads, scanned layers."""

  config: DecoderConfig

  def setup(self) -> None:
    config = self.config
    vocab_size = partitioning.padded_size(config.vocab_size)
    self.embed = layers.Embed(vocab_size, config.embed_dim)
    group = Group
    if config.remat:
      # Inside a scan nothing can be merged with the forward pass anyway.
      group = nn.remat(
          Group, prevent_cse=False, static_argnums=(4,), methods=['__call__']
      )
    scan = dict(
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        length=config.num_groups,
        unroll=min(config.scan_unroll, config.num_groups),
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    broadcast = nn.broadcast
    self.groups = nn.scan(
        group,
        methods={
            '__call__': dict(
                in_axes=(broadcast, broadcast, broadcast, 0, 0), **scan
            ),
            'key_value': dict(in_axes=(broadcast,), **scan),
        },
    )(config, config.cross_attention.every)
    if config.num_rest:
      self.rest = Group(config, config.num_rest)
    self.norm = layers.RMSNorm(config.norm_epsilon)
    if not config.tied_embeddings:
      self.lm_head = layers.Dense(vocab_size, ('embed', 'vocab'))

  def user_context(
      self, user: cross_attention_lib.UserTokens
  ) -> cross_attention_lib.UserContext:
    """Keys and values of every cross-attention, computed once a user."""
    _, kv = self.groups.key_value(None, user.tokens)
    return cross_attention_lib.UserContext(kv, user.mask, user.recency)

  def __call__(
      self,
      tokens_RT: jax.Array,
      context: cross_attention_lib.UserContext | None = None,
      cache: kv_cache.Cache | None = None,
      keep_kv: bool = False,
      slots: kv_cache.Slots = kv_cache.Slots(),
  ) -> tuple[jax.Array, tuple | None]:
    """Runs the layers over tokens, or over what comes after a cache.

    Args:
      tokens_RT: i32; the rows of one user are next to each other.
      context: Of the B users; None: a plain language model.
      cache: Of earlier calls.
      keep_kv: Whether to return keys and values.
      slots: Where `tokens_RT` begin, if some do with padding; a cache has its
        own.

    Returns:
      Float [R, T, D], normed for `logits`; and if asked, keys and values: of
      these tokens, or with a cache `cache.added` with them written into it.
    """
    x_RTD = self.embed(tokens_RT)
    user_kv = masks = None
    groups_cache = rest_cache = None
    if context is not None:
      user_kv, masks = context.key_value, (context.mask, context.recency)
    if cache is not None:
      slots = cache.slots
      groups_cache, rest_cache = zip(cache.prompt, cache.added)
    x_RTD, kv = self.groups(
        x_RTD, masks, slots, keep_kv, user_kv, groups_cache
    )
    rest_kv = ()
    if self.config.num_rest:
      x_RTD, rest_kv = self.rest(
          x_RTD, None, slots, keep_kv, None, rest_cache
      )
    x_RTD = self.norm(x_RTD)
    if self.is_initializing():
      self.logits(x_RTD)
    return x_RTD, (kv, rest_kv) if keep_kv else None

  def logits(self, x_RTD: jax.Array) -> jax.Array:
    """f32[R, T, V] over the padded vocabulary, the padding masked."""
    if self.config.tied_embeddings:
      logits = jnp.einsum(
          'RTD,VD->RTV', x_RTD, self.embed.table.astype(x_RTD.dtype),
          preferred_element_type=jnp.float32,
      )
    else:
      logits = self.lm_head(x_RTD).astype(jnp.float32)
    logits = partitioning.constrain(
        logits, 'act_batch', 'act_length', 'act_vocab'
    )
    valid_V = jnp.arange(logits.shape[-1]) < self.config.vocab_size
    return jnp.where(valid_V, logits, attention.MASKED)

  def prefill(
      self,
      tokens_BT: jax.Array,
      context: cross_attention_lib.UserContext | None,
      rows: int,
      capacity: int,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Reads prompts.

    Args:
      tokens_BT: i32 prompts, padded at their beginning with 0.
      context: Of the users.
      rows: P, the rows that will continue each prompt.
      capacity: Tokens that a row may add.

    Returns:
      f32[B, V], the logits of what comes next, and a cache for `extend`.
    """
    pads_B = kv_cache.pads(tokens_BT)
    x_BTD, prompt = self(
        tokens_BT, context, keep_kv=True, slots=kv_cache.Slots(pads_B)
    )
    cache = kv_cache.with_room(prompt, pads_B, rows, capacity)
    return self.logits(x_BTD[:, -1:])[:, 0], cache

  def extend(
      self,
      tokens_R: jax.Array,
      context: cross_attention_lib.UserContext | None,
      cache: kv_cache.Cache,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Adds one token to each row; returns f32[R, V] logits and the cache."""
    x_RTD, added = self(tokens_R[:, None], context, cache, keep_kv=True)
    slots = cache.slots._replace(length=cache.slots.length + 1)
    cache = cache._replace(added=added, slots=slots)
    return self.logits(x_RTD)[:, 0], cache

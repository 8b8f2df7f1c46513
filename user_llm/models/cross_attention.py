"""Attention of many rows of text to the one history of their user.

Shapes: B users, P rows a user (targets or beams), R = B * P, T tokens of a row,
S keys (user tokens), D width, N heads, K KV heads, G = N / K query heads a KV
head, H head width.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import kv_cache
from user_llm.models import layers


class UserTokens(NamedTuple):
  """Users as a decoder reads them.

  Attributes:
    tokens: Float [B, S, D].
    mask: bool[B, P, S], True where a row may look (P may be 1: all rows alike).
    recency: i32[B, P, S], how many events ago, the last being 0; None where
      tokens are no events.
  """

  tokens: jax.Array
  mask: jax.Array
  recency: jax.Array | None


class UserContext(NamedTuple):
  """Users as a decoder's layers read them, computed once a user.

  Attributes:
    key_value: For the cross-attentions, float[groups, B, S, K, H] each, without
      stacks a tuple of groups; None: users are not read so.
    mask: As `UserTokens`.
    recency: As `UserTokens`.
    prefix: What stands before the text.
  """

  key_value: attention.KeyValue | tuple[attention.KeyValue, ...] | None = None
  mask: jax.Array | None = None
  recency: jax.Array | None = None
  prefix: kv_cache.Cache = kv_cache.NOTHING


class Part(NamedTuple):
  """Some of the keys that queries look at.

  Attributes:
    key_value: Float [B, S, K, H] each, which the P rows of a user share, or
      float[B, P, S, K, H], each row's own.
    mask: bool[B, P, T, S] (axes may be 1), True where a query may look; None:
      everywhere.
    bias: f32[N, B, P, T, S] (axes may be 1), added to the logits; None: 0.
  """

  key_value: attention.KeyValue
  mask: jax.Array | None = None
  bias: jax.Array | None = None

  @property
  def letters(self) -> str:
    """Of the einsum."""
    return 'BPSKH' if self.key_value.key.ndim == 5 else 'BSKH'


def attend_parts(
    q_BPTNH: jax.Array,
    parts: Sequence[Part],
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
  """Softmax attention in float32 to the keys of all parts together.

  Nothing of size B * P * S * H is made: shared K/V are not repeated for the
  rows. A part in which a query may look nowhere changes nothing, to the last
  bit: its weights are zeros, which are summed apart from the others'.

  Args:
    q_BPTNH: Queries.
    parts: Keys and values.
    scale: Of the logits; None: 1/sqrt(H).
    softcap: See `attention.capped`.

  Returns:
    Float [B, P, T, N, H]; zeros for a query that may look nowhere.
  """
  num_heads, head_dim = q_BPTNH.shape[-2:]
  num_kv_heads = parts[0].key_value.key.shape[-2]
  scale = head_dim**-0.5 if scale is None else scale
  q_BPTKGH = (q_BPTNH * scale).reshape(
      *q_BPTNH.shape[:3], num_kv_heads, num_heads // num_kv_heads, head_dim
  )
  logits = [_logits(q_BPTKGH, part, softcap) for part in parts]
  top = functools.reduce(
      jnp.maximum, [jnp.max(x, axis=-1, keepdims=True) for x in logits]
  )
  top = jax.lax.stop_gradient(top)
  weights = [jnp.exp(x - top) for x in logits]
  total = functools.reduce(
      jnp.add, [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
  )
  out = functools.reduce(jnp.add, [
      jnp.einsum(
          f'BKGPTS,{part.letters}->BPTKGH',
          (w / total).astype(part.key_value.value.dtype),
          part.key_value.value,
      )
      for w, part in zip(weights, parts)
  ])
  masks = [part.mask for part in parts if part.mask is not None]
  if len(masks) == len(parts):
    anywhere_BPT = functools.reduce(
        jnp.logical_or, [jnp.any(mask, axis=-1) for mask in masks]
    )
    out = jnp.where(anywhere_BPT[..., None, None, None], out, 0)
  return out.reshape(q_BPTNH.shape)


def _logits(q_BPTKGH: jax.Array, part: Part, softcap: float) -> jax.Array:
  """f32[B, K, G, P, T, S]."""
  logits = jnp.einsum(
      f'BPTKGH,{part.letters}->BKGPTS', q_BPTKGH, part.key_value.key,
      preferred_element_type=jnp.float32,
  )
  logits = attention.capped(logits, softcap)
  if part.bias is not None:
    groups = q_BPTKGH.shape[3:5]
    bias = part.bias.reshape(*groups, *part.bias.shape[1:])
    logits += jnp.moveaxis(bias, 2, 0)
  if part.mask is not None:
    logits = jnp.where(part.mask[:, None, None], logits, attention.MASKED)
  return logits


def _falling_bias(
    key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """-slope * recency, slopes 2, ..., 2**-7 by head (arXiv 2108.12409)."""
  del key
  slope_N = 2.0 ** (1 - 8 * jnp.arange(shape[0]) / shape[0])
  return -(slope_N[:, None] * jnp.arange(shape[1])).astype(dtype)


class RecencyBias(nn.Module):
  """A learned bias a head for how many events ago a key is.

  It starts with one head that looks at the last event, others further back and
  the last one at all alike: what comes next depends most on what came last.
  """

  num_heads: int
  max_recency: int

  @nn.compact
  def __call__(self, recency_BPS: jax.Array) -> jax.Array:
    """i32[B, P, S] (clipped to the table) -> f32[N, B, P, S]."""
    table_NR = self.param(
        'table',
        partitioning.param(_falling_bias, ('heads', 'positions')),
        (self.num_heads, self.max_recency),
    )
    index = jnp.clip(recency_BPS, 0, self.max_recency - 1)
    # A product, since the gradient of a gather is a slow scatter on CPU.
    one_hot = jax.nn.one_hot(index, self.max_recency, dtype=table_NR.dtype)
    return jnp.einsum(
        'NR,BPSR->NBPS',
        table_NR,
        one_hot,
        precision=jax.lax.Precision.HIGHEST,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig:
  """Where and how a decoder reads the user.

  Attributes:
    every: One `GatedCrossAttention` in every so many layers, before the last.
    num_heads: Attention heads N.
    num_kv_heads: KV heads K; divides `num_heads`.
    head_dim: Width H of a head.
    mlp_dim: Hidden size of the gated feed-forward; 0: without one.
    max_recency: Recencies that have a bias of their own; 0: no recency bias.
  """

  every: int = 4
  num_heads: int = 4
  num_kv_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 0
  max_recency: int = 64

  def __post_init__(self):
    for name in ('every', 'num_heads', 'num_kv_heads', 'head_dim'):
      value = getattr(self, name)
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'CrossAttentionConfig.{name} must be a positive integer, not '
            f'{value!r}.'
        )
    for name in ('mlp_dim', 'max_recency'):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 0:
        raise ValueError(
            f'CrossAttentionConfig.{name} must be an integer, 0 (none) or '
            f'more, not {value!r}.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f'CrossAttentionConfig.num_heads={self.num_heads} is not divisible '
          f'by num_kv_heads={self.num_kv_heads}.'
      )


class GatedCrossAttention(nn.Module):
  """`x + tanh(g) attend(x)`, then `x + tanh(g') mlp(x)` (arXiv 2204.14198).

  Both gates are zero at first: the decoder then is exactly what it was without
  a user; and so it stays for rows whose user has nothing to look at.

  Attributes:
    config: Sizes.
    features: The decoder's width D.
    epsilon: Of the norms.
  """

  config: CrossAttentionConfig
  features: int
  epsilon: float = 1e-6

  def setup(self) -> None:
    config = self.config
    self.norm = layers.RMSNorm(self.epsilon)
    self.proj = attention.Projections(
        config.num_heads, config.num_kv_heads, config.head_dim, self.features
    )
    self.gate = self.param(
        'gate', partitioning.param(nn.initializers.zeros, ()), ()
    )
    if config.max_recency:
      self.recency = RecencyBias(config.num_heads, config.max_recency)
    if config.mlp_dim:
      self.mlp_norm = layers.RMSNorm(self.epsilon)
      self.mlp = layers.MLP(config.mlp_dim)
      self.mlp_gate = self.param(
          'mlp_gate', partitioning.param(nn.initializers.zeros, ()), ()
      )

  def key_value(self, tokens_BSD: jax.Array) -> attention.KeyValue:
    """Keys and values of user tokens, float[B, S, K, H] each."""
    return self.proj.key_value(tokens_BSD)

  def __call__(
      self,
      x_RTD: jax.Array,
      kv: attention.KeyValue,
      mask_BPS: jax.Array,
      recency_BPS: jax.Array | None,
  ) -> jax.Array:
    """Float [R, T, D], rows of one user next to each other; R = B * P."""
    num_users = kv.key.shape[0]
    q_RTNH = self.proj.query(self.norm(x_RTD))
    q_BPTNH = q_RTNH.reshape(num_users, -1, *q_RTNH.shape[1:])
    bias = None
    if recency_BPS is not None and self.config.max_recency:
      bias = self.recency(recency_BPS)[:, :, :, None]
    part = Part(kv, mask_BPS[:, :, None], bias)
    y = attend_parts(q_BPTNH, [part]).reshape(q_RTNH.shape)
    x_RTD = x_RTD + jnp.tanh(self.gate).astype(x_RTD.dtype) * self.proj.out(y)
    if self.config.mlp_dim:
      gate = jnp.tanh(self.mlp_gate).astype(x_RTD.dtype)
      y_RTD = gate * self.mlp(self.mlp_norm(x_RTD))
      is_read_R = attention.of_rows(
          jnp.any(mask_BPS, axis=-1), x_RTD.shape[0]
      )
      x_RTD = x_RTD + jnp.where(is_read_R[:, None, None], y_RTD, 0)
    return x_RTD

"""Attention of many rows of text to the one history of their user.

Shapes: B users, P rows a user (targets or beams), R = B * P, T tokens of a row,
S user tokens, U own keys of a row, D width, N heads, K KV heads, G = N / K
query heads a KV head, H head width.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
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
  """Users as the decoder's cross-attentions read them, computed once a user.

  Attributes:
    key_value: Float [groups, B, S, K, H] each.
    mask: As `UserTokens`.
    recency: As `UserTokens`.
  """

  key_value: attention.KeyValue
  mask: jax.Array
  recency: jax.Array | None


def attend_shared(
    q_BPTNH: jax.Array,
    shared: attention.KeyValue,
    mask: jax.Array | None = None,
    bias_NBPS: jax.Array | None = None,
    own: attention.KeyValue | None = None,
    own_mask_TU: jax.Array | None = None,
    own_bias_N: jax.Array | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
  """Softmax attention in float32 to keys that all P rows of a user share.

  Nothing of size B * P * S * H is made: K/V are not repeated for the rows.

  Args:
    q_BPTNH: Queries.
    shared: Keys and values, float[B, S, K, H].
    mask: bool[B, P, S] or [B, P, T, S] (axes may be 1), True where a row, or a
      query, may look; None: everywhere.
    bias_NBPS: f32, added to the logits of the shared keys.
    own: Further keys and values of each row, float[B, P, U, K, H].
    own_mask_TU: bool, True where a query may look; None: everywhere.
    own_bias_N: f32, added to the logits of the own keys.
    scale: Of the logits; None: 1/sqrt(H).
    softcap: See `attention.capped`.

  Returns:
    Float [B, P, T, N, H]; zeros for a query that may look nowhere.
  """
  num_heads, head_dim = q_BPTNH.shape[-2:]
  num_kv_heads = shared.key.shape[-2]
  groups = (num_kv_heads, num_heads // num_kv_heads)
  scale = head_dim**-0.5 if scale is None else scale
  q = (q_BPTNH * scale).reshape(
      *q_BPTNH.shape[:3], *groups, head_dim
  )
  logits = jnp.einsum(
      'BPTKGH,BSKH->BKGPTS', q, shared.key, preferred_element_type=jnp.float32
  )
  logits = attention.capped(logits, softcap)
  if bias_NBPS is not None:
    bias = bias_NBPS.reshape(*groups, *bias_NBPS.shape[1:])
    logits += jnp.moveaxis(bias, 2, 0)[:, :, :, :, None]
  if mask is not None:
    mask_BPTS = mask if mask.ndim == 4 else mask[:, :, None]
    logits = jnp.where(mask_BPTS[:, None, None], logits, attention.MASKED)
  if own is not None:
    own_logits = jnp.einsum(
        'BPTKGH,BPUKH->BKGPTU', q, own.key, preferred_element_type=jnp.float32
    )
    own_logits = attention.capped(own_logits, softcap)
    if own_bias_N is not None:
      own_logits += own_bias_N.reshape(*groups, 1, 1, 1)
    if own_mask_TU is not None:
      own_logits = jnp.where(own_mask_TU, own_logits, attention.MASKED)
    logits = jnp.concatenate([logits, own_logits], axis=-1)
  probs = jax.nn.softmax(logits, axis=-1).astype(shared.value.dtype)
  shared_probs = probs[..., : shared.key.shape[1]]
  out = jnp.einsum('BKGPTS,BSKH->BPTKGH', shared_probs, shared.value)
  if own is not None:
    own_probs = probs[..., shared.key.shape[1] :]
    out += jnp.einsum('BKGPTU,BPUKH->BPTKGH', own_probs, own.value)
  elif mask is not None:
    anywhere_BPT = jnp.any(mask_BPTS, axis=-1)
    out = jnp.where(anywhere_BPT[..., None, None, None], out, 0)
  return out.reshape(q_BPTNH.shape)


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
    return jnp.einsum('NR,BPSR->NBPS', table_NR, one_hot)


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
  a user.

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
      bias = self.recency(recency_BPS)
    y = attend_shared(q_BPTNH, kv, mask_BPS, bias).reshape(q_RTNH.shape)
    x_RTD = x_RTD + jnp.tanh(self.gate).astype(x_RTD.dtype) * self.proj.out(y)
    if self.config.mlp_dim:
      gate = jnp.tanh(self.mlp_gate).astype(x_RTD.dtype)
      x_RTD = x_RTD + gate * self.mlp(self.mlp_norm(x_RTD))
    return x_RTD

"""Attention with grouped KV heads and rotary positions.

Shapes: B batch, T queries, S keys, D width, N heads, K KV heads, G = N / K
query heads a KV head, H head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import layers

# A finite minus infinity: a fully masked row gives a uniform, not a NaN.
MASKED = -1e30


class KeyValue(NamedTuple):
  """Keys and values, each float[B, S, K, H] (a cache: S is its capacity)."""

  key: jax.Array
  value: jax.Array


def rotary(
    x_BTNH: jax.Array, positions_BT: jax.Array, base: float
) -> jax.Array:
  """Rotary position embedding (arXiv 2104.09864), rotate-half layout."""
  half = x_BTNH.shape[-1] // 2
  freq_H = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  return rotate(x_BTNH, positions_BT, freq_H)


def rotate(
    x_BTNH: jax.Array, positions_BT: jax.Array, freq_H: jax.Array
) -> jax.Array:
  """`rotary` by given frequencies, f32[H / 2]."""
  angle = positions_BT[..., None, None].astype(jnp.float32) * freq_H
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  y = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
  return y.astype(x_BTNH.dtype)


def of_rows(x_BP: jax.Array, num_rows: int) -> jax.Array:
  """[B, P] of users' rows (P may be 1: all rows alike) as [R] of all rows."""
  num_users = x_BP.shape[0]
  return jnp.broadcast_to(x_BP, (num_users, num_rows // num_users)).reshape(-1)


def capped(logits: jax.Array, softcap: float) -> jax.Array:
  """Logits held between -softcap and softcap by a tanh; 0: as they are."""
  return softcap * jnp.tanh(logits / softcap) if softcap else logits


def attend(
    q_BTNH: jax.Array,
    kv: KeyValue,
    mask_BTS: jax.Array | None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
  """Softmax attention in float32.

  Args:
    q_BTNH: Queries.
    kv: Keys and values with K heads; K divides N.
    mask_BTS: bool, True where a query may look (axes may be 1); None: all.
    scale: Of the logits; None: 1/sqrt(H).
    softcap: See `capped`.

  Returns:
    Float [B, T, N, H]; zeros for a query that may look nowhere.
  """
  num_heads, head_dim = q_BTNH.shape[-2:]
  num_kv_heads = kv.key.shape[-2]
  scale = head_dim**-0.5 if scale is None else scale
  q = q_BTNH.reshape(
      *q_BTNH.shape[:-2], num_kv_heads, num_heads // num_kv_heads, head_dim
  )
  logits = jnp.einsum(
      'BTKGH,BSKH->BKGTS', q * scale, kv.key,
      preferred_element_type=jnp.float32,
  )
  logits = capped(logits, softcap)
  if mask_BTS is not None:
    logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
  probs = jax.nn.softmax(logits, axis=-1).astype(kv.value.dtype)
  out = jnp.einsum('BKGTS,BSKH->BTKGH', probs, kv.value).reshape(q_BTNH.shape)
  if mask_BTS is not None:
    anywhere_BT = jnp.any(mask_BTS, axis=-1)
    out = jnp.where(anywhere_BT[:, :, None, None], out, 0)
  return out


def segment_mask(segment_ids: jax.Array) -> jax.Array:
  """bool[B, T, T]: same segment; 0 is padding.

  Example: segment_ids [1, 1, 2] -> [[1, 1, 0], [1, 1, 0], [0, 0, 1]].
  """
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return same & (segment_ids[:, :, None] > 0)


def causal_mask(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
  """bool[B, T, T]: same segment (0 is padding) and not later.

  Example: segment_ids [1, 1, 2], positions [0, 1, 0] ->
  [[1, 0, 0], [1, 1, 0], [0, 0, 1]].
  """
  not_later = positions[:, :, None] >= positions[:, None, :]
  return segment_mask(segment_ids) & not_later


class Projections(nn.Module):
  """Query, key/value and output projections of one attention.

  Attributes:
    num_heads: N.
    num_kv_heads: K; divides N.
    head_dim: H.
    features: Width of the output.
    qkv_bias: Whether q, k and v have a bias.
    dense: Makes the projections.
  """

  num_heads: int
  num_kv_heads: int
  head_dim: int
  features: int
  qkv_bias: bool = False
  dense: Callable[..., layers.Dense] = layers.Dense

  def setup(self) -> None:
    kv_features = self.num_kv_heads * self.head_dim
    self.q = self.dense(
        self.num_heads * self.head_dim, ('embed', 'heads'), self.qkv_bias
    )
    self.k = self.dense(kv_features, ('embed', 'kv_heads'), self.qkv_bias)
    self.v = self.dense(kv_features, ('embed', 'kv_heads'), self.qkv_bias)
    self.o = self.dense(self.features, ('heads', 'embed'))

  def query(self, x_BTD: jax.Array) -> jax.Array:
    """Float [B, T, N, H]."""
    y = self.q(x_BTD).reshape(*x_BTD.shape[:-1], self.num_heads, self.head_dim)
    return partitioning.constrain(
        y, 'act_batch', 'act_length', 'act_heads', 'act_head'
    )

  def key_value(self, x_BSD: jax.Array) -> KeyValue:
    """Float [B, S, K, H], twice."""
    shape = (*x_BSD.shape[:-1], self.num_kv_heads, self.head_dim)
    names = ('act_batch', 'act_length', 'act_kv_heads', 'act_head')
    return KeyValue(
        partitioning.constrain(self.k(x_BSD).reshape(shape), *names),
        partitioning.constrain(self.v(x_BSD).reshape(shape), *names),
    )

  def out(self, x_BTNH: jax.Array) -> jax.Array:
    """Float [B, T, features]."""
    return self.o(x_BTNH.reshape(*x_BTNH.shape[:-2], -1))


class SelfAttention(nn.Module):
  """Self-attention of a whole sequence, with rotary positions."""

  num_heads: int
  head_dim: int
  rotary_base: float

  @nn.compact
  def __call__(
      self, x_BTD: jax.Array, positions_BT: jax.Array, mask_BTT: jax.Array
  ) -> jax.Array:
    """Float [B, T, D] and i32 positions to float [B, T, D]; see `attend`."""
    proj = Projections(
        self.num_heads, self.num_heads, self.head_dim, x_BTD.shape[-1],
        name='proj',
    )
    q_BTNH = proj.query(x_BTD)
    kv = proj.key_value(x_BTD)
    q_BTNH = rotary(q_BTNH, positions_BT, self.rotary_base)
    kv = kv._replace(key=rotary(kv.key, positions_BT, self.rotary_base))
    return proj.out(attend(q_BTNH, kv, mask_BTT))

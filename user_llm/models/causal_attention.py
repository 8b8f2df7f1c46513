"""Attention of text to what came before it, some of which a cache may hold.

Shapes: B users (prompts), P rows a user, R = B * P, T queries, S keys that the
rows of a user share, U keys of a row's own, N heads, K KV heads, H head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from user_llm.models import attention
from user_llm.models import cross_attention
from user_llm.models import kv_cache
from user_llm.models import positions as positions_lib


class LayerCache(NamedTuple):
  """The keys and values of one layer in a `kv_cache.Cache`."""

  shared: tuple[attention.KeyValue, ...] = ()
  added: attention.KeyValue | None = None

  def at(self, i: int) -> 'LayerCache':
    """Of the i-th, where there is a tuple of layers (or of groups of them)."""
    return LayerCache(
        tuple(part[i] for part in self.shared),
        None if self.added is None else self.added[i],
    )


def attend(
    q_RTNH: jax.Array,
    kv: attention.KeyValue,
    where: positions_lib.Positions,
    slots: kv_cache.Slots,
    cache: LayerCache,
    *,
    scale: float,
    softcap: float,
) -> tuple[jax.Array, attention.KeyValue]:
  """Rotates queries and keys and attends.

  Args:
    q_RTNH: Queries.
    kv: Keys and values of the same tokens, float[R, T, K, H].
    where: Rotary frequencies and window of this layer.
    slots: Of the tokens and of the cache.
    cache: Of what came before.
    scale: Of the logits.
    softcap: See `attention.capped`.

  Returns:
    Float [R, T, N, H], and keys and values, rotated: `kv`, or `cache.added`
    with `kv` written into it.
  """
  num_rows, num_queries = q_RTNH.shape[:2]
  order_T = jnp.arange(num_queries)
  if slots.length is not None:
    order_T += slots.length
  positions_RT = order_T[None]
  if slots.start is not None:
    positions_RT += attention.of_rows(slots.start, num_rows)[:, None]
  if slots.pads is not None:
    positions_RT -= slots.pads[:, None]
  turn = lambda x: attention.rotate(x, positions_RT, where.frequencies)
  q_RTNH, own = turn(q_RTNH), kv._replace(key=turn(kv.key))
  if cache.added is not None:
    own = attention.KeyValue(*(
        jax.lax.dynamic_update_slice_in_dim(old, new, slots.length, axis=1)
        for old, new in zip(cache.added, own)
    ))
  order_U = jnp.arange(own.key.shape[1])
  back_TU = order_T[:, None] - order_U
  # By user, or alike for all.
  own_mask = (back_TU >= 0)[None]
  if where.window is not None:
    own_mask &= back_TU < where.window
  if slots.pads is not None:
    own_mask &= order_U >= slots.pads[:, None, None]
  if not cache.shared:
    return attention.attend(q_RTNH, own, own_mask, scale, softcap), own
  num_users = cache.shared[0].key.shape[0]
  split = lambda y: y.reshape(num_users, -1, *y.shape[1:])
  parts = [
      cross_attention.Part(
          shared, _may_see(positions_RT, positions_BPS, where.window)
      )
      for shared, positions_BPS in zip(cache.shared, slots.shared)
  ]
  parts.append(
      cross_attention.Part(jax.tree.map(split, own), own_mask[:, None])
  )
  y = cross_attention.attend_parts(split(q_RTNH), parts, scale, softcap)
  return y.reshape(q_RTNH.shape), own


def _may_see(
    positions_RT: jax.Array, positions_BPS: jax.Array, window: jax.Array | None
) -> jax.Array:
  """bool[B, P, T, S] (axes may be 1), of keys that are before all queries."""
  mask = (positions_BPS >= 0)[:, :, None]
  if window is None:
    return mask
  num_users = positions_BPS.shape[0]
  positions_BPT = positions_RT.reshape(num_users, -1, positions_RT.shape[1])
  back_BPTS = positions_BPT[..., None] - positions_BPS[:, :, None]
  return mask & (back_BPTS < window)

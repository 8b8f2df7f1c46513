"""Attention of text to what came before it, some of which a cache may hold.

Shapes: B users (prompts), P rows a user, R = B * P, T queries, S keys of a
prompt, U keys that a cache has room for, N heads, K KV heads, H head width.
"""

import jax
import jax.numpy as jnp

from user_llm.models import attention
from user_llm.models import cross_attention
from user_llm.models import kv_cache
from user_llm.models import positions as positions_lib


def attend(
    q_RTNH: jax.Array,
    kv: attention.KeyValue,
    where: positions_lib.Positions,
    slots: kv_cache.Slots,
    cache: tuple[attention.KeyValue, attention.KeyValue] | None,
    *,
    scale: float,
    softcap: float,
) -> tuple[jax.Array, attention.KeyValue]:
  """Rotates queries and keys and attends.

  Args:
    q_RTNH: Queries.
    kv: Keys and values of the same tokens, float[R, T, K, H].
    where: Rotary frequencies and window of this layer.
    slots: Of the prompts and the cache.
    cache: Keys and values of the prompts and of what was added; None: `kv` is
      all there is.
    scale: Of the logits.
    softcap: See `attention.capped`.

  Returns:
    Float [R, T, N, H], and keys and values, rotated: `kv`, or with a cache what
    was added with `kv` written into it.
  """
  order_T = jnp.arange(q_RTNH.shape[1])
  if cache is not None:
    order_T += cache[0].key.shape[1] + slots.length
  positions_RT = order_T[None]
  if slots.pads is not None:
    rows = q_RTNH.shape[0] // slots.pads.shape[0]
    positions_RT -= jnp.repeat(slots.pads, rows)[:, None]
  turn = lambda x: attention.rotate(x, positions_RT, where.frequencies)
  q_RTNH, kv = turn(q_RTNH), kv._replace(key=turn(kv.key))
  if cache is None:
    mask = _visible(order_T, order_T, where.window)[None]
    if slots.pads is not None:
      mask &= (positions_RT >= 0)[:, None]
    return attention.attend(q_RTNH, kv, mask, scale, softcap), kv
  prompt, added = cache
  added = attention.KeyValue(*(
      jax.lax.dynamic_update_slice_in_dim(old, new, slots.length, axis=1)
      for old, new in zip(added, kv)
  ))
  num_users, num_prompt = prompt.key.shape[:2]
  order_S = jnp.arange(num_prompt)
  order_U = num_prompt + jnp.arange(added.key.shape[1])
  is_text_BS = order_S >= slots.pads[:, None]
  mask_BPTS = is_text_BS[:, None, None]
  if where.window is not None:
    mask_BPTS &= _visible(order_T, order_S, where.window)
  split = lambda y: y.reshape(num_users, -1, *y.shape[1:])
  y = cross_attention.attend_shared(
      split(q_RTNH),
      prompt,
      mask_BPTS,
      own=jax.tree.map(split, added),
      own_mask_TU=_visible(order_T, order_U, where.window),
      scale=scale,
      softcap=softcap,
  )
  return y.reshape(q_RTNH.shape), added


def _visible(
    query_T: jax.Array, key_S: jax.Array, window: jax.Array | None
) -> jax.Array:
  """bool[T, S]: not later, and within the window."""
  back_TS = query_T[:, None] - key_S
  return back_TS >= 0 if window is None else (back_TS >= 0) & (back_TS < window)

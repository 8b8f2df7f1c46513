"""What a decoder keeps of what it has read before its next tokens.

Shapes: B users (prompts), P rows a user, R = B * P, S tokens that the rows of a
user share, T tokens of a prompt, U tokens that a row may add, K KV heads, H
head width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Slots(NamedTuple):
  """Where the tokens of a call stand, and those before them.

  Attributes:
    shared: For each part of `Cache.shared`, i32[B, P, S], the positions of its
      tokens, -1 where a row may not look (P may be 1: all rows alike).
    start: i32[B, P] (P may be 1), the position of what a row's own tokens begin
      with; None: 0.
    pads: i32[B], padding before a row's own tokens, where a user has one row;
      None: none.
    length: i32[], slots of `Cache.added` that are filled; None: no slots.
  """

  shared: tuple[jax.Array, ...] = ()
  start: jax.Array | None = None
  pads: jax.Array | None = None
  length: jax.Array | None = None


class Cache(NamedTuple):
  """Keys and values of users and prompts, and of what rows add to them.

  Attributes:
    shared: Parts that the P rows of a user share, of float[B, S, K, H] leaves;
      those of stacked groups with a leading axis.
    added: Float [R, U, K, H] leaves, likewise; None: no room to add to.
    slots: Which of them hold tokens.
  """

  shared: tuple[Any, ...]
  added: Any
  slots: Slots


# Before a text that nothing stands before.
NOTHING = Cache((), None, Slots())


def pads(tokens_BT: jax.Array) -> jax.Array:
  """i32[B], the zeros at the beginning of each row of i32[B, T].

  Only those are padding: a vocabulary's 0 may be a token too.
  """
  return jnp.argmax(tokens_BT != 0, axis=1)


def prefix(key_value: Any, mask_BPS: jax.Array) -> Cache:
  """A cache of users' tokens, of which a row sees the first ones.

  Args:
    key_value: Float [B, S, K, H] leaves, those of scanned groups with a leading
      axis.
    mask_BPS: bool, True for the tokens that a row sees, none of which comes
      after one that it does not.
  """
  positions_BPS = jnp.where(mask_BPS, jnp.arange(mask_BPS.shape[-1]), -1)
  start_BP = jnp.sum(mask_BPS, axis=-1, dtype=jnp.int32)
  return Cache((key_value,), None, Slots((positions_BPS,), start_BP))


def with_room(before: Cache, prompt: Any, rows: int, capacity: int) -> Cache:
  """A cache in which `rows` rows a prompt can add `capacity` tokens each.

  Args:
    before: What the prompts came after; its `slots.pads` are the prompts'.
    prompt: Keys and values of the prompts, float[B, T, K, H] leaves.
    rows: P.
    capacity: U.
  """

  def room(kv: jax.Array) -> jax.Array:
    *leading, batch, _, heads, width = kv.shape
    shape = (*leading, batch * rows, capacity, heads, width)
    return jnp.zeros(shape, kv.dtype)

  slots = before.slots
  num_tokens = jax.tree.leaves(prompt)[0].shape[-3]
  order_BT = jnp.arange(num_tokens) - slots.pads[:, None]
  start_B1 = jnp.int32(0) if slots.start is None else slots.start
  positions_BT = jnp.where(order_BT >= 0, start_B1 + order_BT, -1)
  return Cache(
      (*before.shared, prompt),
      jax.tree.map(room, prompt),
      Slots(
          shared=(*slots.shared, positions_BT[:, None]),
          start=start_B1 + num_tokens - slots.pads[:, None],
          length=jnp.int32(0),
      ),
  )


def reorder(cache: Cache, parents_BP: jax.Array) -> Cache:
  """Row p of a user becomes what the user's row `parents_BP[:, p]` was."""

  def take(x: jax.Array) -> jax.Array:
    # By user, not by row of the batch: devices then keep their users' rows.
    *groups, _, room, heads, width = x.shape
    rows = x.reshape(*groups, *parents_BP.shape, room, heads, width)
    index = parents_BP.reshape(*(1 for _ in groups), *parents_BP.shape, 1, 1, 1)
    return jnp.take_along_axis(rows, index, axis=-4).reshape(x.shape)

  return cache._replace(added=jax.tree.map(take, cache.added))

"""What a decoder keeps of the text that it has read.

Shapes: B users (prompts), P rows a user, R = B * P, T tokens of a prompt, U
tokens that a row may add, K KV heads, H head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Slots(NamedTuple):
  """Which slots of the keys hold tokens.

  Attributes:
    pads: i32[B], padding before each prompt; None: none anywhere.
    length: i32[], slots of `Cache.added` that are filled; None: no cache.
  """

  pads: jax.Array | None = None
  length: jax.Array | None = None


class Cache(NamedTuple):
  """Keys and values of prompts, and of what rows add to them.

  Attributes:
    prompt: Float [B, T, K, H] leaves, shared by the P rows of a user; those of
      scanned groups with a leading axis.
    added: Float [R, U, K, H] leaves, likewise.
    slots: Which of them hold tokens.
  """

  prompt: tuple
  added: tuple
  slots: Slots


def pads(tokens_BT: jax.Array) -> jax.Array:
  """i32[B], the zeros at the beginning of each row of i32[B, T].

  Only those are padding: a vocabulary's 0 may be a token too.
  """
  return jnp.argmax(tokens_BT != 0, axis=1)


def with_room(
    prompt: tuple, pads_B: jax.Array, rows: int, capacity: int
) -> Cache:
  """A cache in which `rows` rows a prompt can add `capacity` tokens each."""

  def room(kv: jax.Array) -> jax.Array:
    *leading, batch, _, heads, width = kv.shape
    shape = (*leading, batch * rows, capacity, heads, width)
    return jnp.zeros(shape, kv.dtype)

  slots = Slots(pads_B, jnp.int32(0))
  return Cache(prompt, jax.tree.map(room, prompt), slots)


def reorder(cache: Cache, parents_BP: jax.Array) -> Cache:
  """Row p of a user becomes what the user's row `parents_BP[:, p]` was."""

  def take(x: jax.Array) -> jax.Array:
    # By user, not by row of the batch: devices then keep their users' rows.
    x_BPUKH = x.reshape(*parents_BP.shape, *x.shape[1:])
    index = parents_BP[:, :, None, None, None]
    return jnp.take_along_axis(x_BPUKH, index, axis=1).reshape(x.shape)

  groups, rest = cache.added
  groups = jax.tree.map(jax.vmap(take), groups)
  return cache._replace(added=(groups, jax.tree.map(take, rest)))

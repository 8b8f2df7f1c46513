"""The catalogue's answers as a trie of tokens, so that only they are decoded.

Shapes: A answers, E edges, M nodes, I items (padding included), B users, S seen
items.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Trie(NamedTuple):
  """Edges by node: those of node m are `offsets[m] : offsets[m + 1]`.

  Node 0 is the root. Answers are numbered in the trie's own order, so that
  those below a node are `first[m] : last[m]`.

  Attributes:
    offsets: i32[M + 1].
    edge_token: i32[E].
    edge_child: i32[E].
    first: i32[M].
    last: i32[M].
    answer: i32[M], the answer that ends in a node; -1 where none does.
  """

  offsets: np.ndarray
  edge_token: np.ndarray
  edge_child: np.ndarray
  first: np.ndarray
  last: np.ndarray
  answer: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
  """What may be answered.

  Attributes:
    trie: Of the answers' tokens.
    texts: The A answers.
    of_item: i32[I], the answer of each item; A for the padding id 0. Items of
      one text have one answer.
    num_items: i32[A], the items that have this answer.
    max_length: Tokens of the longest answer, eos included.
    root_fan_out: Edges of the root.
    max_fan_out: The most edges that another node has.
  """

  trie: Trie
  texts: tuple[str, ...]
  of_item: np.ndarray
  num_items: np.ndarray
  max_length: int
  root_fan_out: int
  max_fan_out: int

  def unseen(self, seen_item_BS: jax.Array) -> jax.Array:
    """bool[B, A]: is there an item of this answer that was not seen?

    Args:
      seen_item_BS: i32, distinct items of each user, 0-padded.
    """
    counts = jnp.zeros((seen_item_BS.shape[0], len(self.texts)), jnp.int32)
    answers_BS = jnp.asarray(self.of_item)[seen_item_BS]
    rows = jnp.arange(counts.shape[0])[:, None]
    counts = counts.at[rows, answers_BS].add(1, mode='drop')
    return counts < self.num_items


def make_answers(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], eos_id: int
) -> Answers:
  """Builds the trie.

  Args:
    texts: Of item (or label) 1, 2, ...
    tokens: Of each text, without eos.
    eos_id: Ends each answer; may not occur inside of one.

  Returns:
    The answers. Texts of the same tokens are one answer.

  Raises:
    ValueError: nothing to answer, or an empty text, or one with eos inside.

  Example: tokens [5], [5, 6], [5] with eos 1 give the answers (5, 1) for items
  1 and 3 and (5, 6, 1) for item 2; of_item = [2, 0, 1, 0]; the root has one
  edge, its child two.
  """
  if not texts or len(texts) != len(tokens):
    raise ValueError(f'{len(texts)} texts with {len(tokens)} token sequences.')
  for text, ids in zip(texts, tokens):
    if not len(ids) or eos_id in ids:
      raise ValueError(
          f'Answer {text!r} has the tokens {list(ids)}: none, or eos '
          f'({eos_id}) among them. Does the vocabulary fit the catalogue?'
      )
  keys = [(*map(int, ids), eos_id) for ids in tokens]
  ordered = sorted(set(keys))
  number = {key: i for i, key in enumerate(ordered)}
  of_item = np.array([len(ordered)] + [number[k] for k in keys], np.int32)
  text_of = dict(zip(reversed(keys), reversed(texts)))
  trie = _build(ordered)
  fan_out = np.diff(trie.offsets)
  return Answers(
      trie=trie,
      texts=tuple(text_of[key] for key in ordered),
      of_item=of_item,
      num_items=np.bincount(of_item[1:], minlength=len(ordered)),
      max_length=max(map(len, ordered)),
      root_fan_out=int(fan_out[0]),
      max_fan_out=int(max(fan_out[1:])),
  )


def _build(ordered: Sequence[tuple[int, ...]]) -> Trie:
  """Breadth first, so that the children of a node are next to each other."""
  offsets, edge_token, edge_child, answer = [0], [], [], [-1]
  first, last = [0], [len(ordered)]
  depth = [0]
  node = 0
  while node < len(first):
    start = first[node]
    while start < last[node] and answer[node] < 0:
      token = ordered[start][depth[node]]
      stop = start
      while stop < last[node] and ordered[stop][depth[node]] == token:
        stop += 1
      edge_token.append(token)
      edge_child.append(len(first))
      first.append(start)
      last.append(stop)
      depth.append(depth[node] + 1)
      answer.append(start if len(ordered[start]) == depth[-1] else -1)
      start = stop
    offsets.append(len(edge_token))
    node += 1
  return Trie(*(
      np.asarray(x, np.int32)
      for x in (offsets, edge_token, edge_child, first, last, answer)
  ))

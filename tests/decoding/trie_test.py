"""The trie: the docstring's example, and random answers walked by hand."""

import numpy as np
import pytest

from user_llm.decoding import trie


def _walk(answers, tokens):
  """The node that tokens lead to from the root, or None."""
  t, node = answers.trie, 0
  for token in tokens:
    edges = range(t.offsets[node], t.offsets[node + 1])
    children = [t.edge_child[e] for e in edges if t.edge_token[e] == token]
    node = children[0] if children else None
    if node is None:
      return None
  return node


def test_documented_example():
  answers = trie.make_answers(['A', 'AB', 'A'], [[5], [5, 6], [5]], eos_id=1)
  assert answers.texts == ('A', 'AB')
  assert answers.of_item.tolist() == [2, 0, 1, 0]
  assert answers.num_items.tolist() == [2, 1]
  assert answers.max_length == 3
  assert (answers.root_fan_out, answers.max_fan_out) == (1, 2)
  assert answers.trie.answer[_walk(answers, [5, 1])] == 0
  assert answers.trie.answer[_walk(answers, [5, 6, 1])] == 1
  assert answers.trie.answer[_walk(answers, [5, 6])] == -1
  assert _walk(answers, [6]) is None


def test_random_answers_are_found_and_counted():
  rng = np.random.default_rng(0)
  tokens = [rng.integers(2, 6, rng.integers(1, 5)).tolist() for _ in range(60)]
  texts = [' '.join(map(str, ids)) for ids in tokens]
  answers = trie.make_answers(texts, tokens, eos_id=1)
  assert len(answers.texts) == len(set(texts))
  for i, (text, ids) in enumerate(zip(texts, tokens)):
    answer = answers.of_item[i + 1]
    assert answers.texts[answer] == text
    for length in range(len(ids) + 2):
      node = _walk(answers, [*ids, 1][:length])
      below = range(answers.trie.first[node], answers.trie.last[node])
      prefix = ids[:length]
      expected = {
          t for t, other in zip(texts, tokens)
          if other[: len(prefix)] == prefix
          and (length <= len(ids) or other == ids)
      }
      assert {answers.texts[a] for a in below} == expected
    assert answers.trie.answer[node] == answer


def test_an_answer_is_unseen_while_one_of_its_items_is():
  answers = trie.make_answers(
      ['A', 'AB', 'A'], [[5], [5, 6], [5]], eos_id=1
  )
  seen = np.array([[1, 0, 0], [1, 3, 0], [2, 0, 0], [0, 0, 0]])
  assert np.asarray(answers.unseen(seen)).tolist() == [
      [True, True], [False, True], [True, False], [True, True]
  ]


@pytest.mark.parametrize('tokens', [[[]], [[1]], [[4, 1]]], ids=str)
def test_what_cannot_be_answered_is_named(tokens):
  with pytest.raises(ValueError, match='Alien'):
    trie.make_answers(['Alien'], tokens, eos_id=1)


def test_no_answers():
  with pytest.raises(ValueError, match='0 texts'):
    trie.make_answers([], [], eos_id=1)

"""Beam search against exhaustive scoring, with a table as language model."""

import jax
import jax.numpy as jnp
import numpy as np

from user_llm.decoding import beam_search
from user_llm.decoding import trie

_VOCAB = 9
_EOS = 1


def _answers(num=30, seed=0):
  rng = np.random.default_rng(seed)
  tokens = [rng.integers(2, _VOCAB, rng.integers(1, 5)) for _ in range(num)]
  texts = [''.join(map(str, ids)) for ids in tokens]
  return trie.make_answers(texts, tokens, _EOS)


def _tokens(text):
  return [*map(int, text), _EOS]


class _Bigrams:
  """Logits of a token given the last two, by user; the cache is the last."""

  def __init__(self, num_users, seed=0):
    rng = np.random.default_rng(seed)
    self.table = 2 * rng.normal(size=(num_users, _VOCAB, _VOCAB, _VOCAB))

  def score(self, user, text):
    previous, last, total = 0, 0, 0.0
    for token in _tokens(text):
      logits = self.table[user, previous, last]
      total += logits[token] - np.log(np.exp(logits).sum())
      previous, last = last, token
    return total

  def search(self, answers, allowed, beam_size):
    table = jnp.asarray(self.table, jnp.float32)
    users = jnp.repeat(jnp.arange(len(table)), beam_size)
    return jax.jit(
        lambda allowed: beam_search.beam_search(
            answers,
            allowed,
            table[:, 0, 0],
            jnp.zeros(users.shape, jnp.int32),
            lambda tokens, last: (table[users, last, tokens], tokens),
            lambda last, parents: jnp.take_along_axis(
                last.reshape(parents.shape), parents, axis=1
            ).reshape(-1),
            beam_size,
        )
    )(allowed)


def _exhaustive(model, answers, user, allowed):
  scores = np.array([model.score(user, text) for text in answers.texts])
  order = np.argsort(-np.where(allowed, scores, -np.inf))[: allowed.sum()]
  return order, scores[order]


def test_enough_beams_are_exhaustive():
  answers, model = _answers(), _Bigrams(3)
  num = len(answers.texts)
  allowed = np.ones((3, num), bool)
  allowed[1, ::2] = False
  allowed[2] = False
  found, scores = model.search(answers, allowed, num + 5)
  for user in range(3):
    want, want_scores = _exhaustive(model, answers, user, allowed[user])
    assert found[user, : len(want)].tolist() == want.tolist()
    np.testing.assert_allclose(
        scores[user, : len(want)], want_scores, atol=1e-5
    )
    assert np.all(found[user, len(want) :] == -1)
    assert np.all(scores[user, len(want) :] == beam_search.NO_SCORE)


def test_few_beams_find_a_part_with_the_same_scores():
  answers, model = _answers(), _Bigrams(3)
  allowed = np.ones((3, len(answers.texts)), bool)
  found, scores = model.search(answers, allowed, 4)
  for user in range(3):
    assert len(set(found[user].tolist())) == 4
    assert np.all(np.diff(scores[user]) <= 0)
    for answer, score in zip(found[user], scores[user]):
      want = model.score(user, answers.texts[answer])
      np.testing.assert_allclose(score, want, atol=1e-5)


def test_what_is_not_allowed_takes_no_beam():
  """One beam follows the allowed answer, however unlikely its first token."""
  answers, model = _answers(), _Bigrams(1)
  worst = int(np.argmin([model.score(0, text) for text in answers.texts]))
  allowed = np.arange(len(answers.texts))[None] == worst
  found, scores = model.search(answers, allowed, 1)
  assert found.tolist() == [[worst]]
  want = model.score(0, answers.texts[worst])
  np.testing.assert_allclose(scores, [[want]], atol=1e-5)

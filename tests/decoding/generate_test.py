"""Generation against numpy, with a table as language model."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm.decoding import generate

_VOCAB, _EOS = 6, 1


class _Trigrams:
  """Logits of a token given the last two, by user; the cache is the last."""

  def __init__(self, num_users=3, seed=0):
    rng = np.random.default_rng(seed)
    self.table = 2 * rng.normal(size=(num_users, _VOCAB, _VOCAB, _VOCAB))

  def score(self, user, tokens):
    total = 0.0
    for previous, last, token in zip([0, 0, *tokens], [0, *tokens], tokens):
      logits = self.table[user, previous, last]
      total += logits[token] - np.log(np.exp(logits).sum())
    return total

  def generate(self, ids=None, num_texts=1, **fields):
    """Texts for the users `ids` (and examples of that number)."""
    config = generate.GenerationConfig(**fields)
    ids = jnp.arange(len(self.table)) if ids is None else jnp.array(ids)
    table = jnp.asarray(self.table, jnp.float32)
    rows = config.rows(num_texts)
    users = jnp.repeat(ids, rows)
    return jax.jit(
        lambda: generate.generate(
            config,
            table[ids, 0, 0],
            jnp.zeros(len(users), jnp.int32),
            lambda tokens, last: (table[users, last, tokens], tokens),
            lambda last, parents: jnp.take_along_axis(
                last.reshape(parents.shape), parents, axis=1
            ).reshape(-1),
            eos_id=_EOS,
            example_id_B=ids,
            num_texts=num_texts,
        )
    )()


def _real(tokens):
  """Without the padding behind the end, which must be all zeros."""
  tokens = np.asarray(tokens).tolist()
  length = tokens.index(_EOS) + 1 if _EOS in tokens else len(tokens)
  assert not any(tokens[length:])
  return tokens[:length]


def test_greedy_takes_the_likeliest_until_eos():
  model = _Trigrams(40)
  found = model.generate(max_tokens=5)
  ended = 0
  for user in range(40):
    want = [0, 0]
    while len(want) < 7 and want[-1] != _EOS:
      logits = model.table[user, want[-2], want[-1], 1:]
      want.append(1 + int(logits.argmax()))
    got = _real(found.tokens[user, 0])
    assert got == want[2:]
    ended += got[-1] == _EOS
    np.testing.assert_allclose(
        found.score[user, 0], model.score(user, got), rtol=1e-5
    )
  assert 0 < ended < 40  # Some are cut.


def test_one_token():
  model = _Trigrams()
  for fields in ({}, {'text_beams': 2}):
    found = model.generate(max_tokens=1, **fields)
    want = 1 + model.table[:, 0, 0, 1:].argmax(axis=1)
    assert found.tokens[:, 0, 0].tolist() == want.tolist()


def _numpy_candidates(logits, top_k, top_p):
  """Which tokens are drawn from, one at a time."""
  order = np.argsort(-logits)[: top_k or None]
  probs = np.exp(logits[order] - logits.max())
  probs /= probs.sum()
  kept, total = [], 0.0
  for token, prob in zip(order, probs):
    if total < top_p:
      kept.append(int(token))
    total += prob
  return set(kept)


@pytest.mark.parametrize('top_k', [0, 1, 3, 7, 30])
@pytest.mark.parametrize('top_p', [1.0, 0.95, 0.6, 0.01])
def test_candidates(top_k, top_p):
  logits = np.random.default_rng(0).normal(size=(9, 20)).astype('f')
  got = np.asarray(generate.candidates(jnp.asarray(logits), top_k, top_p))
  for row, want in zip(got, logits):
    kept = set(np.flatnonzero(row > -1e29).tolist())
    assert kept == _numpy_candidates(want, top_k, top_p)
    np.testing.assert_array_equal(row[list(kept)], want[list(kept)])


@pytest.mark.parametrize(
    ['top_k', 'top_p', 'kept'],
    [(3, 1.0, 3), (0, 0.7, 2), (2, 0.7, 2), (2, 0.6, 1), (0, 1.0, 4)],
)
def test_documented_candidates(top_k, top_p, kept):
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1]]))
  found = generate.candidates(logits, top_k, top_p)[0] > -1e29
  assert found.tolist() == [True] * kept + [False] * (4 - kept)


def _chi_square(counts, probs):
  expected = counts.sum() * probs
  return ((counts - expected)[probs > 0] ** 2 / expected[probs > 0]).sum()


@pytest.mark.parametrize(
    'fields',
    [
        dict(temperature=1.0), dict(temperature=0.5),
        dict(temperature=2.0, top_k=3), dict(temperature=1.5, top_p=0.7),
    ],
    ids=str,
)
def test_tokens_are_drawn_by_their_softmax(fields):
  """First tokens, and second ones given the first, of 4000 texts."""
  model = _Trigrams(1, seed=4)
  found = model.generate(num_texts=4000, max_tokens=2, **fields)
  tokens = np.asarray(found.tokens[0])
  first = np.bincount(tokens[:, 0], minlength=_VOCAB)
  common = first[2:].argmax() + 2  # Not eos.
  second = np.bincount(
      tokens[tokens[:, 0] == common, 1], minlength=_VOCAB
  )
  for counts, last in ((first, 0), (second, common)):
    logits = model.table[0, 0, last] / fields['temperature']
    logits[0] = -1e30  # Padding is no token.
    kept = _numpy_candidates(
        logits, fields.get('top_k', 0), fields.get('top_p', 1.0)
    )
    probs = np.where(np.isin(np.arange(_VOCAB), list(kept)), np.exp(logits), 0)
    probs /= probs.sum()
    assert not counts[probs == 0].any()
    # 0.999 quantile of chi-square with 5 degrees of freedom.
    assert _chi_square(counts, probs) < 20.5
  for text, score in zip(found.tokens[0, :20], found.score[0]):
    np.testing.assert_allclose(
        score, model.score(0, _real(text)), rtol=1e-4, atol=1e-5
    )


def test_what_is_drawn_depends_on_seed_example_and_text_alone():
  model = _Trigrams(4)
  fields = dict(temperature=1.0, max_tokens=8)
  many = np.asarray(model.generate(num_texts=5, **fields).tokens)
  for user in range(4):
    alone = model.generate(ids=[user], num_texts=3, **fields).tokens
    np.testing.assert_array_equal(alone[0], many[user, :3])
  other = np.asarray(model.generate(num_texts=5, seed=1, **fields).tokens)
  assert np.any(other != many)
  assert len({tuple(text) for text in many[0].tolist()}) > 1


def _all_texts(max_tokens):
  """Every text that ends with eos, or is cut."""
  inner = range(2, _VOCAB)
  for length in range(max_tokens):
    for tokens in itertools.product(inner, repeat=length):
      yield [*tokens, _EOS]
  for tokens in itertools.product(inner, repeat=max_tokens):
    yield list(tokens)


@pytest.mark.parametrize('length_penalty', [0.0, 0.8])
def test_enough_beams_are_exhaustive(length_penalty):
  model = _Trigrams()
  texts = list(_all_texts(3))
  found = model.generate(
      text_beams=len(texts) + 4, num_texts=len(texts) + 4, max_tokens=3,
      length_penalty=length_penalty,
  )
  for user in range(3):
    scores = np.array([model.score(user, text) for text in texts])
    ranked = scores / np.array([len(t) for t in texts]) ** length_penalty
    order = np.argsort(-ranked)
    got = [_real(text) for text in found.tokens[user, : len(texts)]]
    assert got == [texts[i] for i in order]
    np.testing.assert_allclose(
        found.score[user, : len(texts)], scores[order], rtol=1e-4
    )
    assert np.all(found.score[user, len(texts) :] == -1e30)


def test_few_beams_are_at_least_as_good_as_greedy():
  model = _Trigrams(30, seed=2)
  greedy = model.generate(max_tokens=6)
  beams = model.generate(max_tokens=6, text_beams=4, num_texts=4)
  assert np.all(beams.score[:, 0] >= greedy.score[:, 0] - 1e-5)
  assert np.any(beams.score[:, 0] > greedy.score[:, 0] + 1e-3)
  for user in range(30):
    texts = [_real(text) for text in beams.tokens[user]]
    assert len(set(map(tuple, texts))) == 4
    for text, score in zip(texts, beams.score[user]):
      np.testing.assert_allclose(score, model.score(user, text), rtol=1e-4)
  best = model.generate(max_tokens=6, text_beams=4).tokens
  np.testing.assert_array_equal(best[:, 0], beams.tokens[:, 0])


def test_rows_a_user():
  config = generate.GenerationConfig()
  assert config.rows(5) == 1
  assert dataclasses.replace(config, temperature=0.5).rows(5) == 5
  assert dataclasses.replace(config, text_beams=3).rows(5) == 3


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        (dict(max_tokens=0), 'MAX_TOKENS must be an integer of at least 1'),
        (dict(max_tokens=8.0), 'MAX_TOKENS'),
        (dict(temperature=-1.0), 'TEMPERATURE must be a number in'),
        (dict(temperature='1e-3'), "TEMPERATURE .* not '1e-3'"),
        (dict(temperature=float('nan')), 'TEMPERATURE'),
        (dict(temperature=1.0, top_k=-1), 'TOP_K'),
        (dict(temperature=1.0, top_p=0.0), 'TOP_P'),
        (dict(temperature=1.0, top_p=1.5), 'TOP_P'),
        (dict(top_k=5), 'give a TEMPERATURE'),
        (dict(top_p=0.9), 'give a TEMPERATURE'),
        (dict(text_beams=0), 'TEXT_BEAMS'),
        (dict(text_beams=4, temperature=1.0), 'TEXT_BEAMS=1 or TEMPERATURE=0'),
        (dict(length_penalty=-0.5), 'LENGTH_PENALTY'),
        (dict(seed=-1), 'SEED'),
    ],
    ids=str,
)
def test_bad_settings_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    generate.GenerationConfig(**fields)

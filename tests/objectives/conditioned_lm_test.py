"""The objective: worked losses, prefixes of a history, exact generation."""

import functools

import jax
import numpy as np
import pytest

from user_llm import partitioning
from user_llm.data import schema
from user_llm.decoding import generate
from user_llm.decoding import trie
from user_llm.models import cross_attention
from user_llm.models import decoder_config
from user_llm.models import readers
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm

_VOCAB, _EVENTS, _BOS, _EOS = 20, 6, 1, 2
_QUESTION = [3, 4, 5]
_SCHEMA = schema.EventSchema(
    name='tiny',
    modalities=(
        schema.Modality(name='item', size=12),
        schema.Modality(name='genre', size=4),
    ),
)


_CROSS = readers.CrossAttentionReaderConfig()
_SOFT = readers.SoftPromptConfig(num_task_tokens=2)
_READERS = pytest.mark.parametrize(
    'reader', [_CROSS, _SOFT], ids=['cross', 'soft']
)


def _objective(has_user=True, resample=False, reader=_CROSS):
  encoder = user_encoder.UserEncoderConfig(
      schema=_SCHEMA, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8,
  )
  perceiver = resampler.ResamplerConfig(
      num_layers=1, num_latents=3, embed_dim=8, num_heads=2, mlp_dim=8
  )
  return conditioned_lm.ConditionedLM(
      model=user_llm.UserLLMConfig(
          decoder=decoder_config.DecoderConfig(
              vocab_size=_VOCAB, num_layers=2, embed_dim=16, num_heads=2,
              num_kv_heads=1, head_dim=8, mlp_dim=16,
              cross_attention=cross_attention.CrossAttentionConfig(
                  every=1, num_heads=2, num_kv_heads=2, head_dim=8
              ),
          ),
          user_encoder=encoder if has_user else user_llm.NoUserConfig(),
          resampler=(
              perceiver if resample else resampler.NoResamplerConfig()
          ),
          reader=reader,
      )
  )


def _text(answers, width, questions=None):
  """input_tokens, target_tokens and loss_weights, [len(answers), width]."""
  rows = []
  for answer, question in zip(answers, questions or [_QUESTION] * len(answers)):
    sequence = [*question, *answer, _EOS]
    weights = [0] * len(question) + [1] * (len(answer) + 1)
    pad = [0] * (width - len(sequence))
    rows.append(
        ([_BOS, *sequence[:-1], *pad], [*sequence, *pad], [*weights, *pad])
    )
  inputs, targets, weights = map(np.array, zip(*rows))
  return inputs, targets, weights.astype(np.float32)


def _batch(num_users=2, num_targets=3, width=9, seed=0):
  rng = np.random.default_rng(seed)
  answers = [
      rng.integers(6, _VOCAB, rng.integers(1, 5))
      for _ in range(num_users * num_targets)
  ]
  shape = (num_users, num_targets, width)
  text = [x.reshape(shape) for x in _text(answers, width)]
  events = (num_users, _EVENTS)
  return {
      'user_item': rng.integers(1, 12, events),
      'user_genre': rng.integers(1, 4, events),
      'user_mask': np.ones(events, bool),
      'positions': np.tile(np.arange(_EVENTS), (num_users, 1)),
      'segment_ids': np.ones(events, int),
      'history_end': rng.integers(1, _EVENTS + 1, shape[:2]),
      **dict(zip(('input_tokens', 'target_tokens', 'loss_weights'), text)),
  }


def _opened(objective, batch, seed=3):
  """Random parameters: gates open, biases not zero; no compiled init."""
  boxed = jax.eval_shape(objective.init, jax.random.key(0), batch)
  leaves, tree = jax.tree.flatten(partitioning.unbox(boxed))
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(
      tree, [0.3 * rng.normal(size=x.shape).astype('f') for x in leaves]
  )


@functools.cache
def _predict(objective):
  return jax.jit(objective.predict)


def _nats(objective, params, batch):
  return np.asarray(_predict(objective)(params, batch)['answer_nats'])


@functools.cache
def _forward(objective):
  """Jitted (params, batch) -> logits f32[B, P, T, V], by the decoder's head."""

  def run(module, batch):
    x_BPTD = module(batch)
    logits = module.decoder.logits(x_BPTD.reshape(-1, *x_BPTD.shape[2:]))
    return logits.reshape(*x_BPTD.shape[:3], -1)

  return jax.jit(
      lambda params, batch: objective.module.apply(
          {'params': params}, batch, method=run
      )
  )


def test_loss_equals_numpy_from_the_logits():
  objective, batch = _objective(), _batch()
  params = _opened(objective, batch)
  logits = np.asarray(_forward(objective)(params, batch), np.float64)
  logits = logits[..., :_VOCAB]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  total = weight = correct = 0
  for index in np.argwhere(batch['loss_weights'] > 0):
    target = batch['target_tokens'][tuple(index)]
    total -= logp[tuple(index)][target]
    weight += 1
    correct += int(np.argmax(logp[tuple(index)]) == target)
  loss = jax.jit(lambda p, b: objective.loss(p, b, None))(params, batch)
  np.testing.assert_allclose(loss.total, total, rtol=1e-5)
  assert loss.weight == weight
  assert loss.metrics['accuracy'] == (correct, weight)
  np.testing.assert_allclose(
      loss.metrics['answer_nats'], (total, 6), rtol=1e-5
  )


@_READERS
@pytest.mark.parametrize('resample', [False, True])
def test_one_pass_serves_every_prefix(resample, reader):
  """A target of many equals the one target of a row with only its prefix."""
  objective, batch = _objective(resample=resample, reader=reader), _batch()
  params = _opened(objective, batch)
  nats = _nats(objective, params, batch)
  for target in range(3):
    seen = np.arange(_EVENTS) < batch['history_end'][:, target, None]
    one = {
        name: x[:, target : target + 1] if x.ndim == 3 else x * seen
        for name, x in batch.items()
        if name != 'history_end'
    }
    one['history_end'] = batch['history_end'][:, target : target + 1]
    np.testing.assert_allclose(
        _nats(objective, params, one)[:, 0], nats[:, target], rtol=1e-4
    )


def test_a_soft_prompt_teaches_the_encoder_on_any_mesh():
  """All that is new and the encoder get a gradient; 8 devices give the same."""
  objective, batch = _objective(reader=_SOFT), _batch(num_users=8)
  params = _opened(objective, batch)
  loss = lambda p, b: objective.loss(p, b, None).total
  grads = jax.jit(jax.grad(loss))(params, batch)
  for name in ('soft_prompt', 'projection', 'user_encoder', 'decoder'):
    parts = grads[name]
    if name == 'user_encoder':
      parts = {k: v for k, v in parts.items() if not k.startswith('heads')}
    for leaf in jax.tree.leaves(parts):
      assert np.abs(leaf).max() > 0
  mesh = partitioning.MeshConfig(replica=2, data=4).make()
  boxed = jax.eval_shape(objective.init, jax.random.key(0), batch)
  with jax.set_mesh(mesh):
    spread = jax.jit(loss)(
        jax.device_put(params, partitioning.param_shardings(boxed, mesh)),
        jax.device_put(batch, partitioning.batch_sharding(mesh)),
    )
  np.testing.assert_allclose(spread, loss(params, batch), rtol=1e-5)


def test_the_user_matters_and_the_bare_language_model_has_none():
  objective, batch = _objective(), _batch()
  params = _opened(objective, batch)
  other = {**batch, 'user_item': batch['user_item'] % 11 + 1}
  difference = _nats(objective, params, batch) - _nats(objective, params, other)
  assert np.abs(difference).min() > 1e-4
  bare = _objective(has_user=False)
  assert not [k for k in bare.batch_keys if k.startswith('user_')]
  text = {k: batch[k] for k in bare.batch_keys}
  fresh, full = _opened(bare, text), _opened(objective, batch, seed=4)
  assert set(fresh) == {'decoder'}
  merged = {**full, 'decoder': {**full['decoder'], **fresh['decoder']}}
  cross = full['decoder']['groups']['cross_attention']
  cross = {**cross, 'gate': np.zeros_like(cross['gate'])}
  merged['decoder']['groups'] = {
      **fresh['decoder']['groups'], 'cross_attention': cross
  }
  np.testing.assert_array_equal(
      _nats(objective, merged, batch), _nats(bare, fresh, text)
  )


_RAGGED_QUESTIONS = [_QUESTION, _QUESTION[:1]]


def _ragged_batch():
  """Two users with a question each, of 3 tokens and of 1."""
  batch = _batch(num_targets=1)
  batch['prompt_tokens'] = np.array([
      [[0] * (3 - len(question)) + [_BOS, *question]]
      for question in _RAGGED_QUESTIONS
  ])
  return batch


@_READERS
@pytest.mark.parametrize(
    ['resample', 'unstacked'], [(False, False), (True, False), (False, True)]
)
def test_generated_answers_equal_exhaustive_scoring(
    resample, unstacked, reader
):
  objective = _objective(resample=resample, reader=reader)
  rng = np.random.default_rng(1)
  items = [rng.integers(6, 10, rng.integers(1, 4)).tolist() for _ in range(11)]
  answers = trie.make_answers([str(i) for i in items], items, _EOS)
  num = len(answers.texts)
  batch = _ragged_batch()
  batch['seen_item'] = np.array([[1, 5, 7, 0], [2, 0, 0, 0]])
  params = _opened(objective, batch)
  form = objective.unstacked(params) if unstacked else (objective, params)
  found = jax.jit(
      lambda p, b: conditioned_lm.beam_search_answers(
          form[0], p, b, answers, num
      )
  )(form[1], batch)
  scores = np.zeros((2, num))
  for item, tokens in enumerate(items, 1):
    text = _text([tokens, tokens], 8, _RAGGED_QUESTIONS)
    names = ('input_tokens', 'target_tokens', 'loss_weights')
    one = {**batch, **{k: x[:, None] for k, x in zip(names, text)}}
    scores[:, answers.of_item[item]] = -_nats(objective, params, one)[:, 0]
  order = np.argsort(-scores, axis=1)
  np.testing.assert_array_equal(found['answers'], order)
  np.testing.assert_allclose(
      found['scores'], np.take_along_axis(scores, order, 1), atol=1e-5
  )
  unseen = np.asarray(answers.unseen(batch['seen_item']))
  for user in range(2):
    want = [a for a in order[user] if unseen[user, a]]
    got = found['unseen_answers'][user]
    assert got[: len(want)].tolist() == want
    assert np.all(got[len(want) :] == -1)


def _generated(objective, params, batch, num_texts=1, **fields):
  config = generate.GenerationConfig(**fields)
  return jax.jit(
      lambda p, b: conditioned_lm.generate_texts(
          objective, p, b, config, eos_id=_EOS, num_texts=num_texts
      )
  )(params, batch)


def test_greedy_text_equals_a_new_forward_pass_for_each_token():
  """Without a cache, and each user's prompt without padding."""
  objective, batch = _objective(), _ragged_batch()
  batch['example_id'] = np.arange(2)
  params = _opened(objective, batch, seed=50)
  found = _generated(objective, params, batch, max_tokens=7)
  forward = _forward(objective)
  lengths = []
  for user, question in enumerate(_RAGGED_QUESTIONS):
    one = {k: x[user : user + 1] for k, x in batch.items()}
    text, total = [_BOS, *question], 0.0
    for _ in range(7):
      # Causal: the padding behind changes nothing.
      tokens = [*text, *[0] * (11 - len(text))]
      one['input_tokens'] = np.array([[tokens]])
      logits = forward(params, one)[0, 0, len(text) - 1, :_VOCAB]
      logits = np.asarray(logits, np.float64)
      text.append(1 + int(logits[1:].argmax()))
      total += logits[text[-1]] - np.log(np.exp(logits).sum())
      if text[-1] == _EOS:
        break
    text = text[1 + len(question) :]
    got = found.tokens[user, 0].tolist()
    assert got == text + [0] * (7 - len(text))
    np.testing.assert_allclose(found.score[user, 0], total, rtol=1e-4)
    lengths.append(len(text))
  assert len(set(lengths)) == 2  # One ended, one was cut.


@pytest.mark.parametrize(
    'fields', [{}, dict(temperature=1.0, top_k=8), dict(text_beams=3)], ids=str
)
def test_text_is_the_same_at_any_batch_size(fields):
  objective, batch = _objective(), _batch(num_users=6, num_targets=1)
  rng = np.random.default_rng(5)
  prompts = rng.integers(3, _VOCAB, (6, 1, 5))
  prompts[np.arange(5) < rng.integers(0, 5, (6, 1, 1))] = 0
  batch |= {'prompt_tokens': prompts, 'example_id': np.arange(6)}
  params = _opened(objective, batch)
  run = lambda rows: _generated(
      objective, params, {k: x[rows] for k, x in batch.items()},
      num_texts=3, max_tokens=6, **fields,
  )
  together = run(slice(0, 6))
  assert together.tokens.shape == (6, 3 if fields else 1, 6)
  for rows in (slice(0, 2), slice(5, 6)):
    part = run(rows)
    np.testing.assert_array_equal(part.tokens, together.tokens[rows])
    np.testing.assert_allclose(part.score, together.score[rows], rtol=1e-4)


def test_generation_needs_one_target_a_row():
  objective, batch = _objective(), _batch()
  batch['prompt_tokens'] = batch['input_tokens'][..., :4]
  answers = trie.make_answers(['x'], [[7]], _EOS)
  params = _opened(objective, batch)
  with pytest.raises(ValueError, match='TARGETS_PER_EXAMPLE'):
    conditioned_lm.beam_search_answers(objective, params, batch, answers, 2)

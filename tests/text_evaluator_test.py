"""Free texts: whole characters, worked ROUGE, and an evaluation by hand."""

import collections
import dataclasses
import types

import jax
import numpy as np
import pytest
import seqio
import small_user_llm
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers

from user_llm import evaluator as evaluator_lib
from user_llm import metrics
from user_llm import partitioning
from user_llm import text_evaluator
from user_llm.data import vocabulary
from user_llm.objectives import conditioned_lm


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  return small_user_llm.write_workdir(
      tmp_path_factory.mktemp('reviews') / 'run',
      small_user_llm.REVIEWS,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )


@pytest.fixture(name='bytes_vocabulary', scope='module')
def _bytes_vocabulary(tmp_path_factory):
  """Spells what is not ASCII in bytes, a token each."""
  path = tmp_path_factory.mktemp('bytes') / 'bytes.model'
  lines = ['works well', 'a well known work'] * 20
  path.write_bytes(vocabulary.train(lines, size=400, texts=lines))
  return vocabulary.load(str(path))


@pytest.fixture(name='byte_level_vocabulary', scope='module')
def _byte_level_vocabulary(tmp_path_factory):
  """As SmolLM2, Llama 3 and Qwen have it: all tokens are of bytes."""
  folder = tmp_path_factory.mktemp('byte_level')
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  bpe = tokenizers.Tokenizer(
      models.BPE({c: i for i, c in enumerate(['</s>', *alphabet])}, [])
  )
  bpe.add_special_tokens(['</s>'])
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  bpe.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text('{"eos_token": "</s>"}')
  return vocabulary.load(str(folder))


@pytest.mark.parametrize('kind', ['bytes', 'byte_level'])
def test_characters_of_several_tokens_stay_whole(kind, request):
  spelling = request.getfixturevalue(f'{kind}_vocabulary')
  text = 'works: café 日本 🎬 well'
  ids = spelling.encode(text)
  assert len(ids) > len(text.encode()) // 2
  ended = np.array([*ids, spelling.eos_id, 0, 0])
  assert text_evaluator.to_text(spelling, ended) == text
  found = [
      text_evaluator.to_text(spelling, np.array(ids[:n]))
      for n in range(len(ids) + 1)
  ]
  for shorter, longer in zip(found, found[1:]):
    assert text.startswith(longer) and longer.startswith(shorter)
  assert found[0] == '' and found[-1] == text


def test_worked_metrics():
  found = metrics.estimates(text_evaluator.text_values(
      ['the cats sat', 'Awful!', ''], ['the cat sat down', ' Awful!', 'x']
  ))
  for name, values in {
      'rouge1': [6 / 7, 1, 0], 'rouge2': [4 / 5, 0, 0],
      'rougeL': [6 / 7, 1, 0], 'exact_match': [0, 1, 0],
  }.items():
    assert found[name].mean == pytest.approx(np.mean(values))
    stderr = np.std(values, ddof=1) / np.sqrt(3)
    assert found[name].stderr == pytest.approx(stderr)


def _by_hand(parts, params, evaluator):
  """Of all test users: texts, and their log p."""
  dataset = evaluator.dataset
  (batch,) = dataset.eval_batches(
      split='test', batch_size=dataset.num_examples('test')
  )
  found = jax.jit(
      lambda p, b: conditioned_lm.generate_texts(
          parts['objective'], p, b, evaluator.generation, eos_id=1
      )
  )(params, batch)
  texts = [
      text_evaluator.to_text(dataset.tokenizer, tokens)
      for tokens in np.asarray(found.tokens[:, 0])
  ]
  return texts, np.asarray(found.score[:, 0])


def test_an_evaluation_by_hand(model):
  parts, params = model
  evaluator = parts['test_evaluators'][1]
  dataset, log = evaluator.dataset, evaluator.dataset.log
  texts, scores = _by_hand(parts, params, evaluator)
  last = log.offsets[1:][log.lengths >= 3] - 1
  truths = [text.decode() for text in log.texts('review')[last] if text]
  titles = [
      dataset.catalogue[item - 1].title
      for item, text in zip(log.values['item'][last], log.texts('review')[last])
      if text
  ]
  trained = collections.Counter(
      text
      for start, stop in zip(log.offsets, log.offsets[1:])
      for text in log.texts('review')[start + 1 : stop - 2] if text
  )
  found = dataclasses.replace(evaluator, batch_size=5).evaluate(
      parts['objective'], params, partitioning.MeshConfig().make()
  )
  assert found.num_examples == len(truths) == len(texts)
  ((frequent, _),) = trained.most_common(1)
  want = {
      'user_llm': texts,
      'most_frequent_answer': [frequent.decode()] * len(truths),
      'copy_title': titles,
  }
  assert set(found.models) == set(want)
  for row, each in want.items():
    values = text_evaluator.text_values(each, truths)
    for name, value in metrics.estimates(values).items():
      assert found.models[row][name] == pytest.approx(value), (row, name)
      kept = found.per_example.values[row][name]
      np.testing.assert_array_equal(kept, values[name])
  assert 'max_tokens 12, temperature 0.0' in found.protocol
  assert len(found.examples) == 8
  for i, example in enumerate(found.examples):
    assert example['truth'] == truths[i]
    (answer,) = example['answers']
    assert answer['text'] == texts[i]
    assert answer['score'] == pytest.approx(float(scores[i]), abs=1e-3)
    assert titles[i] in example['question']
    assert example['user'] == dataset.user_of_example('test', i)
  brief = evaluator.evaluate(
      parts['objective'], params, partitioning.MeshConfig().make(), full=False
  )
  assert set(brief.models) == {'user_llm'} and not brief.examples
  assert brief.models['user_llm']['rougeL'] == pytest.approx(
      found.models['user_llm']['rougeL']
  )


def test_another_task(model):
  dataset = model[0]['test_evaluators'][0].dataset
  with pytest.raises(ValueError, match="'review_generation', not 'next_item'"):
    text_evaluator.TextEvaluator(dataset=dataset)


def test_the_question_that_is_shown_where_bos_is_eos():
  """As in Qwen."""
  tokenizer = seqio.ByteVocabulary()
  tokens = [0, tokenizer.eos_id, *tokenizer.encode('Which film next?')]
  found = evaluator_lib.question_of(
      types.SimpleNamespace(tokenizer=tokenizer),
      {'prompt_tokens': np.array([[tokens]])},
      0,
  )
  assert found == 'Which film next?'

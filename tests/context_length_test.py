"""Texts that a decoder was not made for are refused where a run starts."""

import dataclasses
import json

import gin
import numpy as np
import pytest

import small_user_llm
from user_llm import evaluate as evaluate_lib
from user_llm import infer as infer_lib
from user_llm import train as train_lib
from user_llm.decoding import generate
from user_llm.models import readers
from user_llm.models import resampler


@pytest.fixture(autouse=True)
def _clean():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(name='parts', scope='module')
def _parts(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  """By config, what `write_workdir` returns."""
  found = {}
  for name, config in (
      ('answers', small_user_llm.USER_LLM), ('reviews', small_user_llm.REVIEWS)
  ):
    workdir = tmp_path_factory.mktemp('context') / name
    found[name], _ = small_user_llm.write_workdir(
        workdir, config, DATA_DIR=tiny_dataset, VOCABULARY=tiny_vocabulary
    )
  return found


def _arguments(parts, context_length, **model_fields):
  """Of an entry function, with a decoder of that context; and evaluators."""
  objective = parts['objective']
  decoder = dataclasses.replace(
      objective.model.decoder, context_length=context_length
  )
  model = dataclasses.replace(
      objective.model, decoder=decoder, **model_fields
  )
  return {
      **parts,
      'objective': dataclasses.replace(objective, model=model),
      'num_steps': 200,
      'batch_size': 8,
      'evaluators': parts['test_evaluators'],
  }


def _longest(evaluator):
  """Tokens of the longest question and the longest answer that there are."""
  dataset = evaluator.dataset
  prompts = [
      batch['prompt_tokens'] for batch in
      dataset.eval_batches(split='test', batch_size=8)
  ]
  # The first is bos, and the last token of an answer is not read.
  prompt = (np.concatenate(prompts) > 0).sum(axis=-1).max()
  answer = (dataset.answers.tokens > 0).sum(axis=-1).max()
  return int(prompt + answer - 1)


def test_what_fits_is_what_is_read(parts):
  arguments = _arguments(parts['answers'], 0)
  for evaluator in arguments['evaluators']:
    longest = _longest(evaluator)
    assert longest == evaluator.num_tokens
    for context_length in (0, longest):
      objective = _arguments(parts['answers'], context_length)['objective']
      train_lib.check_evaluators([evaluator], objective, 8)
    objective = _arguments(parts['answers'], longest - 1)['objective']
    with pytest.raises(ValueError, match=(
        rf'{evaluator.dataset.name}: .* may have {longest} tokens, .* made for '
        rf'{longest - 1} .* PROMPT_TOKENS.* TEXT_LENGTH'
    )):
      train_lib.check_evaluators([evaluator], objective, 8)


@pytest.mark.parametrize(
    ('made_by', 'user_tokens'),
    [
        (resampler.NoResamplerConfig(), small_user_llm.HISTORY_LENGTH),
        (resampler.ResamplerConfig(num_latents=4), 4),
        (resampler.LastEventConfig(), 1),
    ],
)
def test_a_soft_prompt_takes_its_part(parts, made_by, user_tokens):
  parts = parts['answers']
  evaluator = parts['test_evaluators'][0]
  needed = evaluator.num_tokens + 3 + user_tokens
  for context_length in (needed, needed - 1):
    objective = _arguments(
        parts,
        context_length,
        resampler=made_by,
        reader=readers.SoftPromptConfig(num_task_tokens=3),
    )['objective']
    if context_length == needed:
      train_lib.check_evaluators([evaluator], objective, 8)
      continue
    with pytest.raises(
        ValueError, match=f'the soft prompt before it {3 + user_tokens}, '
    ):
      train_lib.check_evaluators([evaluator], objective, 8)


def test_a_text_has_what_is_generated(parts):
  (_, reviews) = parts['reviews']['test_evaluators']
  generation = generate.GenerationConfig(max_tokens=100)
  longer = dataclasses.replace(reviews, generation=generation)
  assert reviews.num_tokens == 60  # TEXT_LENGTH
  assert longer.num_tokens == reviews.dataset.asking.longest_prompt + 100


def test_train(parts, tmp_path):
  arguments = _arguments(parts['answers'], 5) | {'evaluators': ()}
  arguments.pop('test_evaluators')
  with pytest.raises(ValueError, match='made for 5 .* Lower PROMPT_TOKENS'):
    train_lib.train(workdir=str(tmp_path / 'run'), **arguments)
  assert not (tmp_path / 'run').exists()


def test_evaluate(parts, tmp_path):
  arguments = _arguments(parts['answers'], 5)
  with pytest.raises(ValueError, match='made for 5 .* Lower PROMPT_TOKENS'):
    evaluate_lib.evaluate(
        workdir=str(tmp_path / 'run'),
        run=small_user_llm.trained_run(arguments),
        evaluators=arguments['evaluators'],
    )
  assert not (tmp_path / 'run').exists()


def test_infer(parts, tmp_path):
  arguments = _arguments(parts['reviews'], 60)
  users = tmp_path / 'users.jsonl'
  users.write_text(json.dumps({
      'history': [{'item': 's1', 'rating': 4}], 'item': 's2', 'rating': 3,
      'question': 'review_generation',
  }))
  with pytest.raises(ValueError, match='review_generation: .* MAX_TOKENS'):
    infer_lib.infer(
        workdir='none',
        input=str(users),
        output=str(tmp_path / 'out'),
        generation=generate.GenerationConfig(max_tokens=60),
        run=small_user_llm.trained_run(arguments),
        evaluators=arguments['evaluators'],
    )

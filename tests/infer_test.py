"""Questions in, answers out: exact answers, order, and each kind of bad input."""

import dataclasses
import json
import os
import pathlib
import re

import fixtures
import gin
import jax
import numpy as np
import pytest
import small_user_llm

from user_llm import infer as infer_lib
from user_llm import main as main_lib
from user_llm import restore
from user_llm import text_evaluator
from user_llm.data import requests
from user_llm.decoding import generate
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm

_SEEN = ['s3', 'Film 7 (1957)', 's40']


def _event(item, rating=4):
  return {'item': item, 'rating': rating}


def _user(name, question, items=tuple(_SEEN)):
  history = [_event(item) for item in items]
  return {'user': name, 'history': history, 'question': question}


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  workdir = tmp_path_factory.mktemp('infer') / 'run'
  parts, params = small_user_llm.write_workdir(
      workdir,
      small_user_llm.USER_LLM,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )
  return workdir, parts, params


@pytest.fixture(name='reviewer', scope='module')
def _reviewer(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  workdir = tmp_path_factory.mktemp('infer') / 'reviews'
  parts, params = small_user_llm.write_workdir(
      workdir,
      small_user_llm.REVIEWS,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )
  return workdir, parts, params


@pytest.fixture(name='clean', autouse=True)
def _clean(monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
  gin.clear_config()
  yield
  gin.clear_config()


def _write(path, lines):
  path.write_text(
      '\n'.join(x if isinstance(x, str) else json.dumps(x) for x in lines)
  )
  return str(path)


def _infer(model, tmp_path, lines, **arguments):
  workdir, parts, _ = model
  output = tmp_path / 'out.jsonl'
  infer_lib.infer(
      workdir=str(workdir),
      input=_write(tmp_path / 'users.jsonl', lines),
      output=str(output),
      run=small_user_llm.trained_run(parts),
      evaluators=parts['test_evaluators'],
      **arguments,
  )
  return [json.loads(line) for line in output.read_text().splitlines()]


def _main(workdir, tmp_path, lines, *flags):
  return main_lib.main([
      'infer',
      f'--workdir={workdir}',
      f'--input={_write(tmp_path / "users.jsonl", lines)}',
      f'--output={tmp_path / "out.jsonl"}',
      *flags,
  ])


def test_a_prompt_tells_what_the_encoder_does_not_read(
    tmp_path, tiny_dataset, tiny_vocabulary
):
  model = small_user_llm.write_workdir(
      tmp_path / 'run',
      small_user_llm.USER_LLM,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
      MODALITIES=('item',),
      PROMPT_TOKENS=60,
  )
  lines = [_user('u1', 'next_item')]
  (found,) = _infer((tmp_path / 'run', *model), tmp_path, lines, num_answers=1)
  assert len(found['answers']) == 1
  lines[0]['history'][1] = 's2'
  with pytest.raises(ValueError, match="reads 'rating' of every event"):
    _infer((tmp_path / 'run', *model), tmp_path, lines, num_answers=1)


def test_answers_equal_exhaustive_scoring(model, tmp_path):
  _, parts, params = model
  lines = [
      _user('u1', 'next_item'),
      _user('ü2', 'favourite_genre', ['s1']),
      _user('u3', 'next_item', [f's{i}' for i in range(1, 20)]),
  ]
  found = _infer(model, tmp_path, lines, num_answers=7)
  assert [line['user'] for line in found] == ['u1', 'ü2', 'u3']
  assert [line['question'] for line in found] == [x['question'] for x in lines]

  evaluators = {e.dataset.task: e for e in parts['test_evaluators']}
  dataset = parts['dataset']
  reader = requests.RequestReader(dataset.schema, dataset.catalogue)
  users = list(reader.read(str(tmp_path / 'users.jsonl')))
  batch = requests.batch(users, dataset.schema, 12, rows=3)
  for i, line in enumerate(found):
    task = evaluators[line['question']].dataset
    batch['prompt_tokens'] = task.request_prompts(users, rows=3)
    scores = small_user_llm.answer_scores(
        parts['objective'], params, task, batch
    )[i]
    texts = task.answers.texts
    if line['question'] == 'next_item':
      seen = [e['item'] - 1 for e in users[i].events]
      scores[seen] = -np.inf
    order = np.argsort(-scores)[:7]
    order = order[np.isfinite(scores[order])]
    assert [a['text'] for a in line['answers']] == [texts[j] for j in order]
    if line['question'] == 'next_item':
      ids = [[f's{j + 1}'] for j in order]
      assert [a['items'] for a in line['answers']] == ids
    else:
      assert not any('items' in a for a in line['answers'])
    np.testing.assert_allclose(
        [a['score'] for a in line['answers']], scores[order], atol=1e-3
    )


def test_items_of_one_title(tmp_path, tiny_vocabulary):
  """All of them are named but those that the history has."""
  data_dir = fixtures.write_dataset(tmp_path / 'data')
  path = pathlib.Path(data_dir) / 'catalogue.jsonl'
  text = path.read_text().replace('Film 5 (1955)', 'Film 4 (1954)')
  path.write_text(text.replace('Film 7 (1957)', 'Film 6 (1956)'))
  fixtures.change_schema(path.parent, lambda _: {})  # The manifest too.
  model = small_user_llm.write_workdir(
      tmp_path / 'run', small_user_llm.USER_LLM,
      DATA_DIR=data_dir, VOCABULARY=tiny_vocabulary,
  )
  lines = [_user('u1', 'next_item', ['s3', 's4'])]
  (line,) = _infer((tmp_path / 'run', *model), tmp_path, lines, num_answers=40)
  items = {a['text']: a['items'] for a in line['answers']}
  assert items['Film 4 (1954)'] == ['s5']
  assert items['Film 6 (1956)'] == ['s6', 's7']
  assert items['Film 8 (1958)'] == ['s8']


def test_without_a_history_the_decoder_answers(model, tmp_path):
  _, parts, params = model
  (line,) = _infer(model, tmp_path, [_user('u1', 'next_item', [])])
  objective = parts['objective']
  bare = dataclasses.replace(
      objective, model=user_llm.UserLLMConfig(decoder=objective.model.decoder)
  )
  groups = dict(params['decoder']['groups'])
  assert groups.pop('cross_attention')
  decoder = {'decoder': {**params['decoder'], 'groups': groups}}
  reader = requests.RequestReader(
      parts['dataset'].schema, parts['dataset'].catalogue
  )
  users = list(reader.read(str(tmp_path / 'users.jsonl')))
  evaluators = {e.dataset.task: e for e in parts['test_evaluators']}
  task = evaluators['next_item'].dataset
  batch = requests.batch(users, task.schema, 12, rows=1)
  batch['prompt_tokens'] = task.request_prompts(users, rows=1)
  (scores,) = small_user_llm.answer_scores(bare, decoder, task, batch)
  order = np.argsort(-scores)[:10]
  texts = [task.answers.texts[i] for i in order]
  assert [a['text'] for a in line['answers']] == texts
  np.testing.assert_allclose(
      [a['score'] for a in line['answers']], scores[order], atol=1e-4
  )


def test_from_the_command_line(model, tmp_path, capsys):
  lines = [_user('u1', 'next_item')]
  assert _main(model[0], tmp_path, lines, '--gin.NUM_ANSWERS=3') == 0
  assert '1 answers -> ' in capsys.readouterr().out
  (answer,) = map(json.loads, (tmp_path / 'out.jsonl').open())
  assert answer['user'] == 'u1' and len(answer['answers']) == 3
  titles = {a['text'] for a in answer['answers']}
  assert not titles & {'Film 3 (1953)', 'Film 7 (1957)', 'Film 40 (1990)'}


def test_more_answers_than_beams(model, tmp_path):
  workdir, parts, params = model
  narrow = [
      dataclasses.replace(e, beam_size=10) for e in parts['test_evaluators']
  ]
  model = (workdir, {**parts, 'test_evaluators': narrow}, params)
  lines = [_user('u1', 'next_item')]
  (line,) = _infer(model, tmp_path, lines, num_answers=30)
  assert len({a['text'] for a in line['answers']}) == 30


def _review(name, item='s7', **fields):
  return {**_user(name, 'review_generation'), 'item': item, **fields}


def _alone(model, dataset, line, tmp_path, generation):
  """The one text for a request, by itself."""
  path = _write(tmp_path / 'alone.jsonl', [line])
  reader = requests.RequestReader(
      dataset.schema, dataset.catalogue, dataset.log.schema
  )
  users = list(reader.read(path))
  batch = requests.batch(users, dataset.schema, 12, rows=1)
  batch['prompt_tokens'] = dataset.request_prompts(users, rows=1)
  (question,) = batch['prompt_tokens'][:, 0]
  found = jax.jit(
      lambda p, b: conditioned_lm.generate_texts(
          model[1]['objective'], p, b, generation, eos_id=1
      )
  )(model[2], batch)
  text = text_evaluator.to_text(dataset.tokenizer, found.tokens[0, 0])
  question = dataset.tokenizer.decode([int(t) for t in question if t > 3])
  return question, text, float(found.score[0, 0])


def test_a_review_is_what_the_model_alone_writes(reviewer, tmp_path):
  lines = [
      _user('u0', 'next_item'), _review('u1', rating=5),
      _review('u2', 'Film 30 (1980)', rating=1),
  ]
  generation = generate.GenerationConfig(max_tokens=9)
  found = _infer(reviewer, tmp_path, lines, generation=generation)
  assert [line['question'] for line in found] == [x['question'] for x in lines]
  assert len(found[0]['answers']) > 1
  dataset = reviewer[1]['test_evaluators'][1].dataset
  for line, answer, title in zip(
      lines[1:], found[1:], ['Film 7 (1957)', 'Film 30 (1980)']
  ):
    question, text, score = _alone(
        reviewer, dataset, line, tmp_path, generation
    )
    assert title in question and question.endswith(str(line['rating']))
    assert answer['answers'] == [
        {'text': text, 'score': pytest.approx(score, abs=1e-3)}
    ]


def test_drawn_reviews_are_the_same_in_any_batch(reviewer, tmp_path):
  generation = generate.GenerationConfig(
      max_tokens=6, temperature=0.8, top_k=50, seed=3
  )
  lines = [_review(f'u{i}', f's{i + 1}', rating=4) for i in range(10)]
  evaluators = reviewer[1]['test_evaluators']
  found = []
  for size in (8, 16):
    resized = [dataclasses.replace(e, batch_size=size) for e in evaluators]
    model = (reviewer[0], {**reviewer[1], 'test_evaluators': resized}, None)
    found.append(
        _infer(model, tmp_path, lines, generation=generation, num_answers=2)
    )
  texts = [[a['text'] for x in each for a in x['answers']] for each in found]
  assert texts[0] == texts[1] and len(texts[0]) == 20
  assert len(set(texts[0])) > 10


def test_drawing_from_the_command_line(reviewer, tmp_path):
  flags = ('TEMPERATURE=1.0', 'TOP_P=0.9', 'MAX_TOKENS=5', 'NUM_ANSWERS=3')
  flags = [f'--gin.{flag}' for flag in flags]
  lines = [_review('u1', rating=2)]
  assert _main(reviewer[0], tmp_path, lines, *flags) == 0
  (answer,) = map(json.loads, (tmp_path / 'out.jsonl').open())
  assert len({a['text'] for a in answer['answers']}) == 3


@pytest.mark.parametrize(
    ['line', 'flag', 'message'],
    [
        (_review('u'), '', 'line 2: .* names the rating'),
        (_user('u', 'review_generation'), '', 'line 2: .* names the item'),
        (_review('u', 'Casablanca'), '', "line 2: item 'Casablanca' is neith"),
        (_review('u', rating=9), '', 'line 2: rating 9 is unknown'),
        (_review('u', rating=5), 'TEMPERATURE=-1.0', 'TEMPERATURE must be a'),
        (_review('u', rating=5), 'TOP_K=3', 'give a TEMPERATURE'),
        (_review('u', rating=5), 'MAX_TOKENS=0', 'MAX_TOKENS must be an int'),
        (_review('u', rating=5), 'NUM_ANSWERS=0', 'NUM_ANSWERS must be pos'),
    ],
    ids=str,
)
def test_bad_request_of_a_review(
    reviewer, tmp_path, capsys, line, flag, message
):
  lines = [_user('u0', 'next_item'), line]
  flags = [f'--gin.{flag}'] if flag else []
  assert _main(reviewer[0], tmp_path, lines, *flags) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and 'Traceback' not in error
  assert re.search(message, error), error
  assert os.listdir(tmp_path) == ['users.jsonl']


@pytest.mark.parametrize(
    ['line', 'message'],
    [
        (_user('u', 'next_item', ['Casablanca']), "'Casablanca' is neither"),
        (_user('u', 'next_book'), 'answers next_item, favourite_genre'),
        (_user('u', None), 'has no "question"; this model answers next_item'),
        (
            '{"user": "u1", "history": [',
            'not JSON (Expecting value, column 28).',
        ),
        (
            {'user': 'u', 'history': ['s1'], 'question': 'next_item'},
            "reads 'rating'",
        ),
        (
            {'history': [_event('s1', 9)], 'question': 'next_item'},
            'rating 9 is unknown',
        ),
    ],
)
def test_bad_input(model, tmp_path, capsys, line, message):
  lines = [_user('u0', 'next_item'), '', line]
  assert _main(model[0], tmp_path, lines) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and 'Traceback' not in error
  assert f'{tmp_path / "users.jsonl"}, line 3: ' in error
  assert message in error
  assert os.listdir(tmp_path) == ['users.jsonl']


def test_missing_input(model, tmp_path, capsys):
  missing = f'--input={tmp_path / "none.jsonl"}'
  assert _main(model[0], tmp_path, [_user('u', 'next_item')], missing) == 2
  assert 'none.jsonl does not exist' in capsys.readouterr().err
  assert not (tmp_path / 'out.jsonl').exists()


def test_an_output_that_cannot_be_written_is_told_first(
    model, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(
      restore.TrainedRun, 'params', lambda *_: pytest.fail('Loaded.')
  )
  lines = [_user('u0', 'next_item')]
  flag = f'--output={tmp_path}'
  assert _main(model[0], tmp_path, lines, flag) == 2
  assert f'{tmp_path} is a directory; name a file' in capsys.readouterr().err
  flag = f'--output={tmp_path}/users.jsonl/out'
  assert _main(model[0], tmp_path, lines, flag) == 2
  assert capsys.readouterr().err.startswith('error: ')
  assert os.listdir(tmp_path) == ['users.jsonl']


def test_missing_step(model, tmp_path, capsys):
  lines = [_user('u0', 'next_item')]
  assert _main(model[0], tmp_path, lines, '--gin.STEP=4') == 2
  assert 'No checkpoint of step 4; there are [3]' in capsys.readouterr().err
  assert os.listdir(tmp_path) == ['users.jsonl']


def test_a_run_that_answers_nothing(tmp_path, tiny_dataset):
  workdir = tmp_path / 'encoder'
  parts, _ = small_user_llm.write_workdir(
      workdir, small_user_llm.ENCODER, DATA_DIR=tiny_dataset
  )
  with pytest.raises(ValueError, match='answers no questions'):
    _infer((workdir, parts, None), tmp_path, [_user('u', 'next_item')])

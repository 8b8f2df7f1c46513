import json

import numpy as np
import pytest

import fixtures
from user_llm.data import prompts as prompts_lib
from user_llm.data import questions
from user_llm.data import requests


def _read(tmp_path, dataset, *lines):
  path = tmp_path / 'users.jsonl'
  path.write_text('\n'.join(json.dumps(line) for line in lines))
  reader = requests.RequestReader(
      dataset.schema, dataset.catalogue, dataset.log.schema
  )
  return list(reader.read(str(path)))


def _texts(dataset, prompts):
  return [
      dataset.tokenizer.decode([t for t in row if t > 3])
      for row in prompts[:, 0].tolist()
  ]


def test_the_first_wording_with_its_slots_filled(tmp_path, make):
  dataset = make('review_generation', modalities=('item',))
  users = _read(
      tmp_path, dataset,
      {'history': ['s1'], 'item': 's7', 'rating': 5},
      {'history': ['s2'], 'item': 'Film 30 (1980)', 'rating': 1},
  )
  prompts = dataset.request_prompts(users, rows=3)
  assert prompts.shape == (
      3, *dataset.batch_spec('test', 1)['prompt_tokens'].shape[1:]
  )
  assert _texts(dataset, prompts) == [
      'Review of Film 7 (1957) rated 5', 'Review of Film 30 (1980) rated 1', ''
  ]
  for row in prompts[:2, 0]:
    real = row > 0
    assert row[real][0] == 3 and (np.diff(real.astype(int)) >= 0).all()


def test_the_history_as_text(tmp_path, make):
  tokenizer = make('next_item').tokenizer
  parts = ('Film 9 (1959),', 'Action,', '4;')
  budget = sum(len(tokenizer.encode(part)) for part in parts)
  config = questions.TextPromptConfig(max_tokens=budget)
  dataset = make('next_item', history_as_text=config)
  event = lambda item: {'item': item, 'rating': 4}
  users = _read(
      tmp_path, dataset,
      {'history': [event('s1'), event('s9')]}, {'history': []},
  )
  assert _texts(dataset, dataset.request_prompts(users, rows=2)) == [
      'Film 9 (1959), Action, 4; Which film next?', 'Which film next?'
  ]
  # And where nobody has a history.
  assert _texts(dataset, dataset.request_prompts(users[1:], rows=1)) == [
      'Which film next?'
  ]


def test_the_last_events_of_the_history_as_text(tmp_path, make):
  config = questions.TextPromptConfig(max_tokens=80, max_events=2)
  dataset = make('next_item', history_as_text=config)
  history = [{'item': f's{i}', 'rating': i} for i in (1, 3, 5)]
  users = _read(
      tmp_path, dataset, {'history': history}, {'history': history[:1]}
  )
  assert _texts(dataset, dataset.request_prompts(users, rows=2)) == [
      'Film 3 (1953), Comedy, 3; Film 5 (1955), Drama, 5; Which film next?',
      'Film 1 (1951), Action, 1; Which film next?',
  ]


@pytest.mark.parametrize('summary_labels', [0, 2])
def test_a_known_user_is_asked_as_in_evaluation(
    tmp_path, make, monkeypatch, summary_labels
):
  # A request has the first wording.
  monkeypatch.setattr(
      prompts_lib, 'choices', lambda seed, ids: np.zeros_like(ids)
  )
  # Of tokens there are enough for every event.
  config = questions.TextPromptConfig(
      max_tokens=1000, summary_labels=summary_labels
  )
  dataset = make('next_item', history_length=5, history_as_text=config)
  users = fixtures.random_users()
  assert max(len(user.items) for user in users) > 20
  # As fixtures.write_dataset has it; the last event is the label.
  asked = _read(tmp_path, dataset, *(
      {'history': [
          {'item': f's{i}', 'rating': int(i) * 7 % 5 + 1}
          for i in user.items[:-1]
      ]}
      for user in users
  ))
  (batch,) = dataset.eval_batches(split='test', batch_size=len(users))
  found = dataset.request_prompts(asked, rows=len(users))
  assert _texts(dataset, found) == _texts(dataset, batch['prompt_tokens'])
  np.testing.assert_array_equal(found, batch['prompt_tokens'])


def test_what_is_missing_is_named(tmp_path, make):
  dataset = make('review_generation')
  event = {'item': 's1', 'rating': 4}
  (user,) = _read(
      tmp_path, dataset,
      {'history': [event], 'question': 'review_generation', 'item': 's1'},
  )
  with pytest.raises(ValueError, match='line 1: .* names the rating'):
    dataset.request_prompts([user], rows=1)
  config = questions.TextPromptConfig(max_tokens=25, fields=('item', 'summary'))
  dataset = make('next_item', history_as_text=config)
  message = "line 1: the prompt tells the text 'summary'"
  with pytest.raises(ValueError, match=message):
    dataset.request_prompts([user], rows=1)


@pytest.mark.parametrize(['fields', 'message'], [
    ({'max_tokens': -1}, r'max_tokens \(PROMPT_TOKENS\) is -1'),
    ({'max_tokens': 9, 'max_events': 0}, r'\(PROMPT_EVENTS\) is 0; .* or None'),
    ({'max_events': 3}, 'PROMPT_EVENTS is 3 and PROMPT_TOKENS 0'),
])
def test_a_bad_budget(fields, message):
  with pytest.raises(ValueError, match=message):
    questions.TextPromptConfig(**fields)

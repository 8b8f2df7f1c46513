"""What each task asks of whom, and what is right; all by hand."""

import collections
import re

import numpy as np
import pytest
import tensorflow as tf

import fixtures
from user_llm.data import order
from user_llm.data import prompts
from user_llm.data import questions

USERS = fixtures.random_users()


def _text(dataset, tokens):
  return dataset.tokenizer.decode([t for t in tokens.tolist() if t > 3])


def _questions(dataset, split, batch, seed):
  """Of each row, the wording that (seed, example) chooses."""
  wordings = prompts.templates(dataset.task, dataset.log.schema)
  choice = prompts.choices(seed, batch['example_id']) % len(wordings)
  return [wordings[c] for c in choice]


def _train(dataset, rows, seed=1):
  return next(dataset.train_batches(batch_size=rows, seed=seed))


@pytest.mark.parametrize('task', ['next_item', 'future_favourite_genre'])
def test_example_and_seed_choose_the_wording(make, task):
  dataset = make(task)
  batch = next(dataset.eval_batches(split='test', batch_size=20))
  asked = [_text(dataset, row) for row in batch['prompt_tokens'][:, 0]]
  assert asked == _questions(dataset, 'test', batch, seed=0)
  assert len(set(asked)) == 3
  in_training = {}
  for seed in (0, 5):
    epoch = _train(dataset, dataset.num_examples('train'), seed)
    ids = order.example_indices(len(epoch['history_end']), seed, 0, 50)
    texts = [_text(dataset, row) for row in epoch['target_tokens'][:50, 0]]
    wordings = _questions(dataset, 'train', {'example_id': ids}, seed)
    assert all(t.startswith(w) for t, w in zip(texts, wordings))
    in_training[seed] = dict(zip(ids.tolist(), wordings))
  both = in_training[0].keys() & in_training[5].keys()
  assert any(in_training[0][i] != in_training[5][i] for i in both)


def _most_frequent(names, events):
  """Of the genres of events [(position, item)]."""
  counts, last = collections.Counter(), {}
  for when, item in events:
    for genre in fixtures.GENRES[(item - 1) % 8].split('|'):
      counts[genre] += 1
      last[genre] = when
  return max(counts, key=lambda g: (counts[g], last[g], -names.index(g)))


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_future_favourites_are_of_the_next_ten_events_of_the_split(make, split):
  dataset = make('future_favourite_genre', targets_per_example=3)
  names = dataset.answers.texts
  found = dataset.splits[split].targets
  offset = 0
  for user in USERS:
    last = {'train': 2, 'validation': 1, 'test': 0}[split]
    stop = len(user.items) - last
    labels = fixtures.label_positions(len(user.items), split)
    for position in range(len(user.items)):
      target = found[offset + position]
      if position not in labels:
        assert target == 0
        continue
      window = range(position, min(position + 10, stop))
      best = _most_frequent(names, [(p, user.items[p]) for p in window])
      assert names[target - 1] == best
    offset += len(user.items)
  num = 3 if split == 'train' else 1
  labels = sum(
      -(-len(fixtures.label_positions(len(u.items), split)) // num)
      for u in USERS
  )
  assert dataset.num_examples(split) == labels


@pytest.mark.parametrize('split', ['train', 'test'])
def test_reviews_are_asked_of_label_events_that_have_one(make, split):
  dataset = make('review_generation', targets_per_example=4)
  if split == 'train':
    epoch = _train(dataset, dataset.num_examples('train'))
  else:
    (epoch,) = dataset.eval_batches(
        split='test', batch_size=dataset.num_examples('test')
    )
  found = collections.Counter()
  for row, ends in enumerate(epoch['history_end']):
    for target, end in enumerate(ends):
      tokens = epoch['target_tokens'][row, target]
      if tokens.any():
        weights = epoch['loss_weights'][row, target] > 0
        assert tokens[weights][-1] == 1
        before = epoch['user_item'][row, end - 1]
        question = _text(dataset, tokens[~weights])
        found[before, question, _text(dataset, tokens[weights])] += 1
  want = collections.Counter()
  for user in USERS:
    for k in fixtures.label_positions(len(user.items), split):
      before, item = user.items[k - 1], user.items[k]
      if (text := fixtures.text_of('review', item)):
        title, rating = f'Film {item} ({1950 + item})', item * 7 % 5 + 1
        want[before, title, rating, text] += 1
  shapes = (
      r'(?:Review of|Words about|Opinion on) (.+) (?:rated|given|scored) (.)'
  )
  parsed = collections.Counter()
  for (before, question, text), count in found.items():
    title, rating = re.fullmatch(shapes, question).groups()
    parsed[before, title, int(rating), text] += count
  assert parsed == want
  if split == 'test':
    events = dataset.label_events('test', epoch['example_id'])
    np.testing.assert_array_equal(
        dataset.log.values['item'][events], epoch['label_item']
    )


def test_a_review_may_be_another_text_and_lose_its_end(make):
  dataset = make('review_generation', review_text='summary', text_length=30)
  batch = next(dataset.eval_batches(split='test', batch_size=2))
  assert batch['target_tokens'].shape == (2, 1, 30)
  assert _text(dataset, batch['target_tokens'][0, 0]).endswith(
      f'Good film {batch["label_item"][0]}'
  )
  with pytest.raises(ValueError, match='TEXT_LENGTH is None .* add what a rev'):
    make('review_generation', text_length=None).batch_spec('train', 2)
  with pytest.raises(ValueError, match="no text 'body'; it has summary, rev"):
    make('review_generation', review_text='body').batch_spec('train', 2)


def test_the_history_as_text_is_of_the_same_events(make):
  config = questions.TextPromptConfig(max_tokens=70)
  dataset = make('next_item', history_as_text=config)
  assert dataset.batch_spec('test', 2)['prompt_tokens'].shape[-1] == (
      make('next_item').batch_spec('test', 2)['prompt_tokens'].shape[-1] + 70
  )
  (batch,) = dataset.eval_batches(
      split='test', batch_size=dataset.num_examples('test')
  )
  told = batch['num_prompt_events'][:, 0]
  assert (told < batch['history_end'][:, 0]).any() and (told > 0).all()
  for i, question in enumerate(_questions(dataset, 'test', batch, seed=0)):
    texts, num_tokens = [], 0
    for item in reversed(batch['user_item'][i][batch['user_mask'][i]].tolist()):
      genres = ' '.join(dataset.catalogue[item - 1].labels)
      parts = [
          f'Film {item} ({1950 + item}),', f'{genres},', f'{item * 7 % 5 + 1};'
      ]
      num_tokens += sum(len(dataset.tokenizer.encode(p)) for p in parts)
      if num_tokens > 70:
        break
      texts = parts + texts
    assert told[i] == len(texts) / 3
    assert _text(dataset, batch['prompt_tokens'][i, 0]) == (
        ' '.join(texts + [question])
    )


def test_history_text_worked_example(monkeypatch):
  """Events of 2, 3 and 2 tokens; the second row starts anew."""
  sizes = tf.ragged.constant(
      [[], [1, 1], [2, 2, 2], [3, 3]], dtype=tf.int32,
      row_splits_dtype=tf.int64,
  )
  monkeypatch.setattr(questions, 'value_table', lambda *unused: sizes)
  values = {'item': tf.ragged.constant(
      [[1, 2, 3], [3, 1]], dtype=tf.int32, row_splits_dtype=tf.int64
  )}
  ends = tf.ragged.constant(
      [[3, 2], [2]], dtype=tf.int32, row_splits_dtype=tf.int64
  )

  def told(**fields):
    config = questions.TextPromptConfig(
        max_tokens=5, fields=('item',), **fields
    )
    text, count = questions.HistoryText(config, None, '')(values, ends)
    return text.to_list(), count.numpy().tolist()

  assert told() == (
      [[2, 2, 2, 3, 3], [1, 1, 2, 2, 2], [3, 3, 1, 1]], [2, 2, 2]
  )
  assert told(max_events=1) == ([[3, 3], [2, 2, 2], [1, 1]], [1, 1, 1])
  assert told(max_events=9) == told()


def test_training_with_history_as_text_starts_every_target_with_its_own(make):
  config = questions.TextPromptConfig(max_tokens=40, fields=('item', 'summary'))
  dataset = make('next_item', history_as_text=config, targets_per_example=3)
  batch = _train(dataset, 6)
  for row, target in np.argwhere(batch['history_end'] > 0):
    last = batch['user_item'][row, batch['history_end'][row, target] - 1]
    text = _text(dataset, batch['target_tokens'][row, target])
    history, _ = text.rsplit(';', 1)
    want = f'Film {last} ({1950 + last}), {fixtures.text_of("summary", last)}'
    assert history.endswith(want)

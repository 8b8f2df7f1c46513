"""Tasks and mixtures in seqio's registry."""

import collections
import pathlib

import numpy as np
import pytest
import seqio

import fixtures
from user_llm.data import questions
from user_llm.data import registration

USERS = fixtures.random_users()
TASKS = (
    'events', 'next_item', 'favourite_genre', 'future_favourite_genre',
    'review_generation', 'text',
)


def test_registered_tasks_yield_unpadded_examples(
    make, tiny_dataset, tiny_vocabulary
):
  for _ in range(2):
    names = registration.register(
        data_dir=tiny_dataset, history_length=8, vocabulary=tiny_vocabulary
    )
  assert names == tuple(f'tiny_{t}' for t in TASKS)
  task = seqio.get_mixture_or_task('tiny_next_item')
  test = task.get_dataset(split='test', shuffle=False)
  found = list(test.as_numpy_iterator())
  kept = [u for u in USERS if len(u.items) >= 3]
  assert len(found) == len(kept)
  for example, user in zip(found, kept):
    assert example['item'].tolist() == user.items[:-1][-8:].tolist()
    assert example['answers'].shape[0] == 1
  shuffled = [
      [e['example_id'] for e in task.get_dataset(
          split='train', seed=seed, shard_info=seqio.ShardInfo(shard, 2)
      ).as_numpy_iterator()]
      for seed, shard in ((0, 0), (0, 1), (1, 0))
  ]
  assert sorted(shuffled[0] + shuffled[1]) == list(
      range(make('next_item').num_examples('train'))
  )
  assert shuffled[0] != shuffled[2]


@pytest.fixture(name='registered', scope='module')
def _registered(tiny_dataset, tiny_vocabulary):
  return registration.register(
      data_dir=tiny_dataset, history_length=8, vocabulary=tiny_vocabulary
  )


@pytest.mark.parametrize('task', ['next_item', 'review_generation', 'text'])
def test_registered_examples_converted_are_the_trainers(make, registered, task):
  assert f'tiny_{task}' in registered
  dataset = make(task)
  converter, lengths = dataset.converter('train')
  one_by_one = seqio.get_mixture_or_task(f'tiny_{task}').get_dataset(
      split='train', seed=4
  )
  rows = list(converter(one_by_one, lengths).take(6).as_numpy_iterator())
  batch = next(dataset.train_batches(batch_size=6, seed=4))
  for key, value in batch.items():
    np.testing.assert_array_equal(value, [row[key] for row in rows], key)


def test_what_a_dataset_lacks_is_not_registered(tmp_path, tiny_vocabulary):
  root = pathlib.Path(fixtures.write_dataset(tmp_path / 'd', name='plain'))
  fixtures.change_schema(
      root, lambda raw: {'texts': [], 'modalities': raw['modalities'][:1]}
  )
  names = registration.register(
      data_dir=str(root), history_length=4, vocabulary=tiny_vocabulary
  )
  assert names == ('plain_events', 'plain_next_item', 'plain_text')
  names = registration.register(data_dir=str(root), history_length=4)
  assert names == ('plain_events',)


def _first_words(name, vocabulary, count=200):
  ds = seqio.get_mixture_or_task(name).get_dataset(split='train', seed=0)
  tokenizer = seqio.SentencePieceVocabulary(vocabulary)
  texts = [
      tokenizer.decode([t for t in example['prompts'][0].tolist() if t])
      for example in ds.take(count).as_numpy_iterator()
  ]
  return collections.Counter(' '.join(t.split()[-3:-1]) for t in texts)


def test_a_mixture_over_tasks(registered, tiny_vocabulary):
  for _ in range(2):
    name = registration.register_mixture(
        'tiny_both', {'tiny_next_item': 3, 'tiny_future_favourite_genre': 1}
    )
  words = _first_words(name, tiny_vocabulary)
  films = sum(n for w, n in words.items() if 'favourite' not in w)
  assert 110 <= films <= 190 and sum(words.values()) == 200
  assert {'tiny_next_item', 'tiny_future_favourite_genre'} <= set(registered)
  with pytest.raises(ValueError, match='tiny_no_task are not registered'):
    registration.register_mixture('other', {'tiny_no_task': 1})


def test_a_mixture_over_datasets_is_of_text(
    tmp_path, tiny_dataset, tiny_vocabulary
):
  books = fixtures.write_dataset(tmp_path / 'books', name='books')
  fixtures.change_schema(
      pathlib.Path(books), lambda _: {'item_noun': 'book'}
  )
  for data_dir in (tiny_dataset, books):
    names = registration.register(
        data_dir=data_dir,
        history_length=8,
        vocabulary=tiny_vocabulary,
        history_as_text=questions.TextPromptConfig(max_tokens=60),
    )
  assert names == tuple(f'books_{task}_as_text' for task in TASKS[1:-1])
  name = registration.register_mixture(
      'worlds', {f'{d}_next_item_as_text': 1 for d in ('tiny', 'books')}
  )
  mixture = seqio.get_mixture_or_task(name)
  assert mixture.output_features.keys() == {'prompts', 'answers'}
  words = _first_words(name, tiny_vocabulary)
  films = sum(n for w, n in words.items() if 'film' in w or 'next' in w)
  assert words['Which film'] and words['Which book'] and films < 200

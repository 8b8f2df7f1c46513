import collections
import pathlib
import re

import numpy as np
import pytest

import fixtures


def _epoch(dataset):
  size = dataset.num_examples('train')
  batch = next(dataset.train_batches(batch_size=size, seed=1))
  texts = [
      dataset.tokenizer.decode([t for t in row if t > 3])
      for row in batch['target_tokens'][:, 0].tolist()
  ]
  return batch, texts


def _with_texts(tmp_path, *names):
  root = pathlib.Path(fixtures.write_dataset(tmp_path / 'd'))
  fixtures.change_schema(root, lambda _: {'texts': names})
  return str(root)


def test_every_item_is_asked_for_its_title_and_a_genre(tmp_path, make):
  dataset = make('text', data_dir=_with_texts(tmp_path))
  batch, texts = _epoch(dataset)
  assert batch.keys() == {'input_tokens', 'target_tokens', 'loss_weights'}
  np.testing.assert_array_equal(
      batch['loss_weights'] > 0, batch['target_tokens'] > 0
  )
  questions, answers = zip(*(text.split('? ') for text in texts))
  assert collections.Counter(a for a in answers if a.startswith('Film')) == (
      collections.Counter(f'Film {i} ({1950 + i})' for i in range(1, 41))
  )
  assert set(questions) == {
      'Which film next', 'What film follows', 'The next film',
      'Favourite genre', 'Preferred genre', 'Usual genre',
  }
  assert len(texts) == 80
  assert all(row[row > 0][-1] == 1 for row in batch['target_tokens'][:, 0])


def test_reviews_are_those_of_training_events(make):
  dataset = make('text', text_length=60)
  _, texts = _epoch(dataset)
  assert sum('?' in text for text in texts) == 80
  found = collections.Counter()
  for text in texts:
    if '?' not in text:
      item, review = re.fullmatch(
          r'(?:\w+ \w+) Film (\d+) .* (?:rated|given|scored) \d (I .*)', text
      ).groups()
      found[int(item), review] += 1
  want = collections.Counter(
      (int(item), text)
      for user in fixtures.random_users()
      for item in user.items[:-2]
      if (text := fixtures.text_of('review', item))
  )
  assert found == want


def test_another_text_is_the_review(tmp_path, make):
  data_dir = _with_texts(tmp_path, 'summary')
  with pytest.raises(ValueError, match='it has summary. REVIEW_TEXT'):
    make('text', data_dir=data_dir).num_examples('train')
  dataset = make('text', data_dir=data_dir, review_text='summary')
  _, texts = _epoch(dataset)
  assert sum('Good film' in text for text in texts) == len(texts) - 80 > 0


def test_without_a_length_reviews_are_cut_to_the_catalogues(make):
  batch, texts = _epoch(make('text'))
  lengths = (batch['target_tokens'][:, 0] > 0).sum(axis=1)
  of_catalogue = np.array(['?' in text for text in texts])
  assert batch['target_tokens'].shape[-1] == lengths[of_catalogue].max()
  assert any('I' in text for text in texts)

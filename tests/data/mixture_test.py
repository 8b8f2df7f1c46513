import dataclasses
import itertools

import numpy as np
import pytest

from user_llm.data import pipeline


@pytest.fixture
def datasets(tiny_dataset, tiny_vocabulary):
  items = pipeline.Dataset(
      data_dir=tiny_dataset,
      task='next_item',
      history_length=6,
      vocabulary=tiny_vocabulary,
      targets_per_example=2,
      text_length=20,
  )
  return items, dataclasses.replace(items, task='favourite_genre')


# Of the order of a mixture's second dataset, where the run's is 0. Pinned: a
# change breaks every resume.
SECOND_SEED = 673228719


def _steps(dataset, count, seed=0, **settings):
  batches = dataset.train_batches(seed=seed, **settings)
  return list(itertools.islice(batches, count))


def test_rows_are_interleaved_in_the_shares(datasets):
  mixture = pipeline.Mixture(datasets=datasets, shares=(2, 1))
  (batch,) = _steps(mixture, 1, batch_size=6)
  (items,) = _steps(datasets[0], 1, batch_size=4)
  (genres,) = _steps(datasets[1], 1, SECOND_SEED, batch_size=2)
  assert batch.keys() == items.keys()
  for key, rows in batch.items():
    np.testing.assert_array_equal(rows[[0, 1, 3, 4]], items[key])
    np.testing.assert_array_equal(rows[[2, 5]], genres[key])


def test_the_datasets_ask_about_other_rows_of_a_step(datasets):
  mixture = pipeline.Mixture(datasets=datasets, shares=(1, 1))
  size = datasets[0].num_examples('train')
  assert datasets[1].num_examples('train') == size
  (batch,) = _steps(mixture, 1, batch_size=size)
  firsts, seconds = batch['user_item'][::2], batch['user_item'][1::2]
  is_same = (firsts[:, None] == seconds).all(axis=2)
  assert is_same.any(axis=1).mean() < 0.7  # Of half an epoch each.


def test_spec(datasets):
  mixture = pipeline.Mixture(datasets=datasets, shares=(2, 1))
  (batch,) = _steps(mixture, 1, batch_size=6)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == (
      mixture.batch_spec('train', 6)
  )


def test_without_a_text_length_all_have_the_longest(datasets):
  items, genres = (dataclasses.replace(d, text_length=None) for d in datasets)
  reviews = dataclasses.replace(
      items, task='review_generation', text_length=40
  )
  longest = items.num_tokens('train')
  assert longest > genres.num_tokens('train')
  for parts, width in (((items, genres), longest), ((genres, reviews), 40)):
    mixture = pipeline.Mixture(datasets=parts, shares=(1, 1))
    (batch,) = _steps(mixture, 1, batch_size=2)
    assert batch['target_tokens'].shape == (2, 2, width)
    assert mixture.batch_spec('train', 2)['input_tokens'].shape[-1] == width


def test_any_number_of_hosts_and_any_start_give_the_same_batches(datasets):
  mixture = pipeline.Mixture(datasets=datasets, shares=(1, 1))
  whole = _steps(mixture, 4, batch_size=8)
  hosts = [
      _steps(mixture, 1, batch_size=8, start_step=3, host=host, num_hosts=2)[0]
      for host in range(2)
  ]
  for key, rows in whole[3].items():
    np.testing.assert_array_equal(
        np.concatenate([h[key] for h in hosts]), rows
    )


def test_attributes_are_those_of_the_parts(datasets):
  mixture = pipeline.Mixture(datasets=datasets, shares=(1, 1))
  assert mixture.name == 'tiny_next_item+tiny_favourite_genre'
  assert mixture.fingerprint == datasets[0].fingerprint
  assert mixture.identity == datasets[0].identity
  assert mixture.split_rule == datasets[0].split_rule
  assert mixture.num_examples('train') == sum(
      d.num_examples('train') for d in datasets
  )


def test_bad_settings(datasets, tiny_dataset):
  items, genres = datasets
  with pytest.raises(ValueError, match='2 datasets and 1 shares'):
    pipeline.Mixture(datasets=datasets, shares=(1,))
  with pytest.raises(ValueError, match='SHARES'):
    pipeline.Mixture(datasets=datasets, shares=(1, 0))
  with pytest.raises(ValueError, match='multiple of 3'):
    mixture = pipeline.Mixture(datasets=datasets, shares=(2, 1))
    mixture.batch_spec('train', 4)
  with pytest.raises(ValueError, match='differ in their schema'):
    other = dataclasses.replace(genres, modalities=('item',))
    pipeline.Mixture(datasets=(items, other), shares=(1, 1))
  with pytest.raises(ValueError, match='TEXT_LENGTH'):
    other = dataclasses.replace(genres, text_length=19)
    mixture = pipeline.Mixture(datasets=(items, other), shares=(1, 1))
    mixture.batch_spec('train', 2)

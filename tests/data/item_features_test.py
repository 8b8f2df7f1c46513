import collections

import numpy as np
import pytest

import fixtures
from user_llm.data import item_features
from user_llm.data import pipeline
from user_llm.data import schema


@pytest.mark.parametrize('name', schema.SPLIT_RULES)
def test_counts_are_of_what_trains(tiny_dataset, name):
  rule = schema.SPLIT_RULES[name]
  found = item_features.load_item_features(
      data_dir=tiny_dataset, split_rule=rule
  )
  if name == 'paper_windows':  # Nobody has 52 events.
    assert found.counts.sum() == 0
    assert np.isfinite(found.log_frequency).all()
    return
  dataset = pipeline.Dataset(
      data_dir=tiny_dataset, task='events', history_length=12, split_rule=rule
  )
  counts = collections.Counter()
  num_rows = dataset.num_examples('train')
  batch = next(dataset.train_batches(batch_size=num_rows, seed=0))
  counts.update(batch['target_item'][batch['target_item'] > 0].tolist())
  assert found.counts.tolist() == [counts[i] for i in range(41)]
  share = found.counts / found.counts.sum()
  trained = found.counts > 0
  np.testing.assert_allclose(
      np.exp(found.log_frequency[trained]), share[trained], rtol=0.02
  )


def test_labels_are_those_of_the_catalogue(tiny_dataset):
  found = item_features.load_item_features(
      data_dir=tiny_dataset, split_rule=schema.LEAVE_ONE_OUT
  )
  genres = ['Action', 'Comedy', 'Drama', 'Horror', 'Sci-Fi']
  assert found.num_labels == 6 and found.num_items == 41
  assert found.labels.shape == (41, 2) and not found.labels[0].any()
  for item in range(1, 41):
    names = fixtures.GENRES[(item - 1) % 8].split('|')
    ids = [i for i in found.labels[item].tolist() if i]
    assert [genres[i - 1] for i in ids] == names

"""Floors and ceilings: counting models on the very splits of the real ones.

Shapes: N examples, B examples of a chunk, I items (padding included), G labels.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from user_llm.data import answers
from user_llm.data import examples
from user_llm.data import pipeline

Policy = Literal['all', 'unseen']

_CHUNK_BYTES = 1 << 27


def _training_pairs(dataset: pipeline.Dataset) -> tuple[np.ndarray, np.ndarray]:
  """int64[E'] positions of training events and [E''] of those with a next."""
  first = dataset.log.offsets[:-1]
  counts = dataset.log.train_stops(dataset.split_rule) - first
  return (
      examples.ranges(first, counts),
      examples.ranges(first, np.maximum(counts - 1, 0)),
  )


def _ranks(
    scores_BI: np.ndarray, label_B: np.ndarray, candidate_BI: np.ndarray
) -> np.ndarray:
  """int64[B]: 1 + better candidates + other candidates that score the same."""
  rows = np.arange(len(label_B))
  label_score_B1 = scores_BI[rows, label_B][:, None]
  beside_BI = (scores_BI >= label_score_B1) & candidate_BI
  beside_BI[rows, label_B] = False
  return 1 + beside_BI.sum(axis=1)


def _chunks(
    dataset: pipeline.Dataset, split: str
) -> Iterator[dict[str, np.ndarray]]:
  """Examples, a bounded number at a time, with `candidate` bool[B, I]."""
  items = dataset.log.values['item']
  table = examples.windows(
      dataset.log, dataset.split_rule, split, dataset.history_length
  )
  num_items = dataset.log.schema['item'].size
  size = max(1, _CHUNK_BYTES // (8 * num_items))
  for start in range(0, len(table), size):
    where = table.describe(np.arange(start, min(start + size, len(table))))
    counts = where['label'] - where['first_event']
    seen = items[examples.ranges(where['first_event'], counts)]
    unseen = np.ones((len(counts), num_items), bool)
    unseen[:, 0] = False
    unseen[np.repeat(np.arange(len(counts)), counts), seen] = False
    yield {
        'label': items[where['label']],
        'previous': items[where['label'] - 1],
        'unseen': unseen,
    }


def item_ranks(
    dataset: pipeline.Dataset, split: str
) -> dict[str, dict[Policy, np.ndarray]]:
  """Ranks of the next item under two counting models.

  Both count in the training part of the split: the events before each user's
  `train_stops`. 'popularity' scores an item by its events; 'markov' by how
  often it followed the history's last item, then by its popularity.

  Args:
    dataset: Any task; its data and split rule count.
    split: 'validation|test'.

  Returns:
    By model and policy, int64[N] ranks from 1 in the order of the examples.
    Ties count against the model: rank = 1 + candidates that score higher +
    other candidates that score the same. The candidates are 'all' items, or
    the 'unseen': those that are not in the user's history (of any length),
    and the label.
  """
  items = dataset.log.values['item']
  num_items = dataset.log.schema['item'].size
  events, followed = _training_pairs(dataset)
  popularity_I = np.bincount(items[events], minlength=num_items)
  base = int(popularity_I.max(initial=0)) + 1
  pairs, pair_counts = np.unique(
      items[followed].astype(np.int64) * num_items + items[followed + 1],
      return_counts=True,
  )
  row_start = np.searchsorted(pairs, np.arange(num_items + 1) * num_items)
  ranks: dict[str, dict[Policy, list[np.ndarray]]] = {
      model: {'all': [], 'unseen': []} for model in ('popularity', 'markov')
  }
  for chunk in _chunks(dataset, split):
    popular_BI = np.tile(popularity_I, (len(chunk['label']), 1))
    begin = row_start[chunk['previous']]
    counts = row_start[chunk['previous'] + 1] - begin
    entries = examples.ranges(begin, counts)
    markov_BI = popular_BI.copy()
    row = np.repeat(np.arange(len(counts)), counts)
    markov_BI[row, pairs[entries] % num_items] += base * pair_counts[entries]
    everything_BI = np.ones_like(chunk['unseen'])
    everything_BI[:, 0] = False
    for model, scores_BI in (('popularity', popular_BI), ('markov', markov_BI)):
      for policy, candidate_BI in (
          ('all', everything_BI), ('unseen', chunk['unseen'])
      ):
        ranks[model][policy].append(
            _ranks(scores_BI, chunk['label'], candidate_BI)
        )
  return {
      model: {policy: np.concatenate(parts) for policy, parts in by.items()}
      for model, by in ranks.items()
  }


def counting_oracle(dataset: pipeline.Dataset, split: str) -> np.ndarray:
  """Answers 'favourite_genre' by counting what the model may see.

  Args:
    dataset: The task; its history length bounds what is counted.
    split: 'validation|test'.

  Returns:
    int64[N], label ids from 1, in the order of the examples.
  """
  genre = dataset.log.schema['genre']
  labels_VG = answers.multi_hot(genre)
  table = examples.windows(
      dataset.log, dataset.split_rule, split, dataset.history_length
  )
  where = table.describe(np.arange(len(table)))
  counts = where['label'] - where['start']
  events = examples.ranges(where['start'], counts)
  first = np.cumsum(counts) - counts
  has_EG = labels_VG[dataset.log.values['genre'][events]]
  order_E = np.arange(len(events)) - np.repeat(first, counts) + 1
  count_NG = np.add.reduceat(has_EG, first)
  last_NG = np.maximum.reduceat(has_EG * order_E[:, None], first)
  return np.argmax(count_NG * (counts.max() + 1) + last_NG, axis=1) + 1

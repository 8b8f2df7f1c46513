"""Floors and ceilings: counting models on the very splits of the real ones.

Shapes: N examples, B examples of a chunk, I items (padding included).
"""

import collections
from collections.abc import Iterator
from typing import Literal

import numpy as np

from user_llm.data import examples
from user_llm.data import favourites as favourites_lib
from user_llm.data import pipeline

Policy = Literal['all', 'unseen']

_CHUNK_BYTES = 1 << 27


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
  table = dataset.table(split)
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
  events, followers = (
      examples.train_events(dataset.log, dataset.split_rule, skip)
      for skip in (0, 1)
  )
  popularity_I = np.bincount(items[events], minlength=num_items)
  base = int(popularity_I.max(initial=0)) + 1
  pairs, pair_counts = np.unique(
      items[followers - 1].astype(np.int64) * num_items + items[followers],
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


def favourites(
    dataset: pipeline.Dataset, split: str
) -> dict[str, np.ndarray]:
  """Answers a favourite task by counting.

  Args:
    dataset: The task; its history length bounds what is visible.
    split: 'validation|test'.

  Returns:
    By model, int32[N] label ids from 1, in the order of the examples.
    'most_frequent_<label>' answers what the training targets are most often.
    The other counts what is visible: where this is what was asked it is the
    'counting_oracle', always right; where the future was asked it is called
    'favourite_so_far'.
  """
  targets = dataset.splits['train'].targets
  most_frequent = np.bincount(targets[targets > 0]).argmax()
  table = dataset.splits[split].table
  where = table.describe(np.arange(len(table)))
  visible = favourites_lib.favourites(
      dataset.log,
      dataset.log.schema[dataset.label_name],
      where['start'],
      where['label'],
  )
  is_future = dataset.task.startswith('future')
  return {
      f'most_frequent_{dataset.label_name}': np.full_like(
          visible, most_frequent
      ),
      'favourite_so_far' if is_future else 'counting_oracle': np.where(
          visible > 0, visible, most_frequent
      ),
  }


def future_events(dataset: pipeline.Dataset, split: str) -> float:
  """How many events the futures of an evaluation have on average."""
  table = dataset.splits[split].table
  where = table.describe(np.arange(len(table)))
  ends = favourites_lib.future_ends(
      dataset.log, dataset.split_rule, split, where['label'], where['user']
  )
  return float((ends - where['label']).mean())


def most_frequent_text(dataset: pipeline.Dataset) -> str:
  """What the reviews of the training split say most often, word for word."""
  targets = dataset.splits['train'].targets
  texts = dataset.log.texts(dataset.review_text)[targets > 0]
  ((text, _),) = collections.Counter(texts.tolist()).most_common(1)
  return text.decode()

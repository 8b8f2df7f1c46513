"""Metrics over the examples of an evaluation, each with its standard error."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RECALL_AT = (1, 5, 10)
NDCG_AT = 10


class Estimate(NamedTuple):
  """A mean over n examples and its standard error."""

  mean: float
  stderr: float


def estimate(values: np.ndarray) -> Estimate:
  """The mean of f64[n] and its standard error, sd / sqrt(n)."""
  values = np.asarray(values, np.float64)
  if not values.size:
    raise ValueError('A metric over no examples: the split is empty.')
  spread = values.std(ddof=1) if values.size > 1 else 0.0
  return Estimate(float(values.mean()), float(spread / np.sqrt(values.size)))


def ranking_metrics(ranks: np.ndarray) -> dict[str, Estimate]:
  """recall@k, ndcg@10 and mrr of a full ranking with one relevant item.

  Args:
    ranks: i64[n] from 1; what is not ranked at all has a rank past every k.

  Returns:
    By name. Example: ranks [1, 3, 20] -> recall@1 1/3, recall@5 2/3,
    ndcg@10 (1 + 1/log2(4) + 0) / 3 = 0.5, mrr (1 + 1/3 + 1/20) / 3.
  """
  ranks = np.asarray(ranks, np.int64)
  if ranks.size and ranks.min() < 1:
    raise ValueError(f'Ranks start at 1, found {ranks.min()}.')
  out = {f'recall@{k}': estimate(ranks <= k) for k in RECALL_AT}
  gain = np.where(ranks <= NDCG_AT, 1.0 / np.log2(ranks + 1.0), 0.0)
  out[f'ndcg@{NDCG_AT}'] = estimate(gain)
  out['mrr'] = estimate(1.0 / ranks)
  return out


def both_policies(ranks: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
  """Ranking metrics under each seen policy: 'recall@10/unseen', ..."""
  return {
      f'{name}/{policy}': value
      for policy, policy_ranks in ranks.items()
      for name, value in ranking_metrics(policy_ranks).items()
  }

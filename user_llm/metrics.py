"""Metrics over the examples of an evaluation, each with its standard error."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RECALL_AT = (1, 5, 10)
# Of values that are ranks; the seen policy follows: 'rank/unseen'.
RANK = 'rank'
TOP = 10


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


def ranking_values(ranks: np.ndarray) -> dict[str, np.ndarray]:
  """recall@k, ndcg@10 and mrr@10 of a full ranking with one relevant item.

  All are cut, so that a ranking by beam search, which ends, and that of a whole
  catalogue are measured alike.

  Args:
    ranks: i64[n] from 1; what is not ranked at all has a rank past every k.

  Returns:
    f64[n] by name. Example: ranks [1, 3, 20] -> recall@1 [1, 0, 0], recall@5
    [1, 1, 0], ndcg@10 [1, 1/log2(4), 0], mrr@10 [1, 1/3, 0].
  """
  ranks = np.asarray(ranks, np.int64)
  if ranks.size and ranks.min() < 1:
    raise ValueError(f'Ranks start at 1, found {ranks.min()}.')
  out = {f'recall@{k}': (ranks <= k).astype(np.float64) for k in RECALL_AT}
  is_top = ranks <= TOP
  return out | {
      f'ndcg@{TOP}': np.where(is_top, 1.0 / np.log2(ranks + 1.0), 0.0),
      f'mrr@{TOP}': np.where(is_top, 1.0 / ranks, 0.0),
  }


def expand(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Per-example metrics of what is kept of the examples.

  Args:
    values: [n] by name: 'rank/<policy>', ranks under a seen policy, or a
      metric.

  Returns:
    f64[n] by metric: 'recall@10/unseen', ... for ranks, others as they are.
  """
  out = {}
  for name, value in values.items():
    kind, _, policy = name.partition('/')
    if kind == RANK:
      ranked = ranking_values(value).items()
      out |= {f'{metric}/{policy}': found for metric, found in ranked}
    else:
      out[name] = np.asarray(value, np.float64)
  return out


def estimates(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
  """Means and standard errors of what `expand` makes of the values."""
  return {name: estimate(value) for name, value in expand(values).items()}

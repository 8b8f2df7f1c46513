"""Worked values of the metrics and their standard errors."""

import math

import numpy as np
import pytest

from user_llm import metrics


def test_estimate():
  mean, stderr = metrics.estimate(np.array([1, 2, 3, 6]))
  # Squares of the differences to 3: 4 + 1 + 0 + 9 = 14.
  assert mean == 3
  assert stderr == pytest.approx(math.sqrt(14 / 3 / 4))
  assert metrics.estimate(np.array([True])) == (1.0, 0.0)


def test_metrics_of_ranks():
  found = metrics.estimates({'rank/x': np.array([1, 3, 20])})
  means = {name.removesuffix('/x'): value.mean for name, value in found.items()}
  assert means == pytest.approx({
      'recall@1': 1 / 3,
      'recall@5': 2 / 3,
      'recall@10': 2 / 3,
      'ndcg@10': (1 + 1 / math.log2(4) + 0) / 3,
      'mrr@10': (1 + 1 / 3 + 0) / 3,
  })
  # Of a share p among n: sqrt(p (1 - p) / (n - 1)).
  assert found['recall@5/x'].stderr == pytest.approx(math.sqrt(2 / 9 / 2))


@pytest.mark.parametrize(
    ['rank', 'hits'],
    [(1, (1, 1, 1)), (5, (0, 1, 1)), (10, (0, 0, 1)), (11, (0, 0, 0))],
)
def test_cutoffs(rank, hits):
  found = metrics.ranking_values(np.array([rank]))
  assert tuple(found[f'recall@{k}'].item() for k in (1, 5, 10)) == hits
  assert (found['ndcg@10'] > 0).all() == (rank <= 10)
  assert (found['mrr@10'] > 0).all() == (rank <= 10)


def test_what_is_not_ranked_counts_nothing():
  found = metrics.ranking_values(np.array([np.iinfo(np.int32).max]))
  assert found['recall@10'].item() == 0
  assert found['mrr@10'].item() == 0


def test_ranks_of_both_policies_beside_another_metric():
  found = metrics.estimates({
      'rank/all': np.array([2, 2]),
      'rank/unseen': np.array([1, 2]),
      'accuracy': np.array([True, False]),
  })
  assert found['recall@1/all'].mean == 0
  assert found['recall@1/unseen'].mean == 0.5
  assert found['accuracy'] == (0.5, 0.5)
  assert len(found) == 11


def test_errors():
  with pytest.raises(ValueError, match='split is empty'):
    metrics.estimates({'rank/all': np.array([], int)})
  with pytest.raises(ValueError, match='Ranks start at 1, found 0'):
    metrics.ranking_values(np.array([0, 1]))

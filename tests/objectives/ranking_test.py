"""Ranks by hand; ties and what is no number count against the model."""

import numpy as np

from user_llm.objectives import ranking


def test_rank_items():
  """Ids 0 .. 5, of which 0 is padding; ties count against the label."""
  minus = -np.inf
  scores = np.array([
      [minus, 0.1, 0.4, 0.3, 0.4, 0.2],  # Label 3: behind 2 and 4.
      [minus, 0.2, 0.2, 0.2, 0.1, 0.2],  # Label 2: ties with 1, 3 and 5.
      [minus, 0.9, 0.1, 0.1, 0.1, 0.1],  # Label 1: seen before, and the best.
      [minus, 0.5, 0.4, 0.3, 0.2, 0.1],  # Label 5: all others were seen.
  ])
  seen = np.array([[2, 0, 0, 0], [1, 3, 0, 0], [1, 2, 0, 0], [1, 2, 3, 4]])
  found = ranking.rank_items(scores, np.array([3, 2, 1, 5]), seen)
  np.testing.assert_array_equal(found['rank_all'], [3, 4, 1, 5])
  np.testing.assert_array_equal(found['rank_unseen'], [2, 2, 1, 1])
  np.testing.assert_array_equal(found['top_unseen'][0, :3], [4, 3, 5])
  assert found['top_unseen'][2, 0] == 1
  assert found['top_all'].shape == (4, 6)


def test_a_broken_model_ranks_last():
  scores = np.full((1, 6), np.nan)
  found = ranking.rank_items(scores, np.array([3]), np.array([[0]]))
  assert found['rank_all'][0] == found['rank_unseen'][0] == 6

"""Tests of the arrays of edges, against brute force and worked examples."""

import collections

from data_prep import cleaning
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

EDGES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2)),
    max_size=60,
)


def _columns(edges):
  user, item, time = np.array(edges, np.int64).reshape(-1, 3).T
  return user.astype(np.int32), item.astype(np.int32), time


def _brute_force_k_core(edges, min_user_events, min_item_users):
  """Drops one rare user or item after the other."""
  kept = list(edges)
  while True:
    events = collections.Counter(user for user, _, _ in kept)
    users = {i: {u for u, j, _ in kept if j == i} for _, i, _ in kept}
    rare_user = next((u for u, n in events.items() if n < min_user_events), -1)
    rare_item = next(
        (i for i, own in users.items() if len(own) < min_item_users), -1
    )
    if rare_user < 0 and rare_item < 0:
      return kept
    kept = [
        e
        for e in kept
        if (e[0] != rare_user if rare_user >= 0 else e[1] != rare_item)
    ]


def test_duplicates_worked_example():
  edges = [(1, 5, 10), (1, 6, 10), (1, 5, 12), (1, 5, 10), (2, 5, 10)]
  is_copy, is_repeat = cleaning.duplicates(*_columns(edges))
  assert is_copy.tolist() == [False, False, False, True, False]
  # One event of (1, 5) counts; which one is no matter.
  assert is_repeat.tolist() == [False, False, True, True, False]


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(edges=EDGES)
def test_duplicates_keep_the_first(edges):
  is_copy, is_repeat = cleaning.duplicates(*_columns(edges))
  assert is_copy.tolist() == [e in edges[:i] for i, e in enumerate(edges)]
  counted = [e[:2] for e, repeat in zip(edges, is_repeat) if not repeat]
  assert sorted(counted) == sorted({e[:2] for e in edges})
  assert (is_repeat | ~is_copy).all()


def test_k_core_goes_to_the_fixed_point():
  # Item 3 is rare; without it user 3 is; without them item 2 is.
  edges = [
      (1, 1, 0), (1, 4, 1), (2, 1, 0), (2, 4, 1), (3, 2, 0), (3, 3, 1),
      (1, 2, 2),
  ]
  user, item, time = _columns(edges)
  left = []
  stays = cleaning.k_core(
      user,
      item,
      cleaning.duplicates(user, item, time)[1],
      cleaning.CleaningConfig(min_user_events=2, min_item_events=2),
      left.append,
  )
  assert stays.tolist() == [True] * 4 + [False] * 3
  # Round 1 ends with item 3 gone, round 2 with item 2; round 3 finds none.
  assert left == [6, 4, 4]


def test_an_items_users_count_once():
  # User 1 has item 5 three times: enough events for the user, not for 5.
  edges = [(1, 5, 0), (1, 5, 1), (1, 5, 2), (1, 6, 3), (2, 6, 0), (2, 6, 1)]
  user, item, time = _columns(edges)
  stays = cleaning.k_core(
      user,
      item,
      cleaning.duplicates(user, item, time)[1],
      cleaning.CleaningConfig(min_item_events=2),
  )
  assert stays.tolist() == [False] * 3 + [True] * 3


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(
    edges=EDGES, user_bound=st.integers(1, 4), item_bound=st.integers(1, 4)
)
def test_k_core_is_that_of_brute_force(edges, user_bound, item_bound):
  edges = list(dict.fromkeys(edges))
  user, item, time = _columns(edges)
  stays = cleaning.k_core(
      user,
      item,
      cleaning.duplicates(user, item, time)[1],
      cleaning.CleaningConfig(
          min_user_events=user_bound, min_item_events=item_bound
      ),
  )
  kept = [edge for edge, stay in zip(edges, stays) if stay]
  assert kept == _brute_force_k_core(edges, user_bound, item_bound)


def test_order_is_stable():
  user = np.array([2, 1, 2, 1, 1], np.int32)
  time = np.array([5, 7, 5, 3, 7])
  assert cleaning.by_user_and_time(user, time).tolist() == [3, 1, 4, 0, 2]


def test_most_recent():
  offsets = np.array([0, 3, 4, 9])
  kept = cleaning.most_recent(offsets, 2)
  assert np.flatnonzero(kept).tolist() == [1, 2, 3, 7, 8]
  assert cleaning.most_recent(offsets, None).all()


@pytest.mark.parametrize(
    'flag', ['min_user_events', 'min_item_events', 'max_events_per_user']
)
def test_config_names_its_flag(flag):
  with pytest.raises(ValueError, match=f'--{flag}'):
    cleaning.CleaningConfig(**{flag: 0})

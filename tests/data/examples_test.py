import collections

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

import fixtures
from user_llm.data import examples
from user_llm.data import records
from user_llm.data import schema


def log_of(lengths: list[int]) -> records.EventLog:
  """A log without files: as many events as said, items 1, 2, 3, ..."""
  offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
  return records.EventLog(
      data_dir='none',
      schema=None,
      catalogue=(),
      users=[str(u) for u in range(len(lengths))],
      offsets=offsets,
      values={'item': np.arange(1, offsets[-1] + 1, dtype=np.int32)},
      timestamps=np.zeros(offsets[-1], np.int64),
  )


def test_ranges():
  got = examples.ranges(np.array([5, 9, 2]), np.array([3, 0, 2]))
  assert got.tolist() == [5, 6, 7, 2, 3]


def test_packed_rows_worked_example():
  # 11 events: pairs 0..7 of events 0..8 (9, 10 are held out), rows of 5 ->
  # segments of pairs 3..7 and 0..2. 4 events -> one pair (11, 12).
  rows = examples.packed_rows(log_of([11, 4, 2]), schema.LEAVE_ONE_OUT, 5)
  segments = list(zip(rows.starts.tolist(), rows.stops.tolist()))
  assert segments == [(3, 8), (0, 3), (11, 12)]
  assert rows.splits.tolist() == [0, 1, 3]
  assert rows.fill(5) == 0.9


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    lengths=LENGTHS, row_length=st.integers(1, 25), packed=st.booleans()
)
def test_every_training_transition_is_supervised_once(
    lengths, row_length, packed
):
  log = log_of(lengths)
  rows = examples.packed_rows(
      log, schema.LEAVE_ONE_OUT, row_length, packed=packed
  )
  seen = collections.Counter()
  for row in range(len(rows)):
    own = slice(rows.splits[row], rows.splits[row + 1])
    sizes = rows.stops[own] - rows.starts[own]
    assert 0 < sizes.sum() <= row_length and (sizes > 0).all()
    assert packed or len(sizes) == 1
    for start, stop in zip(rows.starts[own], rows.stops[own]):
      seen.update((e, e + 1) for e in range(start, stop))
  want = collections.Counter()
  for u, n in enumerate(lengths):
    start = int(log.offsets[u])
    want.update(
        (start + end - 1, start + end)
        for end in fixtures.label_positions(n, 'train')
    )
  assert seen == want


def test_held_out_events_are_no_targets_under_paper_windows():
  log = log_of([80, 40])
  rows = examples.packed_rows(log, schema.PAPER_WINDOWS, 50)
  assert rows.stops.max() == 77  # The last pair is (76, 77); 78, 79 held out.
  assert (rows.stops - rows.starts).sum() == 77


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    lengths=LENGTHS,
    split=st.sampled_from(['train', 'validation', 'test']),
    history_length=st.integers(4, 12),
    targets=st.integers(1, 4),
)
def test_windows_cover_every_label_once(
    lengths, split, history_length, targets
):
  log = log_of(lengths)
  table = examples.windows(
      log, schema.LEAVE_ONE_OUT, split, history_length, targets
  )
  where = table.describe(np.arange(len(table)))
  labels = []
  for i in range(len(table)):
    user, first, start, label, stop = (
        int(where[k][i])
        for k in ('user', 'first_event', 'start', 'label', 'stop')
    )
    assert first == log.offsets[user]
    assert 1 <= stop - label <= targets
    assert start == max(first, stop - 1 - history_length)
    assert start < label
    labels += range(label, stop)
  want = [
      int(log.offsets[u]) + end
      for u, n in enumerate(lengths)
      for end in fixtures.label_positions(n, split)
  ]
  assert labels == want


def test_paper_windows_have_fifty_events():
  table = examples.windows(
      log_of([60, 51, 52]), schema.PAPER_WINDOWS, 'train', 50
  )
  where = table.describe(np.arange(len(table)))
  assert where['label'].tolist() == list(range(50, 58))
  assert (where['label'] - where['start'] == 50).all()
  for split in ('validation', 'test'):
    held_out = examples.windows(
        log_of([60, 51, 52]), schema.PAPER_WINDOWS, split, 50
    )
    assert held_out.describe(np.arange(2))['user'].tolist() == [0, 2]


@pytest.mark.parametrize('targets, fewest', [(1, 50), (16, 35)])
def test_how_much_of_a_window_the_labels_of_a_training_row_see(targets, fewest):
  table = examples.windows(
      log_of([120]), schema.PAPER_WINDOWS, 'train', 50, targets
  )
  where = table.describe(np.arange(len(table)))
  seen = where['label'] - where['start'], where['stop'] - 1 - where['start']
  assert (seen[0][1:] == fewest).all() and (seen[1] == 50).all()


def test_only_a_users_oldest_example_has_fewer_targets():
  table = examples.windows(log_of([10]), schema.LEAVE_ONE_OUT, 'train', 5, 3)
  where = table.describe(np.arange(len(table)))
  assert where['label'].tolist() == [1, 2, 5]
  assert where['stop'].tolist() == [2, 5, 8]
  assert table.max_seen == 7


@pytest.mark.parametrize('capacity', [10, 37])
def test_packing_is_close_to_full(capacity):
  rng = np.random.default_rng(0)
  rows = examples.packed_rows(
      log_of((rng.integers(1, 3 * capacity, 500) + 3).tolist()),
      schema.LEAVE_ONE_OUT,
      capacity,
  )
  assert rows.fill(capacity) > 0.98


def test_examples_without_any_target_are_left_out():
  table = examples.windows(log_of([9]), schema.LEAVE_ONE_OUT, 'train', 4, 2)
  assert len(table) == 3  # Labels 1..2, 3..4, 5..6.
  targets = np.zeros(9, np.int32)
  assert len(examples.with_targets(table, targets)) == 0
  targets[[2, 5, 6]] = 7
  some = examples.with_targets(table, targets)
  assert some.describe(np.array([0, 1]))['label'].tolist() == [1, 5]
  assert len(some) == 2 and some.max_seen == table.max_seen
  targets[3] = 1
  assert examples.with_targets(table, targets) is table


def test_evenly_spread():
  table = examples.windows(
      log_of([5] * 10), schema.LEAVE_ONE_OUT, 'test', history_length=3
  )
  some = examples.evenly_spread(table, 3)
  assert some.describe(np.arange(3))['user'].tolist() == [0, 3, 6]
  # Of what is a part already.
  part = examples.Subset(table=table, kept=np.array([1, 4, 5, 9]))
  some = examples.evenly_spread(part, 2)
  assert some.describe(np.arange(2))['user'].tolist() == [1, 5]
  assert examples.evenly_spread(table, None) is table
  assert examples.evenly_spread(table, 10) is table

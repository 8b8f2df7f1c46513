import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

import fixtures
from user_llm.data import schema


def flat(times: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Offsets and timestamps of users with these times."""
  offsets = np.cumsum([0] + [len(t) for t in times])
  return offsets, np.concatenate([np.sort(t) for t in times])


def labels(rule, times, split) -> list[list[int]]:
  """Each user's label positions in their own history."""
  offsets, timestamps = flat(times)
  first, stop = rule.label_bounds(offsets, timestamps, split)
  return [
      list(range(f - start, s - start))
      for f, s, start in zip(first, stop, offsets)
  ]


TIMES = st.lists(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
@pytest.mark.parametrize('min_history', [1, 4])
def test_leave_one_out(split, min_history):
  rule = schema.SplitRule(name='rule', min_history=min_history)
  times = [list(range(n)) for n in range(1, 12)]
  assert labels(rule, times, split) == [
      list(fixtures.label_positions(len(t), split, min_history)) for t in times
  ]


def test_global_time_worked_example():
  # Of the times 0 .. 9 and 8: sorted, place 0.8 * 10 is 8 and 0.9 * 10 is 8.
  times = [[0, 1, 2, 8, 9], [3, 4, 8], [5, 6, 7]]
  assert schema.GLOBAL_TIME.cutoffs(flat(times)[1]) == (8, 8)
  assert labels(schema.GLOBAL_TIME, times, 'train') == [[1, 2], [1], [1, 2]]
  assert labels(schema.GLOBAL_TIME, times, 'validation') == [[], [], []]
  assert labels(schema.GLOBAL_TIME, times, 'test') == [[3], [2], []]


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(times=TIMES, min_history=st.integers(1, 3))
def test_global_time_is_its_definition(times, min_history):
  rule = schema.GlobalTimeRule(name='rule', min_history=min_history)
  everything = sorted(t for user in times for t in user)
  t1, t2 = (
      everything[int(np.ceil(q * (len(everything) - 1)))]
      for q in rule.quantiles
  )
  assert rule.cutoffs(np.array(everything)) == (t1, t2)
  for split, low, high in (('validation', t1, t2), ('test', t2, 99)):
    want = []
    for user in map(sorted, times):
      first = next((i for i, t in enumerate(user) if low <= t < high), 0)
      want.append([first] if first >= min_history else [])
    assert labels(rule, times, split) == want
  assert labels(rule, times, 'train') == [
      [i for i, t in enumerate(user) if t < t1 and i >= min_history]
      for user in map(sorted, times)
  ]


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(times=TIMES)
def test_global_time_does_not_leak(times):
  rule = schema.GLOBAL_TIME
  offsets, timestamps = flat(times)
  stops = rule.train_stops(offsets, timestamps)
  trained = np.zeros(len(timestamps), bool)
  for start, stop in zip(offsets, stops):
    trained[start:stop] = True
  for split in ('validation', 'test'):
    first, stop = rule.label_bounds(offsets, timestamps, split)
    for label in first[stop > first]:
      assert (timestamps[trained] < timestamps[label]).all()
      assert not trained[label]


@pytest.mark.parametrize('rule', schema.SPLIT_RULES.values())
def test_training_labels_are_training_events(rule):
  times = [list(range(n)) for n in range(1, 70, 7)]
  offsets, timestamps = flat(times)
  stops = rule.train_stops(offsets, timestamps)
  _, label_stops = rule.label_bounds(offsets, timestamps, 'train')
  np.testing.assert_array_equal(stops, label_stops)
  assert ((offsets[:-1] <= stops) & (stops <= offsets[1:])).all()


def test_unknown_split_and_rule():
  with pytest.raises(ValueError, match="Split 'dev' is none of"):
    labels(schema.LEAVE_ONE_OUT, [[1, 2, 3]], 'dev')
  with pytest.raises(ValueError, match='SPLIT_RULE.*global_time'):
    schema.split_rule(name='last')


def test_fingerprint_needs_no_user_and_no_order():
  lines = [('b', 'a'), ('a', '-'), ('-', 'c')]
  # echo -ne '-\tc\na\t-\nb\ta\n' | sha256sum | cut -c 1-16
  assert schema.split_fingerprint(lines) == schema.split_fingerprint(
      reversed(lines)
  ) == 'c54172a6b976609b'


def test_held_out_items_mark_what_is_missing():
  times = [[0, 1, 2, 8, 9], [3, 4, 8], [5, 6, 7]]
  offsets, timestamps = flat(times)
  found = schema.held_out_items(
      schema.GLOBAL_TIME, offsets, timestamps, np.arange(1, 12),
      [f'i{i}' for i in range(11)],
  )
  assert list(found) == [('-', 'i3'), ('-', 'i7')]


def test_value_without_labels():
  modality = schema.Modality(
      name='genre', size=3, values=('', 'War|Drama'), separator='|'
  )
  assert modality.labels() == ((), ('War', 'Drama'))


def test_schema_round_trip(tmp_path):
  written = schema.EventSchema(
      name='toy',
      modalities=(
          schema.Modality(name='item', size=3),
          schema.Modality(name='rating', size=2, values=('1.0',)),
      ),
      texts=('review',),
      item_noun='place',
  )
  (tmp_path / 'schema.json').write_text(written.to_json())
  assert schema.load_schema(data_dir=str(tmp_path)) == written
  selected = schema.load_schema(data_dir=str(tmp_path), modalities=['item'])
  assert selected.names == ('item',) and selected.texts == ('review',)

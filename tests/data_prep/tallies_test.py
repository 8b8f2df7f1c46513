"""Tests of the data card's counts, against worked examples."""

from data_prep import encoding
from data_prep import tallies
import numpy as np
from user_llm.data import schema


def test_tally():
  day = tallies.DAY_SECS
  # The last is of the year 5000, so perhaps in another unit.
  timestamps = np.array([0, day - 1, day, 3 * day, 95_617_584_000])
  items = np.array([1, 2, 1, 2, 1], np.int32)
  parts = [
      encoding.Histories(
          offsets=np.array(offsets),
          columns={
              'item': items[start:stop], 'timestamp': timestamps[start:stop]
          },
      )
      for offsets, start, stop in (([0, 2, 3], 0, 3), ([0, 2], 3, 5))
  ]
  counted = tallies.tally(
      schema.EventSchema(
          name='toy', modalities=(schema.Modality(name='item', size=4),)
      ),
      parts,
      {},
  )
  # One user with one event, two with two.
  assert counted.lengths.tolist() == [0, 1, 2]
  assert counted.days[:4].tolist() == [2, 1, 0, 1]
  assert counted.days[-1] == 1 and counted.days.sum() == 5
  assert len(counted.days) - 1 == (
      np.datetime64('2100-01-01') - np.datetime64('1970-01-01')
  ).astype(int)
  assert counted.values['item'].tolist() == [0, 3, 2, 0]
  assert tallies.span(counted.days) == ('1970-01-01', '2100-01-01')


def test_texts_are_counted_as_they_pass():
  counted = tallies.TextTallies(['review'])
  batches = [{'review': ['', 'a', 'bb']}, {'review': ['', 'é' * 10]}]
  assert list(counted.watch(iter(batches))) == batches
  counts = counted.counts['review']
  assert counts[0] == 2
  edges = tallies.TEXT_EDGES
  for length in (1, 2, 10):
    bin_of = np.flatnonzero(edges <= length)[-1]
    assert counts[bin_of + 1] == 1, length
  assert counts.sum() == 5


def test_text_longer_than_all_edges():
  counted = tallies.TextTallies(['review'])
  list(counted.watch([{'review': ['x' * 200_000]}]))
  assert counted.counts['review'][-1] == 1

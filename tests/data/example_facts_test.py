"""Facts about held-out examples, counted again in plain Python."""

import collections

import numpy as np
import pytest

from user_llm.data import example_facts
from user_llm.data import examples
from user_llm.data import records
from user_llm.data import schema


@pytest.mark.parametrize('split', ['validation', 'test'])
@pytest.mark.parametrize('limit', [None, 7])
def test_counted_by_hand(tiny_dataset, split, limit):
  log = records.load_events(tiny_dataset)
  rule = schema.LEAVE_ONE_OUT
  table = examples.evenly_spread(examples.windows(log, rule, split, 6), limit)
  ids = np.arange(len(table))[::-1]
  found = example_facts.of_labels(log, rule, table, ids)

  histories = [
      log.values['item'][start:stop].tolist()
      for start, stop in zip(log.offsets, log.offsets[1:])
  ]
  trained = collections.Counter(i for h in histories for i in h[:-2])
  where = {'validation': -2, 'test': -1}[split]
  users = [u for u, h in enumerate(histories) if len(h) >= 3]
  kept = [users[len(users) * k // len(ids)] for k in ids]
  assert found['user'].tolist() == kept
  for n, user in enumerate(kept):
    history = histories[user]
    item = history[where]
    before = len(history) + where
    assert found['label_position'][n] == before
    assert found['history_events'][n] == min(before, 6)
    assert found['label_item'][n] == item
    assert found['label_count'][n] == trained[item]
    more = sum(c for c in trained.values() if c > trained[item])
    share = more / sum(trained.values())
    assert found['label_popularity'][n] == pytest.approx(share)
    labels = log.catalogue[item - 1].labels
    assert found['labels/genre'][n] == '\n'.join(labels)

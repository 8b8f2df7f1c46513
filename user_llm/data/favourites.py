"""The favourite genre or category of a part of a history.

Shapes: E events, N spans of events, G labels that a user has at most.
"""

import numpy as np

from user_llm.data import answers
from user_llm.data import examples
from user_llm.data import records
from user_llm.data import schema as schema_lib

# Of the future whose favourite is asked, the label event included.
FUTURE_EVENTS = 10

_CHUNK_EVENTS = 1 << 15


def favourites(
    log: records.EventLog,
    modality: schema_lib.Modality,
    begins: np.ndarray,
    ends: np.ndarray,
) -> np.ndarray:
  """The most frequent label of each span of events.

  Example: labels of the events [Drama], [Comedy, Drama], [Comedy]. Of the first
  two: Drama (2 of 2). Of all: Comedy and Drama have 2 each, Comedy was seen
  last. Labels that tie in that too go by their order.

  Args:
    log: The events.
    modality: Whose values are sets of labels.
    begins: int64[N], first events of the spans, not decreasing. A span lies
      within a user's events.
    ends: int64[N], one past their last events.

  Returns:
    int32[N], label ids from 1 as in `answers.favourite`; 0: no event of the
    span has a label.
  """
  names = {name: i for i, name in enumerate(answers.label_names(modality))}
  of_value = [()] + [[names[x] for x in v] for v in modality.labels()]
  splits = np.cumsum([0] + [len(v) for v in of_value])
  flat = np.array([label for v in of_value for label in v], np.int64)
  found = np.zeros(len(begins), np.int32)
  users = np.unique(
      np.searchsorted(log.offsets, np.arange(0, log.offsets[-1], _CHUNK_EVENTS))
  )
  for first, stop in zip(users, [*users[1:], len(log.offsets) - 1]):
    offsets = log.offsets[first : stop + 1]
    values = log.values[modality.name][offsets[0] : offsets[-1]]
    counts = splits[values + 1] - splits[values]
    event = np.repeat(np.arange(len(values)), counts)
    label = flat[examples.ranges(splits[values], counts)]
    some = slice(*np.searchsorted(begins, (offsets[0], offsets[-1])))
    found[some] = _favourites(
        offsets - offsets[0], event, label, len(names),
        begins[some] - offsets[0], ends[some] - offsets[0],
    )
  return found


def _favourites(
    offsets: np.ndarray,
    event: np.ndarray,
    label: np.ndarray,
    num_labels: int,
    begins: np.ndarray,
    ends: np.ndarray,
) -> np.ndarray:
  """The same of some users, for pairs (event, label from 0)."""
  user = np.searchsorted(offsets, event, side='right') - 1
  # A column for each label that a user has: few, however many labels there are.
  pairs, column = np.unique(user * num_labels + label, return_inverse=True)
  if not len(begins) or not len(pairs):
    return np.zeros(len(begins), np.int32)
  first = np.searchsorted(pairs, np.arange(len(offsets)) * num_labels)
  column = column - first[user]
  shape = (int(offsets[-1]) + 1, int(column.max()) + 1)
  # Of the events before row e; over all users, as only differences count.
  count_EG = np.zeros(shape, np.int32)
  count_EG[event + 1, column] = 1
  np.cumsum(count_EG, axis=0, out=count_EG)
  last_EG = np.zeros(shape, np.int32)
  last_EG[event + 1, column] = event + 1
  np.maximum.accumulate(last_EG, axis=0, out=last_EG)
  count_NG = (count_EG[ends] - count_EG[begins]).astype(np.int64)
  best = np.argmax(count_NG * shape[0] + last_EG[ends], axis=1)
  found = count_NG[np.arange(len(best)), best] > 0
  where = first[np.searchsorted(offsets, begins, side='right') - 1] + best
  return np.where(
      found, pairs[np.where(found, where, 0)] % num_labels + 1, 0
  ).astype(np.int32)


def future_ends(
    log: records.EventLog,
    rule: schema_lib.SplitRule,
    split: str,
    labels: np.ndarray,
    users: np.ndarray,
) -> np.ndarray:
  """Where the future of each label event ends.

  No event of a later split is in it: training stops where the rule's training
  events stop, validation before the test label. So a rule that holds out one
  event has futures of one event in validation and test.

  Args:
    log: The events.
    rule: The split rule.
    split: 'train|validation|test'.
    labels: int64[N] label events; the future begins with them.
    users: int64[N], whose they are.

  Returns:
    int64[N], one past the last event.
  """
  stops = log.offsets[1:]
  if split == 'train':
    stops = log.train_stops(rule)
  elif split == 'validation':
    test, test_stop = log.label_bounds(rule, 'test')
    stops = np.where(test_stop > test, test, stops)
  return np.minimum(labels + FUTURE_EVENTS, stops[users])

"""Facts about held-out examples by which results are sliced and paired.

Shapes: N examples, I items (padding included).
"""

import numpy as np

from user_llm.data import examples
from user_llm.data import records
from user_llm.data import schema as schema_lib

# Before the name of the labels, such as 'labels/genre'.
LABELS = 'labels/'
# Between the labels of one item: no label has it.
SEPARATOR = '\n'


def of_labels(
    log: records.EventLog,
    rule: schema_lib.SplitRule,
    table: examples.Windows | examples.Subset,
    ids: np.ndarray,
) -> dict[str, np.ndarray]:
  """What is known of the events that a model was asked about.

  Args:
    log: The events.
    rule: Says which of them train.
    table: The examples.
    ids: int[N] numbers of some.

  Returns:
    int32[N] each: 'user', its number in the dataset; 'label_position', events
    before the label; 'label_item', its id; 'history_events', those that the
    model may see; 'label_count', training events with that item. f32[N]:
    'label_popularity', the share of the training events that have a more
    popular item: 0 for the most popular, near 1 in the tail. str[N]:
    'labels/genre' or the like, where the dataset has it, joined by SEPARATOR.
  """
  where = table.describe(ids)
  item_E = log.values['item']
  trained = item_E[examples.train_events(log, rule)]
  count_I = np.bincount(trained, minlength=log.schema['item'].size)
  item_N = item_E[where['label']]
  count_N = count_I[item_N]
  facts = {
      'user': where['user'],
      'label_position': where['label'] - where['first_event'],
      'label_item': item_N,
      'history_events': where['label'] - where['start'],
      'label_count': count_N,
  }
  facts = {name: fact.astype(np.int32) for name, fact in facts.items()}
  facts['label_popularity'] = _more_popular(count_I, count_N)
  if (modality := log.schema.label_modality) is not None:
    labels = [SEPARATOR.join(log.catalogue[i - 1].labels) for i in item_N]
    facts[f'{LABELS}{modality.name}'] = np.array(labels, str)
  return facts


def _more_popular(count_I: np.ndarray, count_N: np.ndarray) -> np.ndarray:
  """f32[N]: the share of all counts that is of items with a greater one.

  Example: counts 5, 3, 2 of three items -> 0, 0.5, 0.8; of count 0 -> 1.
  """
  falling_I = np.sort(count_I)[::-1]
  before = np.concatenate([[0], np.cumsum(falling_I)])
  num_greater_N = np.searchsorted(-falling_I, -count_N, side='left')
  return (before[num_greater_N] / max(1, before[-1])).astype(np.float32)

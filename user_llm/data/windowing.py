"""Cuts examples' events out of an `EventLog`, a batch of examples at a time.

The log's arrays are captured as tensors; a batch costs a few gathers, and its
features are ragged: [B, (events of each)].
"""

from collections.abc import Callable
import functools

import numpy as np
import tensorflow as tf

from user_llm.data import examples
from user_llm.data import records

Example = dict[str, tf.Tensor | tf.RaggedTensor]
Read = Callable[[Example], Example]


@functools.lru_cache(maxsize=64)
def tensor(log: records.EventLog, name: str) -> tf.Tensor:
  """A modality of all events; shared by all that read the log."""
  return tf.constant(log.values[name])


@functools.lru_cache(maxsize=4)
def _is_new(log: records.EventLog) -> tf.Tensor:
  """bool[E], whether the event is its user's first with its item."""
  user = np.repeat(np.arange(len(log.lengths)), log.lengths)
  pairs = user * log.schema['item'].size + log.values['item']
  is_new = np.zeros(len(pairs), bool)
  is_new[np.unique(pairs, return_index=True)[1]] = True
  return tf.constant(is_new)


def lookup(table: tf.Tensor, ids: tf.RaggedTensor) -> tf.RaggedTensor:
  """Rows of a table, for each id of a ragged tensor."""
  return ids.with_flat_values(tf.gather(table, ids.flat_values))


def to_int32(example: Example) -> Example:
  return {k: tf.cast(v, tf.int32) for k, v in example.items()}


def packed_rows_reader(
    log: records.EventLog, names: tuple[str, ...], rows: examples.PackedRows
) -> Read:
  """Features of the encoder's training rows.

  Args:
    log: The events.
    names: Modalities to read.
    rows: The rows' segments.

  Returns:
    A function that turns what `rows.describe` says of B rows into, for rows of
    n events, int32[B, (n)]: `<modality>`, `target_<modality>` (the same user's
    next event), `segment_ids` (1, 2, ...) and `positions` (0, 1, ... in each
    segment); and int32[B] `example_id`.
  """
  values = {name: tensor(log, name) for name in names}
  starts, stops = tf.constant(rows.starts), tf.constant(rows.stops)

  def read(rows: Example) -> Example:
    segments = tf.ragged.range(rows['first_segment'], rows['segment_stop'])
    start = tf.gather(starts, segments.flat_values)
    events_SN = tf.ragged.range(start, tf.gather(stops, segments.flat_values))
    events = segments.with_flat_values(events_SN).merge_dims(1, 2)
    of_event = events_SN.value_rowids()
    out = {'example_id': rows['example_id']}
    for name, ids in values.items():
      out[name] = lookup(ids, events)
      out[f'target_{name}'] = lookup(ids, events + 1)
    first = tf.gather(segments.row_splits, segments.value_rowids())
    number = tf.range(tf.size(start, tf.int64)) - first + 1
    out['segment_ids'] = events.with_flat_values(tf.gather(number, of_event))
    out['positions'] = events - events.with_flat_values(
        tf.gather(start, of_event)
    )
    return to_int32(out)

  return read


def windows_reader(
    log: records.EventLog, names: tuple[str, ...], *, seen: bool = False
) -> Read:
  """Features of examples (user, p consecutive labels).

  Args:
    log: The events.
    names: Modalities to read.
    seen: Whether to list what a user has seen, for evaluation.

  Returns:
    A function that turns what `Windows.describe` says of B examples into, for
    histories of n events, int32[B, (n)] `<modality>`, `segment_ids` (all 1) and
    `positions`; int32[B, (p)] `label_item` and `history_end` (label q may see
    events 0 .. history_end[q] - 1); int32[B] `example_id`; and, if asked,
    int32[B, (s)] `seen_item` (the user's distinct items before the last label).
  """
  values = {name: tensor(log, name) for name in names}
  items = tensor(log, 'item')
  is_new = _is_new(log) if seen else None

  def read(rows: Example) -> Example:
    start, label, stop = rows['start'], rows['label'], rows['stop']
    events = tf.ragged.range(start, stop - 1)
    out = {
        'example_id': rows['example_id'],
        **{name: lookup(ids, events) for name, ids in values.items()},
        'positions': tf.ragged.range(stop - 1 - start),
        'segment_ids': tf.ones_like(events),
        'label_item': lookup(items, tf.ragged.range(label, stop)),
        'history_end': tf.ragged.range(label - start, stop - start),
    }
    if seen:
      events = tf.ragged.range(rows['first_event'], stop - 1)
      out['seen_item'] = tf.ragged.boolean_mask(
          lookup(items, events), lookup(is_new, events)
      )
    return to_int32(out)

  return read

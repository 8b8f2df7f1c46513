"""Cuts an example's events out of an `EventLog`, in tf.data.

The log's arrays are captured as tensors, so an example costs a few slices.
"""

from collections.abc import Callable

import tensorflow as tf

from user_llm.data import examples
from user_llm.data import records

Example = dict[str, tf.Tensor]
Cut = Callable[[Example], Example]


def _tensors(log: records.EventLog, names: tuple[str, ...]) -> Example:
  return {name: tf.constant(log.values[name]) for name in names}


def _to_int32(example: Example) -> Example:
  return {k: tf.cast(v, tf.int32) for k, v in example.items()}


def cut_packed_rows(
    log: records.EventLog, names: tuple[str, ...], rows: examples.PackedRows
) -> Cut:
  """Features of the encoder's training rows.

  Args:
    log: The events.
    names: Modalities to read.
    rows: The rows' segments.

  Returns:
    A function that turns what `rows.describe` says of one row into, for a row
    of n events, int32[n]: `<modality>`, `target_<modality>` (the same user's
    next event), `segment_ids` (1, 2, ...) and `positions` (0, 1, ... in each
    segment).
  """
  values = _tensors(log, names)
  starts, stops = tf.constant(rows.starts), tf.constant(rows.stops)

  def cut(example: Example) -> Example:
    begin, end = example['first_segment'], example['segment_stop']
    segments = tf.ragged.range(starts[begin:end], stops[begin:end])
    events = segments.flat_values
    out = {'example_id': example['example_id']}
    for name, ids in values.items():
      out[name] = tf.gather(ids, events)
      out[f'target_{name}'] = tf.gather(ids, events + 1)
    out['segment_ids'] = segments.value_rowids() + 1
    out['positions'] = events - tf.repeat(
        starts[begin:end], segments.row_lengths()
    )
    return _to_int32(out)

  return cut


def cut_windows(log: records.EventLog, names: tuple[str, ...]) -> Cut:
  """Features of an example (user, p consecutive labels).

  Args:
    log: The events.
    names: Modalities to read.

  Returns:
    A function that turns what `Windows.describe` says of one example into, for
    a history of n events, int32[n] `<modality>`, `segment_ids` (all 1) and
    `positions`; int32[p] `label_item` and `history_end` (label q may see events
    0 .. history_end[q] - 1); int32[s] `seen_item` (the user's distinct items
    before the last label).
  """
  values = _tensors(log, names)
  items = tf.constant(log.values['item'])

  def cut(example: Example) -> Example:
    start, label, stop = example['start'], example['label'], example['stop']
    positions = tf.range(stop - 1 - start)
    return _to_int32({
        'example_id': example['example_id'],
        **{name: ids[start : stop - 1] for name, ids in values.items()},
        'positions': positions,
        'segment_ids': tf.ones_like(positions),
        'label_item': items[label:stop],
        'history_end': tf.range(label, stop) - start,
        'seen_item': tf.unique(items[example['first_event'] : stop - 1])[0],
    })

  return cut

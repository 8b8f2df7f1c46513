"""Tables of examples: which events each numbered example covers.

Positions are global ones, into the arrays of an `EventLog`.
"""

import dataclasses

import numpy as np

from user_llm.data import records
from user_llm.data import schema as schema_lib


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int64: starts[i], starts[i] + 1, ... (counts[i] of them), for each i."""
  first = np.cumsum(counts) - counts
  return np.arange(counts.sum()) + np.repeat(starts - first, counts)


def train_events(
    log: records.EventLog, rule: schema_lib.SplitRule, skip: int = 0
) -> np.ndarray:
  """int64: the events that train, without each user's first `skip`."""
  first = log.offsets[:-1] + skip
  return ranges(first, np.maximum(log.train_stops(rule) - first, 0))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedRows:
  """Rows of segments; a segment is a run of one user's events.

  Attributes:
    starts: int64[S], each segment's first input event.
    stops: int64[S], one past its last input event; that event is the last
      input's target.
    splits: int64[N + 1]. Row i holds segments splits[i] .. splits[i + 1] - 1.
  """

  starts: np.ndarray
  stops: np.ndarray
  splits: np.ndarray

  def __len__(self) -> int:
    return len(self.splits) - 1

  def describe(self, ids: np.ndarray) -> dict[str, np.ndarray]:
    """`first_segment` of each row and `segment_stop`, one past its last."""
    return {
        'first_segment': self.splits[ids],
        'segment_stop': self.splits[ids + 1],
    }

  def fill(self, row_length: int) -> float:
    """Share of the rows' positions that hold an event."""
    return float((self.stops - self.starts).sum() / (len(self) * row_length))


def _best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
  """int64[S]: the row of each segment; ties go to the row opened last."""
  row_of = np.empty(len(lengths), np.int64)
  rows_with: list[list[int]] = [[] for _ in range(capacity + 1)]
  free = 0  # Bit c is set if a row has c places left.
  num_rows = 0
  for segment in np.argsort(-lengths, kind='stable').tolist():
    length = int(lengths[segment])
    fitting = free >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = rows_with[room].pop()
      if not rows_with[room]:
        free &= ~(1 << room)
    else:
      room, row = capacity, num_rows
      num_rows += 1
    row_of[segment] = row
    rows_with[room - length].append(row)
    if room > length:
      free |= 1 << (room - length)
  return row_of


def packed_rows(
    log: records.EventLog,
    rule: schema_lib.SplitRule,
    row_length: int,
    *,
    packed: bool = True,
) -> PackedRows:
  """Cuts every user's training events into segments and packs them in rows.

  The training events of a user are those before the rule's `train_stops`. Each
  consecutive pair of them, (input, target), is in exactly one segment; segments
  have at most `row_length` pairs and are counted back from the most recent, so
  only a user's oldest segment is short.

  Args:
    log: The events.
    rule: Says which events are held out.
    row_length: Events of a row.
    packed: Whether to put several short segments into a row.

  Returns:
    The rows; their number depends on the data and `row_length` only.
  """
  first = log.offsets[:-1]
  pairs = np.maximum(log.train_stops(rule) - 1 - first, 0)
  counts = -(-pairs // row_length)  # Segments of each user; ceil.
  index = ranges(np.zeros_like(counts), counts)  # 0 is the most recent.
  segment_stop = np.repeat(first + pairs, counts) - index * row_length
  segment_start = np.maximum(
      segment_stop - row_length, np.repeat(first, counts)
  )
  if packed:
    row_of = _best_fit_decreasing(segment_stop - segment_start, row_length)
  else:
    row_of = np.arange(len(segment_start))
  order = np.argsort(row_of, kind='stable')
  num_rows = int(row_of.max()) + 1 if len(row_of) else 0
  return PackedRows(
      starts=segment_start[order],
      stops=segment_stop[order],
      splits=np.searchsorted(row_of[order], np.arange(num_rows + 1)),
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
  """Examples (user, consecutive labels), numbered user by user, oldest first.

  Attributes:
    splits: int64[U + 1]. User u has examples splits[u] .. splits[u + 1] - 1.
    first_events: int64[U], each user's first event.
    labels: int64[U], each user's first label.
    stops: int64[U], one past each user's last label.
    history_length: Events of a history, at most.
    targets_per_example: Labels of an example, at most.
  """

  splits: np.ndarray
  first_events: np.ndarray
  labels: np.ndarray
  stops: np.ndarray
  history_length: int
  targets_per_example: int

  def __len__(self) -> int:
    return int(self.splits[-1])

  @property
  def max_seen(self) -> int:
    """Bound on the number of items a user has seen before a label."""
    seen = (self.stops - 1 - self.first_events)[np.diff(self.splits) > 0]
    return int(seen.max(initial=0))

  def describe(self, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Where the examples `ids` lie, each int64 of the shape of `ids`.

    Returns:
      `user`; `first_event` of that user; `start` of the history; `label`, the
      first label; `stop`, one past the last. The history ends before the last
      label.
    """
    user = np.searchsorted(self.splits, ids, side='right') - 1
    back = self.splits[user + 1] - 1 - ids
    stop = self.stops[user] - back * self.targets_per_example
    first_event = self.first_events[user]
    return {
        'user': user,
        'first_event': first_event,
        'start': np.maximum(stop - 1 - self.history_length, first_event),
        'label': np.maximum(
            stop - self.targets_per_example, self.labels[user]
        ),
        'stop': stop,
    }


def windows(
    log: records.EventLog,
    rule: schema_lib.SplitRule,
    split: str,
    history_length: int,
    targets_per_example: int = 1,
) -> Windows:
  """Numbers the examples of a split.

  Args:
    log: The events.
    rule: Says which events are labels.
    split: 'train|validation|test'.
    history_length: Events of a history, at most.
    targets_per_example: Consecutive labels that share a history; counted back
      from the most recent, so only a user's oldest example may have fewer.

  Returns:
    The table of examples.
  """
  labels, stops = log.label_bounds(rule, split)
  counts = -(-(stops - labels) // targets_per_example)
  return Windows(
      splits=np.concatenate([[0], np.cumsum(counts)]),
      first_events=log.offsets[:-1],
      labels=labels,
      stops=stops,
      history_length=history_length,
      targets_per_example=targets_per_example,
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
  """Some of a table's examples, renumbered.

  Attributes:
    table: All of them.
    kept: int64[N], the numbers that they have there.
  """

  table: Windows
  kept: np.ndarray

  def __len__(self) -> int:
    return len(self.kept)

  @property
  def max_seen(self) -> int:
    """See `Windows.max_seen`."""
    return self.table.max_seen

  def describe(self, ids: np.ndarray) -> dict[str, np.ndarray]:
    """See `Windows.describe`."""
    return self.table.describe(self.kept[ids])


def with_targets(table: Windows, targets: np.ndarray) -> Windows | Subset:
  """The examples of which some label event has a target.

  Args:
    table: The examples.
    targets: int[E]; an event that is not 0 has one.
  """
  where = table.describe(np.arange(len(table)))
  before = np.concatenate([[0], np.cumsum(targets != 0)])
  kept = before[where['stop']] > before[where['label']]
  if kept.all():
    return table
  return Subset(table=table, kept=np.flatnonzero(kept))


def evenly_spread(
    table: Windows | Subset, limit: int | None
) -> Windows | Subset:
  """`limit` of the examples at most, as far from each other as can be.

  Example: 3 of 10 are the numbers 0, 3 and 6.
  """
  if limit is None or limit >= len(table):
    return table
  kept = np.arange(limit) * len(table) // limit
  if isinstance(table, Subset):
    return Subset(table=table.table, kept=table.kept[kept])
  return Subset(table=table, kept=kept)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
  """Numbered texts that belong to no user.

  Attributes:
    size: How many.
    length: Tokens of the longest of the catalogue.
  """

  size: int
  length: int

  def __len__(self) -> int:
    return self.size

  def describe(self, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Nothing but their number places them."""
    del ids
    return {}

"""Which events stay: arrays of integer edges, one (user, item) an event.

All functions take events in file order and say which stay.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleaningConfig:
  """Which events stay.

  Attributes:
    min_user_events: Fewest events of a user, and
    min_item_events: fewest distinct users of an item, in what is left (the
      k-core).
    max_events_per_user: Most events of a user, the most recent ones; None for
      no bound.
  """

  min_user_events: int = 1
  min_item_events: int = 1
  max_events_per_user: int | None = None

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value is not None and value < 1:
        raise ValueError(f'--{name} must be at least 1, got {value}.')


def duplicates(
    user: np.ndarray, item: np.ndarray, timestamp: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Finds events that are there already.

  Args:
    user: int32[E].
    item: int32[E].
    timestamp: int64[E].

  Returns:
    bool[E], an earlier event has the same user, item and timestamp; and
    bool[E], another event is the one that counts for this user and item. The
    former implies the latter.
  """
  pair = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
  is_copy = np.zeros(len(pair), bool)
  is_repeat = np.zeros(len(pair), bool)
  # Sorting numbers is much faster than sorting places of numbers, and what
  # repeats is little.
  in_order = np.sort(pair)
  repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
  del in_order
  if not len(repeated):
    return is_copy, is_repeat
  place = np.searchsorted(repeated, pair).clip(max=len(repeated) - 1)
  places = np.flatnonzero(repeated[place] == pair)
  places = places[np.lexsort((timestamp[places], pair[places]))]
  same_pair = np.diff(pair[places]) == 0
  same_time = np.diff(timestamp[places]) == 0
  is_repeat[places[1:][same_pair]] = True
  is_copy[places[1:][same_pair & same_time]] = True
  return is_copy, is_repeat


def k_core(
    user: np.ndarray,
    item: np.ndarray,
    is_repeat: np.ndarray,
    config: CleaningConfig,
    on_round: Callable[[int], None] = lambda num_events: None,
) -> np.ndarray:
  """Drops rare users and items until all that are left have enough events.

  Args:
    user: int32[E].
    item: int32[E].
    is_repeat: bool[E], see `duplicates`. Such events count for the user but
      not for the item.
    config: The bounds.
    on_round: Called with the number of events left after each round.

  Returns:
    bool[E], which events stay.
  """
  users, items, is_first = user, item, ~is_repeat
  num_events = np.bincount(user)
  num_users = np.bincount(
      item[is_first], minlength=int(item.max(initial=-1)) + 1
  )
  before = -1
  while len(users) != before:
    before = len(users)
    # One side after the other needs half the rounds of both at once; counting
    # what goes is cheaper than counting what stays.
    goes = (num_events < config.min_user_events)[users]
    np.subtract.at(num_users, items[goes & is_first], 1)
    users, items, is_first = _without(goes, users, items, is_first)
    goes = (num_users < config.min_item_events)[items]
    np.subtract.at(num_events, users[goes], 1)
    users, items, is_first = _without(goes, users, items, is_first)
    on_round(len(users))
  user_stays = num_events >= config.min_user_events
  item_stays = num_users >= config.min_item_events
  return user_stays[user] & item_stays[item]


def _without(goes: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
  if not goes.any():
    return columns
  stays = ~goes
  return tuple(column[stays] for column in columns)


def by_user_and_time(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
  """int64[E]: the order by user, then time, then place in the file."""
  return np.lexsort((timestamp, user))


def most_recent(offsets: np.ndarray, length: int | None) -> np.ndarray:
  """bool[E]: which of each user's events, oldest first, are the last ones."""
  lengths = np.diff(offsets)
  if length is None:
    return np.ones(offsets[-1], bool)
  from_last = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
  return from_last <= length


def nothing_left(name: str, steps: Sequence[Mapping[str, Any]]) -> str:
  """The message where no event stays."""
  told = ', '.join(f'{s["step"]} dropped {s["dropped"]:,}' for s in steps)
  return (
      f'{name}: nothing is left of {steps[0]["events"]:,} rows ({told}). '
      'Lower --min_user_events and --min_item_events.'
  )


def check_account(
    steps: Sequence[Mapping[str, Any]], num_events: int
) -> None:
  """Every row that was read was dropped by one step, or is still there."""
  left = [step['events'] - step['dropped'] for step in steps]
  assert left == [s['events'] for s in steps[1:]] + [num_events], steps

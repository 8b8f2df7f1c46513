"""What a split rule makes of a dataset's users."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_prep import encoding
from data_prep import tallies
from user_llm.data import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtMoments(schema.GlobalTimeRule):
  """A rule of global time that is told its moments.

  A part of the users does not have all timestamps.
  """

  moments: tuple[int, int]

  def cutoffs(self, timestamps: np.ndarray) -> tuple[int, int]:
    return self.moments


def describe_splits(
    parts: Iterable[encoding.Histories],
    source_ids: Sequence[str],
    *,
    has_times: bool = True,
) -> dict[str, dict[str, Any]]:
  """Each rule's fingerprint, users and examples a split.

  Args:
    parts: The users; read several times, one after another.
    source_ids: `source_ids[i - 1]` is upstream's id of item i.
    has_times: Whether timestamps are times; else no rule by time is there.
  """
  return {
      name: _describe(global_rule(rule, parts), parts, source_ids)
      for name, rule in schema.SPLIT_RULES.items()
      if has_times or not isinstance(rule, schema.GlobalTimeRule)
  }


def _describe(
    rule: schema.SplitRule,
    parts: Iterable[encoding.Histories],
    source_ids: Sequence[str],
) -> dict[str, Any]:
  examples = dict.fromkeys(('train', 'validation', 'test'), 0)
  held_out = []
  for part in parts:
    timestamps = _timestamps(part)
    held_out += schema.held_out_items(
        rule, part.offsets, timestamps, part.columns['item'], source_ids
    )
    for split in examples:
      first, stop = rule.label_bounds(part.offsets, timestamps, split)
      examples[split] += int((stop - first).sum())
  return {
      'fingerprint': schema.split_fingerprint(held_out),
      'users': len(held_out),
      **examples,
  }


def global_rule(
    rule: schema.SplitRule, parts: Iterable[encoding.Histories]
) -> schema.SplitRule:
  """The rule as it is for all users, to be applied to a part of them."""
  if not isinstance(rule, schema.GlobalTimeRule):
    return rule
  days = sum(tallies.tally_days(_timestamps(part)) for part in parts)
  last = days.sum() - 1
  moments = []
  for quantile in rule.quantiles:
    rank = int(np.ceil(last * quantile))
    day = int(np.searchsorted(np.cumsum(days), rank, side='right'))
    of_day = [t[tallies.day_of(t) == day] for t in map(_timestamps, parts)]
    in_order = np.sort(np.concatenate(of_day))
    moments.append(int(in_order[rank - days[:day].sum()]))
  return _AtMoments(**dataclasses.asdict(rule), moments=tuple(moments))


def _timestamps(part: encoding.Histories) -> np.ndarray:
  return part.columns[schema.TIMESTAMP_KEY]

"""What a split rule makes of a dataset's users."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from user_llm.data import schema


def describe_splits(
    *,
    offsets: np.ndarray,
    timestamps: np.ndarray,
    items: np.ndarray,
    source_ids: Sequence[str],
) -> dict[str, dict[str, Any]]:
  """Each rule's fingerprint, users and examples a split.

  Args:
    offsets: int64[U + 1].
    timestamps: int64[E].
    items: int32[E] item ids.
    source_ids: `source_ids[i - 1]` is upstream's id of item i.
  """
  described = {}
  for rule in schema.SPLIT_RULES.values():
    held_out = list(
        schema.held_out_items(rule, offsets, timestamps, items, source_ids)
    )
    described[rule.name] = {
        'fingerprint': schema.split_fingerprint(held_out),
        'users': len(held_out),
    }
    for split in ('train', 'validation', 'test'):
      first, stop = rule.label_bounds(offsets, timestamps, split)
      described[rule.name][split] = int((stop - first).sum())
  return described

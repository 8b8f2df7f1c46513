"""What is known of the items themselves, for an item tower."""

import dataclasses

import numpy as np

from user_llm.data import examples
from user_llm.data import records
from user_llm.data import schema as schema_lib


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ItemFeatures:
  """Of the V ids of items; id 0 is padding.

  Attributes:
    labels: int32[V, F] ids of an item's genres or categories, from 1; 0 where
      it has fewer than F.
    num_labels: Ids of labels, padding included; 1: the catalogue has none.
    counts: int64[V], events of the training split whose label the item is.
  """

  labels: np.ndarray
  num_labels: int
  counts: np.ndarray

  @property
  def num_items(self) -> int:
    """V."""
    return len(self.counts)

  @property
  def log_frequency(self) -> np.ndarray:
    """float32[V]: log of the share of training labels that an item is.

    Items that never train are given one label, for a finite logarithm.
    """
    counts = np.maximum(self.counts, 1)
    return np.log(counts / counts.sum()).astype(np.float32)


def load_item_features(
    *, data_dir: str, split_rule: schema_lib.SplitRule
) -> ItemFeatures:
  """Reads the catalogue's labels and counts the training labels.

  Args:
    data_dir: The prepared dataset.
    split_rule: Says which events train.
  """
  log = records.load_events(data_dir)
  names = sorted({label for item in log.catalogue for label in item.labels})
  ids = {name: i for i, name in enumerate(names, start=1)}
  most = max(len(item.labels) for item in log.catalogue)
  labels = np.zeros((log.schema['item'].size, most), np.int32)
  for item in log.catalogue:
    labels[item.id, : len(item.labels)] = [ids[name] for name in item.labels]
  # A user's first event is nobody's next.
  events = examples.train_events(log, split_rule, skip=1)
  counts = np.bincount(log.values['item'][events], minlength=len(labels))
  return ItemFeatures(
      labels=labels, num_labels=1 + len(names), counts=counts
  )

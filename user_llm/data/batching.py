"""What a batch is, and how tf.data makes one without taking the cores."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

Batch = dict[str, np.ndarray]


class ArraySpec(NamedTuple):
  """Shape and dtype of one entry of a batch."""

  shape: tuple[int, ...]
  dtype: np.dtype


def with_options(ds: tf.data.Dataset) -> tf.data.Dataset:
  """Deterministic, on two threads of its own."""
  options = tf.data.Options()
  options.deterministic = True
  # The cores belong to the training step.
  options.threading.private_threadpool_size = 2
  options.threading.max_intra_op_parallelism = 1
  options.autotune.enabled = False
  return ds.with_options(options)


def pad_rows(batch: Batch, rows: int) -> Batch:
  """Adds empty rows, of `example_id` -1."""
  padded = {}
  for key, value in batch.items():
    fill = -1 if key == 'example_id' else 0
    pads = [(0, rows - len(value))] + [(0, 0)] * (value.ndim - 1)
    padded[key] = np.pad(value, pads, constant_values=fill)
  return padded

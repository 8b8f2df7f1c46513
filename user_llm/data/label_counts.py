"""A history in a line of text: how often which genres or categories were seen.

Shapes: B rows, N targets of all rows, G labels, K labels that are told.
"""

import numpy as np
import tensorflow as tf

from user_llm.data import answers
from user_llm.data import records
from user_llm.data import token_tables
from user_llm.data import vocabulary as vocabulary_lib

# A larger count is told as this one.
_MAX_COUNT = 999


class LabelCounts:
  """The most frequent labels: "Drama 14, Comedy 9, Action 3, so far;".

  Labels that are as frequent go by their names. What no event has is not told,
  and of no event nothing.

  Attributes:
    modality: Whose labels are counted.
    max_tokens: Of the longest text.
  """

  def __init__(self, log: records.EventLog, num_labels: int, vocabulary: str):
    """Tokenises labels and counts.

    Args:
      log: Has the labels.
      num_labels: K.
      vocabulary: See `vocabulary.load`.

    Raises:
      ValueError: items have neither genres nor categories.
    """
    modality = log.schema.label_modality
    if modality is None:
      raise ValueError(
          f'SUMMARY_LABELS: items of the dataset {log.schema.name!r} have '
          'neither genres nor categories; set it to 0.'
      )
    self.modality = modality.name
    names = answers.label_names(modality)
    self._num_labels = min(num_labels, len(names))
    ids = {name: i for i, name in enumerate(names)}
    of_value = [[], *([ids[x] for x in set(v)] for v in modality.labels())]
    self._labels = tf.RaggedTensor.from_row_lengths(
        np.array([label for v in of_value for label in v], np.int64),
        [len(v) for v in of_value],
    )
    self._num_names = len(names)
    tokenizer = vocabulary_lib.load(vocabulary)
    # The first of each is of no label and of no event.
    self._names = token_tables.token_table(['', *names], tokenizer)
    counts = [f'{i},' for i in range(1, _MAX_COUNT + 1)]
    self._counts = token_tables.token_table(['', *counts], tokenizer)
    self._end = token_tables.token_table(['', 'so far;'], tokenizer)
    longest = token_tables.longest
    self.max_tokens = longest(self._end) + self._num_labels * (
        longest(self._names) + longest(self._counts)
    )

  def __call__(
      self, values: tf.RaggedTensor, history_end: tf.RaggedTensor
  ) -> tf.RaggedTensor:
    """Tells what each target may see.

    Args:
      values: int[B, (events)] ids of the modality.
      history_end: int[B, (p)]; target q may see events 0 .. history_end[q] - 1.

    Returns:
      int32[N, (tokens)] for the N targets of all rows.
    """
    labels = tf.gather(self._labels, values.flat_values)
    seen = tf.scatter_nd(
        tf.stack([1 + labels.value_rowids(), labels.flat_values], axis=1),
        tf.ones_like(labels.flat_values, tf.int32),
        tf.stack([1 + labels.nrows(), self._num_names]),
    )
    seen = tf.cumsum(seen, axis=0)  # Before each event.
    first = tf.gather(values.row_splits, history_end.value_rowids())
    end = first + tf.cast(history_end.flat_values, tf.int64)
    counts_NG = tf.gather(seen, end) - tf.gather(seen, first)
    # Of equals top_k takes the first: the labels are sorted.
    counts_NK, labels_NK = tf.math.top_k(counts_NG, self._num_labels)
    counts_NK = tf.minimum(counts_NK, _MAX_COUNT)
    labels_NK = tf.where(counts_NK > 0, 1 + labels_NK, 0)
    parts = []
    for k in range(self._num_labels):
      parts.append(tf.gather(self._names, labels_NK[:, k]))
      parts.append(tf.gather(self._counts, counts_NK[:, k]))
    is_any_N = tf.cast(counts_NK[:, 0] > 0, tf.int32)
    parts.append(tf.gather(self._end, is_any_N))
    return tf.concat(parts, axis=1)

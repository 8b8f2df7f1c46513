"""Texts as tables of tokens, each text tokenised once."""

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import vocabulary as vocabulary_lib

# Few enough that the lists of tokens are small.
_CHUNK = 1 << 13


def token_table(
    texts: Sequence[str],
    vocabulary: seqio.Vocabulary,
    limit: int | None = None,
) -> tf.RaggedTensor:
  """Tokenises texts, on all cores.

  Args:
    texts: N of them.
    vocabulary: To tokenise with.
    limit: Tokens of a text; longer ones lose their end.

  Returns:
    int32[N, (tokens)], without eos.
  """
  flat = [np.zeros(0, np.int32)]
  lengths = [0]
  for start in range(0, len(texts), _CHUNK):
    some = texts[start : start + _CHUNK]
    rows = [
        row[:limit] for row in vocabulary_lib.encode_all(vocabulary, some)
    ]
    lengths += map(len, rows)
    flat.append(np.concatenate([np.array(row, np.int32) for row in rows]))
  return tf.RaggedTensor.from_row_splits(
      np.concatenate(flat), np.cumsum(lengths, dtype=np.int64), validate=False
  )


def longest(table: tf.RaggedTensor) -> int:
  """Tokens of the longest text."""
  return int(np.max(np.diff(table.row_splits.numpy()), initial=0))

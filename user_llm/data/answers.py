"""The answers that a task can have, tokenised once into a table."""

import dataclasses

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import prompts
from user_llm.data import schema as schema_lib
from user_llm.data import vocabulary as vocabulary_lib


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
  """One task's question and all its possible answers.

  Attributes:
    texts: `texts[i - 1]` is the answer of id i.
    prompt: int32[Q], the question's tokens.
    tokens: int32[N + 1, A]; row i is answer i and eos, padded with 0. Row 0 is
      empty.
  """

  texts: tuple[str, ...]
  prompt: np.ndarray
  tokens: np.ndarray

  @property
  def length(self) -> int:
    """Q + A: tokens that hold the question and any answer."""
    return len(self.prompt) + self.tokens.shape[1]


def tokenise(
    texts: tuple[str, ...],
    question: str,
    vocabulary: seqio.SentencePieceVocabulary,
) -> Answers:
  """Tokenises a question and its answers; each answer ends with eos."""
  rows = [vocabulary.encode(t) + [vocabulary_lib.EOS_ID] for t in texts]
  tokens = np.zeros((len(rows) + 1, max(map(len, rows))), np.int32)
  for i, row in enumerate(rows, start=1):
    tokens[i, : len(row)] = row
  return Answers(
      texts=texts,
      prompt=np.array(vocabulary.encode(question), np.int32),
      tokens=tokens,
  )


def next_item(
    catalogue: tuple[schema_lib.CatalogueItem, ...],
    vocabulary: seqio.SentencePieceVocabulary,
) -> Answers:
  """Answer i is the title of item i."""
  titles = tuple(item.title for item in catalogue)
  return tokenise(titles, prompts.QUESTIONS['next_item'], vocabulary)


def favourite_genre(
    genre: schema_lib.Modality, vocabulary: seqio.SentencePieceVocabulary
) -> Answers:
  """Answer i is the i-th of the sorted genre labels."""
  names = label_names(genre)
  return tokenise(names, prompts.QUESTIONS['favourite_genre'], vocabulary)


def label_names(modality: schema_lib.Modality) -> tuple[str, ...]:
  """The distinct labels of a modality's values, sorted; ids from 1."""
  return tuple(sorted({name for v in modality.labels() for name in v}))


def multi_hot(modality: schema_lib.Modality) -> np.ndarray:
  """int32[V + 1, G]: which labels each value has; row 0 (padding) has none."""
  names = label_names(modality)
  table = np.zeros((modality.size, len(names)), np.int32)
  for i, value in enumerate(modality.labels(), start=1):
    for label in value:
      table[i, names.index(label)] = 1
  return table


def favourite_labels(
    value_ids: tf.Tensor, history_end: tf.Tensor, labels_VG: tf.Tensor
) -> tf.Tensor:
  """The most frequent label of each prefix of a history.

  Example: labels of the events [Drama], [Comedy, Drama], [Comedy]; prefix of 2
  events: Drama (2 of 2). Prefix of 3: Comedy and Drama have 2 each, Comedy was
  seen last. Labels that tie in that too go by their order.

  Args:
    value_ids: int32[n], the events' values.
    history_end: int32[p], events of each prefix.
    labels_VG: int32[V, G], `multi_hot`.

  Returns:
    int32[p], label ids from 1.
  """
  has_nG = tf.gather(labels_VG, value_ids)
  order = tf.range(1, tf.size(value_ids) + 1)
  visible_pn = tf.cast(order[None, :] <= history_end[:, None], tf.int32)
  # Not an integer matmul, which TensorFlow runs without a fast kernel.
  count_nG = tf.cumsum(has_nG)
  count_pG = tf.gather(count_nG, tf.maximum(history_end - 1, 0))
  when_nG = has_nG * order[:, None]
  last_pG = tf.reduce_max(visible_pn[:, :, None] * when_nG[None], axis=1)
  score_pG = count_pG * (tf.size(value_ids) + 1) + last_pG
  return tf.argmax(score_pG, axis=-1, output_type=tf.int32) + 1

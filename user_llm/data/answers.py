"""The answers that a task can have, tokenised once into a table."""

import dataclasses
import functools
import sys

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import schema as schema_lib
from user_llm.data import token_tables


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
  """All possible answers of one task.

  Attributes:
    texts: `texts[i - 1]` is the answer of id i.
    tokens: int32[N + 1, A]; row i is answer i and eos, padded with 0. Row 0 is
      empty.
  """

  texts: tuple[str, ...]
  tokens: np.ndarray

  @functools.cache
  def warn_of_cuts(self, name: str, text_length: int, question: int) -> None:
    """Says, once, how many of the answers are always cut in training.

    Whole ones are evaluated, and the end of one that is cut is not learnt.

    Args:
      name: Of the task.
      text_length: Tokens that training has room for.
      question: Tokens of the shortest one.
    """
    lengths = np.count_nonzero(self.tokens[1:], axis=1)
    if cut := int(np.sum(question + lengths > text_length)):
      print(
          f'warning: {name}: TEXT_LENGTH={text_length} cuts at least {cut} '
          f'of {len(lengths)} answers in training; None has room for all.',
          file=sys.stderr, flush=True,
      )


def tokenise(
    texts: tuple[str, ...], vocabulary: seqio.Vocabulary
) -> Answers:
  """Tokenises answers; each ends with eos.

  Raises:
    ValueError: the vocabulary cannot spell some, which would be one answer.
  """
  rows = token_tables.token_table(('', *texts), vocabulary)
  if vocabulary.unk_id is not None:
    unknown = tf.reduce_any(rows == vocabulary.unk_id, axis=1).numpy()[1:]
    if unknown.any():
      raise ValueError(
          f'VOCABULARY cannot spell {unknown.sum()} of {len(texts)} answers, '
          f'as {texts[unknown.argmax()]!r}, and so cannot tell them apart. '
          'Make one of this dataset (`python -m user_llm.data.vocabulary`), or '
          'give one that spells bytes.'
      )
  eos = np.full((len(texts) + 1, 1), vocabulary.eos_id, np.int32)
  eos[0] = 0
  tokens = tf.concat([rows, eos], axis=1).to_tensor().numpy()
  return Answers(texts=texts, tokens=tokens)


def next_item(
    catalogue: tuple[schema_lib.CatalogueItem, ...],
    vocabulary: seqio.Vocabulary,
) -> Answers:
  """Answer i is the title of item i."""
  return tokenise(tuple(item.title for item in catalogue), vocabulary)


def favourite(
    modality: schema_lib.Modality, vocabulary: seqio.Vocabulary
) -> Answers:
  """Answer i is the i-th of the sorted labels (genres, categories)."""
  return tokenise(label_names(modality), vocabulary)


def label_names(modality: schema_lib.Modality) -> tuple[str, ...]:
  """The distinct labels of a modality's values, sorted; ids from 1."""
  return tuple(sorted({name for v in modality.labels() for name in v}))

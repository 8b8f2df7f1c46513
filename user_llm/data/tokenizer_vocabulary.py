"""A pretrained tokenizer as a seqio vocabulary."""

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import tokenizer as tokenizer_lib


class TokenizerVocabulary(seqio.Vocabulary):
  """Encodes a text as it is behind another and a space.

  So do the vocabularies that are trained here, where questions, titles and
  answers are put together as tokens. Decoding takes that space away again.

  Attributes:
    tokenizer: Encodes a text as it is.
  """

  def __init__(self, tokenizer: tokenizer_lib.Tokenizer):
    super().__init__()
    self.tokenizer = tokenizer
    self._space = '' if tokenizer.adds_space else ' '

  @property
  def bos_id(self) -> int:
    return self.tokenizer.bos_id

  @property
  def eos_id(self) -> int:
    return self.tokenizer.eos_id

  @property
  def unk_id(self) -> int | None:
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self.tokenizer.vocab_size

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Tokenises texts, on all cores; an empty text has no tokens."""
    return self.tokenizer.encode_all(
        [text and self._space + text for text in texts]
    )

  def _encode(self, s: str) -> list[int]:
    return self.encode_all([s])[0]

  def _decode(self, ids: Iterable[int]) -> str:
    return self.tokenizer.decode(ids).removeprefix(self._space)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: bytes) -> np.ndarray:
      text = np.asarray(text).item().decode('utf-8')
      return np.array(self.encode(text), np.int32)

    ids = tf.numpy_function(encode, [tf.convert_to_tensor(s)], tf.int32)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    decode = lambda row: self.decode(row.tolist()).encode('utf-8')
    return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string), [])

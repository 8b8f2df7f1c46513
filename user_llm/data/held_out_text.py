"""A text that no run trains on, cut into windows of tokens.

Each window begins with bos and holds W tokens. The next begins S tokens later,
and only what the one before has not scored is scored in it, so that every token
is scored once. Example: W = 4, S = 2 and 7 tokens a b c d e f g give the
windows abcd, cdef (ef scored) and efg (g scored).

Shapes: N windows, W tokens of a window.
"""

from collections.abc import Iterator
import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from user_llm.data import batching
from user_llm.data import tokenizer_vocabulary
from user_llm.data import vocabulary as vocabulary_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutText:
  """The first lines of a text file.

  Attributes:
    path: UTF-8 text.
    vocabulary: Of the decoder, see `vocabulary.load`; it must be able to spell
      every character, or bits per byte would mean nothing.
    window_tokens: W.
    stride_tokens: S, at most W; W: every window has tokens of its own.
    max_bytes: As many whole lines are read as fit.
  """

  path: str
  vocabulary: str
  window_tokens: int = 512
  stride_tokens: int = 512
  max_bytes: int = 32_768

  def __post_init__(self):
    for name, most in (
        ('max_bytes', float('inf')),
        ('window_tokens', float('inf')),
        ('stride_tokens', self.window_tokens),
    ):
      value = getattr(self, name)
      is_integer = isinstance(value, int) and not isinstance(value, bool)
      if not is_integer or not 1 <= value <= most:
        raise ValueError(
            f'HeldOutText.{name} must be an integer from 1'
            + (' to window_tokens' if name == 'stride_tokens' else '')
            + f', not {value!r}.'
        )

  @property
  def name(self) -> str:
    return pathlib.Path(self.path).stem

  @functools.cached_property
  def content(self) -> bytes:
    """What is measured: whole lines.

    Raises:
      ValueError: no such file, not UTF-8, or not even one line fits.
    """
    try:
      with open(self.path, 'rb') as file:
        found = file.read(self.max_bytes + 1)
      if len(found) > self.max_bytes:
        found = found[: found.rfind(b'\n', 0, self.max_bytes) + 1]
      found.decode('utf-8')
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f'TEXT_FILE={self.path}: {error}.') from None
    if not found:
      raise ValueError(
          f'TEXT_FILE={self.path} is empty, or its first line has more than '
          f'TEXT_MAX_BYTES={self.max_bytes} bytes.'
      )
    return found

  @functools.cached_property
  def fingerprint(self) -> str:
    """16 hex digits of the SHA-256 of what is measured."""
    return hashlib.sha256(self.content).hexdigest()[:16]

  @functools.cached_property
  def tokens(self) -> np.ndarray:
    """i32[number of tokens], without bos and eos.

    Raises:
      ValueError: the vocabulary cannot spell the text.
    """
    vocabulary = vocabulary_lib.load(self.vocabulary)
    text = self.content.decode('utf-8')
    if isinstance(vocabulary, tokenizer_vocabulary.TokenizerVocabulary):
      # As it is: the vocabulary's own way puts a space before it.
      ids = vocabulary.tokenizer.encode(text)
    else:
      ids = vocabulary.encode(text)
    unknown = ids.count(vocabulary.unk_id)
    if unknown:
      raise ValueError(
          f'VOCABULARY={self.vocabulary} cannot spell {unknown} pieces of '
          f'TEXT_FILE={self.path}: its bits per byte would mean nothing. Give '
          'a text of known characters, or a vocabulary that spells bytes.'
      )
    return np.array(ids, np.int32)

  @functools.cached_property
  def windows(self) -> dict[str, np.ndarray]:
    """`input_tokens`, `target_tokens` i32, `loss_weights` f32, [N, 1, W]."""
    width, stride = self.window_tokens, self.stride_tokens
    size = len(self.tokens)
    starts = stride * np.arange(1 + max(0, -(-(size - width) // stride)))
    index_NW = starts[:, None] + np.arange(width)
    is_text_NW = index_NW < size
    target_NW = np.where(is_text_NW, self.tokens[index_NW % size], 0)
    input_NW = np.roll(target_NW, 1, axis=1)
    input_NW[:, 0] = vocabulary_lib.load(self.vocabulary).bos_id
    first_N = np.where(starts, starts - stride + width, 0)
    is_new_NW = index_NW >= first_N[:, None]
    return {
        'input_tokens': input_NW[:, None].astype(np.int32),
        'target_tokens': target_NW[:, None].astype(np.int32),
        'loss_weights': (is_text_NW & is_new_NW)[:, None].astype(np.float32),
    }

  def eval_batches(
      self, *, split: str, batch_size: int, host: int = 0, num_hosts: int = 1
  ) -> Iterator[batching.Batch]:
    """As `pipeline.Dataset.eval_batches`; every split is the same."""
    del split
    rows = batch_size // num_hosts
    windows = self.windows
    size = len(windows['input_tokens'])
    windows = {**windows, 'example_id': np.arange(size, dtype=np.int32)}
    for start in range(0, size, batch_size):
      mine = slice(start + host * rows, start + (host + 1) * rows)
      yield batching.pad_rows({k: v[mine] for k, v in windows.items()}, rows)

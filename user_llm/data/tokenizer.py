"""The tokenizer of a pretrained language model.

It is read from a directory of Hugging Face's (tokenizer.json or tokenizer.model,
SentencePiece's), from such a file itself, or from a GGUF file's metadata.

Id 0 is padding in every batch here, and in some vocabularies it is a token of
text ('!' in Llama 3's and Qwen's), or begins or ends one. That token then has
the first id that the vocabulary leaves free, `zero_token_id`, and the decoder
has its embedding there. All other ids are the published ones.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import sentencepiece
import tokenizers

from user_llm import user_errors
from user_llm.data import gguf_header
from user_llm.data import gguf_tokenizer

_FAST, _PIECES = 'tokenizer.json', 'tokenizer.model'
_FAST_CONFIG = 'tokenizer_config.json'
_SPACE = '\u2581'  # As SentencePiece writes it.
# Rows of weights that have no token: they are rounded up.
_MAX_SPARE_ROWS = 1024


class Specials(NamedTuple):
  """Published ids; -1: there is none."""

  bos_token_id: int
  eos_token_id: int


class _Fast:
  """Hugging Face's `tokenizers`."""

  def __init__(self, tokenizer: tokenizers.Tokenizer):
    # A text that spells a special token out must not become one.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    self._tokenizer = tokenizer
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    self.size = max(vocabulary.values()) + 1
    self.serialized = tokenizer.to_str().encode()
    added = tokenizer.get_added_tokens_decoder()
    special = {i for i, token in added.items() if token.special}
    self.num_of_text = 1 + max(set(vocabulary.values()) - special, default=-1)
    model = tokenizer.model
    is_unknown = vocabulary.get(getattr(model, 'unk_token', None)) == 0
    has_bytes = getattr(model, 'byte_fallback', False)
    self.zero_is_text = 0 not in special or (is_unknown and not has_bytes)
    first = tokenizer.encode('a', add_special_tokens=False).tokens[:1]
    self.adds_space = ''.join(first).startswith(_SPACE)

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]

  def decode(self, ids: Sequence[int]) -> str:
    return self._tokenizer.decode(ids, skip_special_tokens=True)

  def write(self, folder: pathlib.Path, specials: Specials) -> None:
    (folder / _FAST).write_bytes(self.serialized)
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': self._tokenizer.id_to_token(specials.bos_token_id),
        'eos_token': self._tokenizer.id_to_token(specials.eos_token_id),
    }
    (folder / _FAST_CONFIG).write_text(json.dumps(config, indent=1) + '\n')


class _Pieces:
  """SentencePiece."""

  def __init__(self, model: bytes):
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.size = self.num_of_text = self._processor.get_piece_size()
    self.serialized = model
    has_bytes = self._processor.is_byte(self._processor.piece_to_id('<0x00>'))
    self.zero_is_text = not (
        self._processor.is_control(0)
        or (self._processor.is_unknown(0) and has_bytes)
    )
    first = self._processor.encode('a', out_type=str)[:1]
    self.adds_space = ''.join(first).startswith(_SPACE)

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    return self._processor.encode(list(texts))

  def decode(self, ids: Sequence[int]) -> str:
    return self._processor.decode(list(ids))

  def write(self, folder: pathlib.Path, specials: Specials) -> None:
    del specials  # The model has its own.
    (folder / _PIECES).write_bytes(self.serialized)


class Tokenizer:
  """A pretrained tokenizer; see `load`.

  Attributes:
    bos_id: Starts a text.
    eos_id: Ends one.
    zero_token_id: Id here of the token whose published id is 0; 0: it stays.
    num_published: Published ids are below it.
    num_used: Those below it stand for text, or are bos or eos. Weights may have
      no rows for special tokens behind them, as Gemma 3's have none for images.
    adds_space: Whether a text's first word is encoded as if after a space.
    specials: Published ids of bos and eos.
    fingerprint: 16 hex digits of a SHA-256.
  """

  def __init__(self, backend: _Fast | _Pieces, specials: Specials, path: str):
    self._backend = backend
    self.num_published = backend.size
    self.adds_space = backend.adds_space
    bos, eos = specials
    # Qwen has no bos: a text starts behind the end of another.
    specials = Specials(eos if bos < 0 else bos, eos)
    # eos first, which may be both.
    for name, found in reversed(specials._asdict().items()):
      if not 0 <= found < backend.size:
        raise ValueError(
            f'{path}: {name} is {found} in a vocabulary of {backend.size}; '
            f'{_FAST_CONFIG} or config.json beside it must say.'
        )
    self.specials = specials
    self.num_used = max(backend.num_of_text, *(i + 1 for i in specials))
    moves = backend.zero_is_text or 0 in specials
    self.zero_token_id = backend.size if moves else 0
    self.bos_id, self.eos_id = (i or self.zero_token_id for i in specials)
    sha = hashlib.sha256(backend.serialized + repr(specials).encode())
    self.fingerprint = sha.hexdigest()[:16]

  @property
  def vocab_size(self) -> int:
    """Ids are below it."""
    return self.num_published + (self.zero_token_id > 0)

  def encode(self, text: str) -> list[int]:
    """Without bos and eos."""
    return self.encode_all([text])[0]

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Tokenises texts, on all cores."""
    zero = self.zero_token_id
    rows = self._backend.encode(texts)
    return [[i or zero for i in row] for row in rows] if zero else rows

  def write(self, folder: pathlib.Path) -> None:
    """Writes it as Hugging Face's libraries have it."""
    self._backend.write(folder, self.specials)

  def decode(self, ids: Iterable[int]) -> str:
    """Text without special tokens; U+FFFD for what is no whole character."""
    published = [0 if i == self.zero_token_id else i for i in ids if i != 0]
    return self._backend.decode(
        [int(i) for i in published if i < self.num_published]
    )


def is_at(path: str) -> bool:
  """Whether `path` is or has a tokenizer that `load` reads."""
  file = pathlib.Path(path)
  if file.is_dir():
    return (file / _FAST).is_file() or (file / _PIECES).is_file()
  if file.suffix == '.gguf':
    return 'tokenizer.ggml.model' in gguf_header.read(file).metadata
  return file.name == _FAST


def load(path: str) -> Tokenizer:
  """Reads the tokenizer of pretrained weights.

  Args:
    path: A directory of Hugging Face's, a tokenizer.json, a .gguf file, or a
      .model file of SentencePiece.

  Raises:
    ValueError: there is none, or it cannot be read.
  """
  try:
    return _load(pathlib.Path(path))
  # `tokenizers` raises nothing more special, others what they stumble on.
  except Exception as error:
    if user_errors.is_user_error(error):
      raise
    raise ValueError(
        f'{path} is not a tokenizer that can be read: {error!r}.'
    ) from None


def _load(path: pathlib.Path) -> Tokenizer:
  if path.suffix == '.gguf':
    return _from_gguf(path)
  if path.suffix == '.model':
    model = path.read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    specials = Specials(processor.bos_id(), processor.eos_id())
    return Tokenizer(_Pieces(model), specials, str(path))
  if path.name == _FAST:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    specials = _specials(path.parent, tokenizer.token_to_id)
    return Tokenizer(_Fast(tokenizer), specials, str(path))
  for name in (_FAST, _PIECES):
    if (path / name).is_file():
      return _load(path / name)
  raise ValueError(f'{path}: no {_FAST} and no {_PIECES} there.')


def _from_gguf(path: pathlib.Path) -> Tokenizer:
  metadata = gguf_header.read(path).metadata
  model = metadata.get('tokenizer.ggml.model')
  if model == 'gpt2':
    tokenizer = gguf_tokenizer.byte_level(metadata, str(path))
    backend = _Fast(tokenizer)
  elif model == 'llama':
    backend = _Pieces(gguf_tokenizer.pieces(metadata))
  else:
    raise ValueError(
        f'{path}: a tokenizer of model {model!r} is not supported (gpt2, '
        'llama).'
    )
  of = lambda name: metadata.get(f'tokenizer.ggml.{name}_token_id', -1)
  specials = Specials(of('bos'), of('eos'))
  return Tokenizer(backend, specials, str(path))


def _specials(folder: pathlib.Path, id_of: Any) -> Specials:
  """Of tokenizer_config.json, or else of config.json."""

  def read(name: str) -> Mapping[str, Any]:
    file = folder / name
    return json.loads(file.read_text('utf-8')) if file.is_file() else {}

  tokens, ids = read(_FAST_CONFIG), read('config.json')

  def special(name: str) -> int:
    token = tokens.get(f'{name}_token')
    if isinstance(token, Mapping):
      token = token.get('content')
    found = id_of(token) if token else ids.get(f'{name}_token_id')
    # Llama 3 has several that end a text; the first ends a document.
    found = found[0] if isinstance(found, list) else found
    return -1 if found is None else found

  return Specials(special('bos'), special('eos'))


def check_size(tokenizer: Tokenizer, num_rows: int, weights: str) -> None:
  """Raises ValueError where a tokenizer is not that of some weights.

  Args:
    tokenizer: The one to be used with them.
    num_rows: Rows of their embeddings.
    weights: Their path, for the error.
  """
  size = tokenizer.num_published
  if not tokenizer.num_used <= num_rows <= size + _MAX_SPARE_ROWS:
    raise ValueError(
        f'The tokenizer has {size} tokens and the weights {weights} '
        f'have {num_rows}: VOCABULARY must be the one that they were trained '
        'with.'
    )

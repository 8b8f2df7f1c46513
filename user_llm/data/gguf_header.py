"""What a GGUF file says of itself: metadata, and where its tensors lie.

PyPI's `gguf` reads this too, but makes an array of each of a vocabulary's
strings, which takes ten seconds. It is used for the types and the dequantising.
"""

from collections.abc import Mapping
import functools
import math
import mmap
import pathlib
import struct
from typing import Any, NamedTuple

import gguf
import numpy as np

_VERSIONS = (2, 3)
_FORMATS = {
    gguf.GGUFValueType.UINT8: 'B',
    gguf.GGUFValueType.INT8: 'b',
    gguf.GGUFValueType.UINT16: 'H',
    gguf.GGUFValueType.INT16: 'h',
    gguf.GGUFValueType.UINT32: 'I',
    gguf.GGUFValueType.INT32: 'i',
    gguf.GGUFValueType.FLOAT32: 'f',
    gguf.GGUFValueType.BOOL: '?',
    gguf.GGUFValueType.UINT64: 'Q',
    gguf.GGUFValueType.INT64: 'q',
    gguf.GGUFValueType.FLOAT64: 'd',
}


class Tensor(NamedTuple):
  """Where a tensor lies.

  Attributes:
    shape: As numpy has it, the fastest axis last.
    kind: Type of its numbers or blocks of numbers.
    start: First byte in the file.
    num_bytes: How many.
  """

  shape: tuple[int, ...]
  kind: gguf.GGMLQuantizationType
  start: int
  num_bytes: int


class Header(NamedTuple):
  """See the module's docstring."""

  path: pathlib.Path
  metadata: Mapping[str, Any]
  tensors: Mapping[str, Tensor]

  def read(self, name: str) -> np.ndarray:
    """A whole tensor, f32, dequantised.

    Raises:
      ValueError: its type is one that `gguf` cannot dequantise.
    """
    tensor = self.tensors[name]
    raw = np.memmap(
        self.path, np.uint8, 'r', tensor.start, (tensor.num_bytes,)
    )
    try:
      values = gguf.dequantize(
          raw.reshape(*tensor.shape[:-1], -1), tensor.kind
      )
    except NotImplementedError:
      raise ValueError(
          f'{self.path}: {name} is quantised as {tensor.kind.name}, which '
          'cannot be read. Take another quantisation, such as Q8_0 or Q4_K_M.'
      ) from None
    return np.asarray(values).reshape(tensor.shape)


class _Cursor:
  """Reads one value after the other."""

  def __init__(self, data: mmap.mmap):
    self._data = data
    self.position = 0

  def number(self, fmt: str) -> Any:
    (found,) = struct.unpack_from('<' + fmt, self._data, self.position)
    self.position += struct.calcsize('<' + fmt)
    return found

  def text(self) -> str:
    length = self.number('Q')
    start, self.position = self.position, self.position + length
    if self.position > len(self._data):
      raise ValueError('a text goes on behind the end')
    return self._data[start : self.position].decode('utf-8')

  def value(self, kind: int | None = None) -> Any:
    kind = gguf.GGUFValueType(self.number('I') if kind is None else kind)
    if kind == gguf.GGUFValueType.STRING:
      return self.text()
    if kind != gguf.GGUFValueType.ARRAY:
      return self.number(_FORMATS[kind])
    of, count = self.number('I'), self.number('Q')
    if of == gguf.GGUFValueType.ARRAY:
      raise ValueError('an array of arrays')
    if of in _FORMATS:
      found = np.frombuffer(
          self._data, '<' + _FORMATS[of], count, self.position
      )
      self.position += found.nbytes
      return found.tolist()
    return [self.value(of) for _ in range(count)]


def read(path: pathlib.Path) -> Header:
  """Reads a header.

  Raises:
    ValueError: no GGUF file, only a part of one, or a type that is unknown.
  """
  if not path.is_file():
    raise ValueError(f'{path}: no such file (GGUF).')
  # Weights and tokenizer are opened one by one, and a vocabulary takes seconds.
  return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read(path: pathlib.Path, changed: int) -> Header:
  del changed  # Only a part of the key.
  with path.open('rb') as file:
    if file.read(4) != b'GGUF':
      raise ValueError(f'{path} is no GGUF file.')
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  try:
    metadata, tensors = _parse(data)
  except (struct.error, ValueError, UnicodeDecodeError) as error:
    raise ValueError(
        f'{path} ({len(data)} bytes) cannot be read as GGUF: {error}.'
    ) from None
  end = max((t.start + t.num_bytes for t in tensors.values()), default=0)
  if end > len(data):
    raise ValueError(
        f'{path} has {len(data)} bytes of {end}: the download is incomplete.'
    )
  return Header(path, metadata, tensors)


def _parse(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, Tensor]]:
  cursor = _Cursor(data)
  cursor.position = 4
  version = cursor.number('I')
  if version not in _VERSIONS:
    raise ValueError(f'version {version}, not {_VERSIONS}')
  num_tensors, num_values = cursor.number('Q'), cursor.number('Q')
  metadata = {}
  for _ in range(num_values):
    key = cursor.text()
    metadata[key] = cursor.value()
  described = []
  for _ in range(num_tensors):
    name = cursor.text()
    shape = [cursor.number('Q') for _ in range(cursor.number('I'))]
    kind, offset = cursor.number('I'), cursor.number('Q')
    described.append((name, shape[::-1], kind, offset))
  alignment = metadata.get('general.alignment', 32)
  if type(alignment) is not int or alignment < 1:
    raise ValueError(f'general.alignment is {alignment!r}')
  start = -(-cursor.position // alignment) * alignment
  tensors = {}
  for name, shape, number, offset in described:
    try:
      kind = gguf.GGMLQuantizationType(number)
    except ValueError:
      raise ValueError(f'{name} has the unknown type {number}') from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    size = math.prod(shape) // block * block_bytes
    tensors[name] = Tensor(tuple(shape), kind, start + offset, size)
  return metadata, tensors

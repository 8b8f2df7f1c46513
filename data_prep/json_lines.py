"""Streams the rows of a JSON-lines file, plain or gzip, bad ones put aside.

Files of the wild hold lines of 100 MB, NUL bytes, Latin-1, Python literals,
gzip that breaks off, and names in .gz that are no gzip. Each ends as good rows
or as counted rejects, in bounded memory.
"""

import ast
from collections.abc import Iterator
import dataclasses
import gzip
import io
import pathlib
from typing import Any, BinaryIO
import warnings
import zlib

import msgspec

BREAKS_OFF = 'gzip breaks off'
_MAX_LINE_BYTES = 10 << 20
_BLOCK_BYTES = 16 << 20
_BUFFER_BYTES = 1 << 16
# What a row costs beside its text, or a reject without any.
_ROW_BYTES = 64
_GZIP_MAGIC = b'\x1f\x8b'
_BOM = b'\xef\xbb\xbf'
# Python's parser takes some hundred times the memory of its text.
_MAX_LITERAL_BYTES = 1 << 20


@dataclasses.dataclass(kw_only=True)
class Block:
  """Consecutive rows of a file.

  Attributes:
    rows: The good ones, decoded, and
    lines: their line numbers, from 1.
    rejects: (line number, reason) of the bad ones.
    file_bytes: How much of the file, as it lies there, is read by now.
  """

  rows: list[Any] = dataclasses.field(default_factory=list)
  lines: list[int] = dataclasses.field(default_factory=list)
  rejects: list[tuple[int, str]] = dataclasses.field(default_factory=list)
  file_bytes: int = 0


def is_gzip(path: pathlib.Path) -> bool:
  """By the first bytes; the name may say otherwise."""
  with path.open('rb') as handle:
    return handle.read(2) == _GZIP_MAGIC


def read_blocks(
    path: pathlib.Path,
    row_type: Any,
    *,
    max_line_bytes: int = _MAX_LINE_BYTES,
    block_bytes: int = _BLOCK_BYTES,
) -> Iterator[Block]:
  """Decodes a file; lines of white space are no rows.

  Args:
    path: The file.
    row_type: What msgspec makes of a line. A field that it lacks is skipped
      in the bytes and never becomes an object (except in a Python literal).
    max_line_bytes: A longer line is a reject, and never held in memory.
    block_bytes: Of memory that a block takes, about.

  Yields:
    The rows in file order. Where a gzip breaks off or is damaged, the rows
    before it stay, and the line it broke in is the last reject.
  """
  decode = msgspec.json.Decoder(row_type).decode
  block = Block()
  held_bytes = 0
  with path.open('rb') as handle:
    for number, line in _lines(handle, is_gzip(path), max_line_bytes):
      if held_bytes >= block_bytes:
        block.file_bytes = handle.tell()
        yield block
        block = Block()
        held_bytes = 0
      held_bytes += len(line) + _ROW_BYTES
      if isinstance(line, str):
        block.rejects.append((number, line))
        continue
      try:
        row = decode(line)
      # RecursionError: nested too deeply.
      except (ValueError, RecursionError) as error:
        if not line.strip():
          continue
        row = _salvage(line, error, row_type)
        if isinstance(row, str):
          block.rejects.append((number, row))
          continue
      block.rows.append(row)
      block.lines.append(number)
    block.file_bytes = handle.tell()
    yield block


class _Unzipped(io.RawIOBase):
  """The text of a gzip, up to its last byte before a break.

  A GzipFile under a BufferedReader, or read by itself, would drop what it
  holds when an error comes up.
  """

  def __init__(self, handle: BinaryIO):
    self._gzip = gzip.GzipFile(fileobj=handle)

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    data = self._gzip.read1(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _lines(
    handle: BinaryIO, packed: bool, max_line_bytes: int
) -> Iterator[tuple[int, bytes | str]]:
  """Yields (line number, the line or why it is none)."""
  stream = (
      io.BufferedReader(_Unzipped(handle), _BUFFER_BYTES) if packed else handle
  )
  readline, limit = stream.readline, max_line_bytes + 1
  number = 0
  try:
    while line := readline(limit):
      number += 1
      if len(line) == limit and line[-1] != ord('\n'):
        yield number, f'line longer than {max_line_bytes:,} bytes'
        while (rest := readline(limit)) and rest[-1] != ord('\n'):
          pass
      else:
        yield number, line if number > 1 else line.removeprefix(_BOM)
  except (EOFError, zlib.error, gzip.BadGzipFile):
    yield number + 1, BREAKS_OFF


def _salvage(line: bytes, error: Exception, row_type: Any) -> Any:
  """A row from a line that is no JSON, or the reason why it is none."""
  if isinstance(error, msgspec.ValidationError):
    return str(error)
  if b'\0' in line:
    return 'NUL byte'
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError:
    return 'not UTF-8'
  if text.startswith("{'") and len(line) <= _MAX_LITERAL_BYTES:
    return _from_literal(text, row_type)
  return 'broken JSON'


def _from_literal(text: str, row_type: Any) -> Any:
  try:
    with warnings.catch_warnings():
      # '\/' and the like, which upstream has.
      warnings.simplefilter('ignore')
      row = msgspec.convert(ast.literal_eval(text), row_type)
    # Halves of surrogate pairs, which no JSON that is read can hold.
    msgspec.json.encode(row)
    return row
  except msgspec.ValidationError as error:
    return str(error)
  except UnicodeEncodeError:
    return 'not UTF-8'
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return 'broken Python literal'

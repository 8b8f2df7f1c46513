"""Reads text files of one event a line, putting bad rows aside."""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import pathlib

import polars as pl

from data_prep import progress
from data_prep import raw

# Small enough for a bar that moves, large enough to keep every core busy.
_BLOCK_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedFile:
  """What one source file held.

  Attributes:
    num_rows: Good and bad.
    sha256: Of the file.
    num_bytes: Of the file.
  """

  num_rows: int
  sha256: str
  num_bytes: int

  @property
  def source(self) -> dict[str, str | int]:
    return {'sha256': self.sha256, 'bytes': self.num_bytes}


def decode(data: bytes) -> str:
  """Text of a file that is UTF-8 or, as older sets are, Latin-1."""
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError:
    return data.decode('latin-1')


def read_rows(
    path: pathlib.Path,
    *,
    fields: Sequence[pl.Expr],
    reason: pl.Expr,
    split: Callable[[pl.Expr], pl.Expr],
    write: Callable[[pl.DataFrame], None],
    rejects: raw.Rejects,
    header: str | None = None,
    show_rejects: bool = True,
) -> ParsedFile:
  """Parses a file of events block by block; empty lines are no rows.

  Args:
    path: The file; lines end in LF or CRLF.
    fields: The columns to make, over the fields of `split`.
    reason: Why the row is bad, over the fields and `fields`; null if good.
    split: Makes a struct of string fields from the line.
    write: Takes the good rows of a block: `fields` and line, from 1.
    rejects: Where the bad ones go.
    header: The first line, if there has to be one.
    show_rejects: Whether rejects may show what the row holds.

  Returns:
    What the file was.

  Raises:
    ValueError: The header is another one.
  """
  digest = hashlib.sha256()
  line_number = 0
  num_rows = 0
  num_bytes = path.stat().st_size
  with (
      path.open('rb') as handle,
      progress.stage(f'read {path.name}', total=num_bytes, unit='B') as stage,
  ):
    if header is not None:
      first = handle.readline()
      digest.update(first)
      line_number = 1
      if decode(first).strip() != header:
        raise ValueError(
            f'{path}:1: expected the header {header!r}, found '
            f'{decode(first).strip()[:80]!r}.'
        )
    while block := handle.read(_BLOCK_BYTES):
      block += handle.readline()
      digest.update(block)
      lines = decode(block).removesuffix('\n').split('\n')
      frame = _parse(lines, line_number, fields, reason, split)
      line_number += len(lines)
      num_rows += len(frame)
      is_bad = frame['reason'].is_not_null()
      for line, fault, row in (
          frame.filter(is_bad).select('line', 'reason', 'row').iter_rows()
      ):
        rejects.add(
            'events',
            file=path.name,
            line=line,
            reason=fault,
            row=row if show_rejects else None,
        )
      write(frame.filter(~is_bad).drop('reason', 'row'))
      stage.advance(len(block))
      stage.rows = num_rows
  if not num_rows:
    raise ValueError(f'{path} holds no rows.')
  return ParsedFile(
      num_rows=num_rows,
      sha256=digest.hexdigest(),
      num_bytes=num_bytes,
  )


def _parse(
    lines: list[str],
    lines_before: int,
    fields: Sequence[pl.Expr],
    reason: pl.Expr,
    split: Callable[[pl.Expr], pl.Expr],
) -> pl.DataFrame:
  names = [field.meta.output_name() for field in fields]
  return (
      pl.LazyFrame({'row': lines}, schema={'row': pl.String})
      .with_row_index('line', offset=lines_before + 1)
      .with_columns(pl.col('line').cast(pl.Int64))
      .with_columns(pl.col('row').str.strip_suffix('\r'))
      .filter(pl.col('row').str.strip_chars() != '')
      .with_columns(split(pl.col('row')).alias('split'))
      .unnest('split')
      .with_columns(fields)
      .with_columns(reason.alias('reason'))
      .select(*names, 'line', 'reason', 'row')
      .collect()
  )

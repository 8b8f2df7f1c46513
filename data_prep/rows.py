"""Reads text files of one event a line, putting bad rows aside."""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import pathlib

import polars as pl

from data_prep import progress

# Small enough for a bar that moves, large enough to keep every core busy.
_BLOCK_BYTES = 16 << 20
_SHOWN_REJECTS = 5

REJECT_SCHEMA = {
    'file': pl.String,
    'line': pl.Int64,
    'reason': pl.String,
    'row': pl.String,
}


def no_rejects() -> pl.DataFrame:
  return pl.DataFrame(schema=REJECT_SCHEMA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedFile:
  """What one source file held.

  Attributes:
    rows: The good rows, in file order.
    rejects: The bad ones: file, line (from 1), reason, row.
    num_rows: Good and bad.
    sha256: Of the file.
    num_bytes: Of the file.
  """

  rows: pl.DataFrame
  rejects: pl.DataFrame
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
    header: str | None = None,
) -> ParsedFile:
  """Parses a file block by block; empty lines are no rows.

  Args:
    path: The file; lines end in LF or CRLF.
    fields: The columns to make, over the fields of `split`.
    reason: Why the row is bad, over the fields and `fields`; null if good.
    split: Makes a struct of string fields from the line.
    header: The first line, if there has to be one.

  Returns:
    The good rows with the columns `fields`, and the bad ones.

  Raises:
    ValueError: The header is another one.
  """
  digest = hashlib.sha256()
  good, bad = [], []
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
      if is_bad.any():
        bad.append(
            frame.filter(is_bad).select(
                pl.lit(path.name).alias('file'), 'line', 'reason', 'row'
            )
        )
        frame = frame.filter(~is_bad)
      good.append(frame.drop('line', 'reason', 'row'))
      stage.advance(len(block))
      stage.rows = num_rows
  if not good:
    raise ValueError(f'{path} holds no rows.')
  return ParsedFile(
      rows=pl.concat(good),
      rejects=pl.concat([no_rejects(), *bad]),
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


def check_rejects(parsed: ParsedFile, max_reject_fraction: float) -> None:
  """Raises a ValueError that shows the first rejects if there are too many."""
  rejects = parsed.rejects
  if len(rejects) <= max_reject_fraction * parsed.num_rows:
    return
  counts = ', '.join(f'{n:,} {r}' for r, n in count_rejects(rejects).items())
  first = '; '.join(
      f'{r["file"]}:{r["line"]}: {r["reason"]}: {r["row"][:80]!r}'
      for r in rejects.head(_SHOWN_REJECTS).iter_rows(named=True)
  )
  raise ValueError(
      f'{rejects["file"][0]}: {len(rejects):,} of {parsed.num_rows:,} rows are '
      f'bad ({counts}), more than --max_reject_fraction '
      f'{max_reject_fraction:g} allows. The first: {first}. Mend the file or '
      'raise --max_reject_fraction.'
  )


def count_rejects(rejects: pl.DataFrame) -> dict[str, int]:
  counts = rejects.group_by('reason').len().sort('reason')
  return dict(counts.iter_rows())

"""Streams chosen columns of CSV, Parquet and JSON-lines files.

CSV's and JSON's cells come as text (null for none), Parquet's as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import gzip
import json
import pathlib
from typing import Any
import zlib

import msgspec
import polars as pl

from data_prep import json_lines

_BLOCK_ROWS = 1 << 16
_BLOCK_CHARACTERS = 16 << 20
_MAX_CELL_CHARACTERS = 10 << 20
# A quote that is not closed swallows lines up to the next one, and what comes
# out may look like a row. No text that people write has so many lines.
_MAX_ROW_LINES = 1000
# Stands after each entry of a list that has become text.
LIST_END = '\x1f'
_Cell = str | int | float | bool | list[str | int | float | bool | None] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableBlock:
  """Consecutive rows.

  Attributes:
    rows: `line` (Int64, from 1; of Parquet the row), then a column each key.
    rejects: (line, reason) of rows that could not be read.
  """

  rows: pl.DataFrame
  rejects: Sequence[tuple[int, str]] = ()


def read_table(
    path: pathlib.Path,
    *,
    columns: Mapping[str, str],
    delimiter: str,
    quoting: bool = True,
) -> Iterator[TableBlock]:
  """Reads a file, whose name tells the format, block by block.

  Args:
    path: The file; CSV and JSON may be packed by gzip.
    columns: What a column is called in the result, to its name in the file.
    delimiter: Of CSV.
    quoting: Whether CSV's cells may stand in quotes; else those are text.

  Raises:
    ValueError: The format is unknown, a column is absent, or the file broken.
  """
  name = path.name.lower().removesuffix('.gz')
  if name.endswith('.parquet'):
    yield from _read_parquet(path, columns)
  elif name.endswith(('.jsonl', '.json')):
    yield from _read_json_lines(path, columns)
  elif name.endswith(('.csv', '.tsv')):
    yield from _read_csv(
        path,
        columns,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
    )
  else:
    raise ValueError(
        f'{path}: its format is unknown; the name must end in .csv, .tsv, '
        '.json, .jsonl (each perhaps with .gz) or .parquet.'
    )


def _check_columns(
    path: pathlib.Path,
    columns: Mapping[str, str],
    found: Sequence[str],
    hint: str = '',
) -> None:
  for key, column in columns.items():
    if column not in found:
      raise ValueError(
          f'{path} has no column {column!r}, which is {key} in the '
          f'description; it has {", ".join(map(repr, found[:50]))}.{hint}'
      )


def _read_json_lines(
    path: pathlib.Path, columns: Mapping[str, str]
) -> Iterator[TableBlock]:
  # One column may be two things, an id and a title.
  names = {column: f'c{i}' for i, column in enumerate(set(columns.values()))}
  row_type = msgspec.defstruct(
      'Row',
      [
          (name, _Cell, msgspec.field(name=column, default=None))
          for column, name in names.items()
      ],
  )
  for block in json_lines.read_blocks(path, row_type):
    for line, reason in block.rejects[-1:]:
      if reason == json_lines.BREAKS_OFF:
        raise _breaks_off(path, line)
    cells = {
        key: [_text(getattr(row, names[column])) for row in block.rows]
        for key, column in columns.items()
    }
    yield TableBlock(rows=_frame(block.lines, cells), rejects=block.rejects)


def _frame(
    lines: Sequence[int], cells: Mapping[str, Sequence[str | None]]
) -> pl.DataFrame:
  return pl.DataFrame(
      {'line': lines, **cells},
      schema={'line': pl.Int64, **dict.fromkeys(cells, pl.String)},
  )


def _text(cell: _Cell) -> str | None:
  if cell is None or isinstance(cell, str):
    return cell
  if isinstance(cell, list):
    return ''.join(f'{_text(entry)}{LIST_END}' for entry in cell)
  return str(cell)


def _read_parquet(
    path: pathlib.Path, columns: Mapping[str, str]
) -> Iterator[TableBlock]:
  try:
    table = pl.scan_parquet(path)
    found = table.collect_schema()
  except pl.exceptions.PolarsError as error:
    raise ValueError(f'{path} is no whole Parquet file: {error}.') from error
  _check_columns(path, columns, list(found))
  chosen = [
      _unlisted(pl.col(column), found[column]).alias(key)
      for key, column in columns.items()
  ]
  num_rows = table.select(pl.len()).collect().item()
  for start in range(0, num_rows, _BLOCK_ROWS):
    rows = table.slice(start, _BLOCK_ROWS).select(chosen).collect()
    lines = pl.int_range(start + 1, start + 1 + len(rows), eager=True)
    yield TableBlock(rows=rows.insert_column(0, lines.alias('line')))


def _unlisted(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
  if not isinstance(dtype, pl.List):
    return column
  return column.list.eval(pl.element().cast(pl.String) + LIST_END).list.join('')


def _read_csv(
    path: pathlib.Path, columns: Mapping[str, str], **dialect: Any
) -> Iterator[TableBlock]:
  csv.field_size_limit(_MAX_CELL_CHARACTERS)
  unzip = gzip.open if json_lines.is_gzip(path) else open
  # Bytes that are no UTF-8 come as surrogates, which are found below.
  with unzip(
      path, 'rt', encoding='utf-8-sig', errors='surrogateescape', newline=''
  ) as handle:
    reader = csv.reader(handle, strict=True, **dialect)
    try:
      header = next(reader, [])
      _check_columns(path, columns, header, _delimiter_hint(header))
      yield from _csv_blocks(reader, columns, header)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
      raise _breaks_off(path, reader.line_num) from error
    except csv.Error as error:  # Of other rows, `_rows` tells.
      raise ValueError(f'{path}: its header is broken CSV ({error}).') from None


def _delimiter_hint(header: Sequence[str]) -> str:
  """What to try where a whole header was taken for one name."""
  held = [d for d in ';\t|,' if len(header) == 1 and d in header[0]]
  if not held:
    return ''
  return f' Set delimiter = {json.dumps(held[0])} in that section.'


def _breaks_off(path: pathlib.Path, line: int) -> ValueError:
  return ValueError(
      f'{path}:{line}: the gzip breaks off or is damaged here; make or fetch '
      'the file again.'
  )


def _csv_blocks(
    reader: Any, columns: Mapping[str, str], header: Sequence[str]
) -> Iterator[TableBlock]:
  places = [header.index(column) for column in columns.values()]
  rows, lines, rejects = [], [], []
  num_characters = 0
  for first_line, row in _rows(reader):
    text = row if isinstance(row, str) else ''.join(row)
    if not text:
      continue
    num_characters += len(text)
    line = reader.line_num
    if fault := _fault(row, len(header), line - first_line + 1):
      # It has swallowed rows, how many nobody knows: a reject each line.
      rejects += [(number, fault) for number in range(first_line, line + 1)]
    elif '\0' in text:
      rejects.append((line, 'NUL byte'))
    elif not _is_utf8(text):
      rejects.append((line, 'not UTF-8'))
    else:
      rows.append([row[place] for place in places])
      lines.append(line)
    if len(rows) + len(rejects) >= _BLOCK_ROWS or (
        num_characters >= _BLOCK_CHARACTERS
    ):
      yield _csv_block(columns, rows, lines, rejects)
      rows, lines, rejects = [], [], []
      num_characters = 0
  yield _csv_block(columns, rows, lines, rejects)


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
  """Yields (first line, the row or why it is none)."""
  while True:
    first_line = reader.line_num + 1
    try:
      yield first_line, next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      yield first_line, f'broken CSV: {error}'


def _fault(
    row: list[str] | str, num_columns: int, num_lines: int
) -> str | None:
  """Why a row may begin or end at a wrong place."""
  if isinstance(row, str):
    return row
  if len(row) != num_columns:
    return 'wrong field count'
  if num_lines > _MAX_ROW_LINES:
    return f'broken CSV: row of more than {_MAX_ROW_LINES:,} lines'
  return None


def _csv_block(
    columns: Mapping[str, str],
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    rejects: Sequence[tuple[int, str]],
) -> TableBlock:
  cells = zip(*rows) if rows else [[] for _ in columns]
  return TableBlock(
      rows=_frame(lines, dict(zip(columns, cells))), rejects=rejects
  )


def _is_utf8(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True

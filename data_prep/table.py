"""Any table of events, and perhaps one of items, that a TOML file describes."""

from collections.abc import Callable, Mapping, Sequence
import glob
import pathlib
import re

import polars as pl

from data_prep import items
from data_prep import privacy
from data_prep import progress
from data_prep import raw
from data_prep import table_columns
from data_prep import table_description
from data_prep import table_files
from user_llm.data import manifest as manifest_lib

# Of what is bad in all rows if the description or the file is another.
_MENDS = (
    ('time_unit = ', 'set time_unit in [events]'),
    ('not UTF-8', 'convert it (`iconv -f latin1 -t utf-8`)'),
)


def read(
    *,
    description: str,
    scratch: pathlib.Path,
    user_key: privacy.UserKey,
    name: str | None = None,
    max_reject_fraction: float = 0.01,
) -> raw.RawDataset:
  """Parses what a description describes.

  Args:
    description: Path of the TOML file; see `table_description`.
    scratch: An empty directory for the Parquet files.
    user_key: Hashes the users' ids.
    name: The dataset's, if not that of the description.
    max_reject_fraction: Of bad rows in a file, before it is refused.

  Returns:
    The events and items.

  Raises:
    ValueError: The description or a file does not fit; it names both.
  """
  path = pathlib.Path(description)
  told = table_description.load(path)
  reader = _Reader(path, max_reject_fraction)

  def events(rows: pl.DataFrame) -> pl.DataFrame:
    frame = table_columns.events(rows, told.events)
    return frame.with_columns(user_key.hash_all(frame['user']))

  parts = {kind: scratch / kind for kind in ('events', 'items')}
  for directory in parts.values():
    directory.mkdir()
  reader.read('events', told.events, events, parts['events'])
  label_name = None
  if told.items is not None:
    if told.items.labels is not None:
      label_name = told.items.label_name
    reader.read(
        'items',
        told.items,
        lambda rows: table_columns.items(rows, told.items),
        parts['items'],
    )
  first = items.first_descriptions(
      parts['items'], files=reader.files, rejects=reader.rejects
  )
  features = told.events.features
  return raw.RawDataset(
      name=name or told.name,
      events=parts['events'],
      items=first,
      rejects=reader.rejects,
      num_event_rows=reader.num_rows['events'],
      num_item_rows=reader.num_rows['items'],
      sources=reader.sources,
      item_noun=told.item_noun,
      ticks_per_sec=table_columns.TICKS_PER_SEC,
      label_name=label_name,
      modalities=tuple(
          raw.RawModality(
              name=n, num_buckets=f.buckets if f.kind == 'number' else None
          )
          for n, f in features.items()
          if f.kind != 'text'
      ),
      texts=tuple(n for n, f in features.items() if f.kind == 'text'),
      user_key_id=user_key.id,
  )


class _Reader:
  """Writes files' rows as Parquet parts, and counts what it read.

  Attributes:
    files: Names of the files read, in the order that `seq` counts them.
    rejects: Of all files.
    num_rows: Kind to rows read, good and bad.
    sources: See `raw.RawDataset`.
  """

  def __init__(self, description: pathlib.Path, max_reject_fraction: float):
    self._description = description
    self._max_reject_fraction = max_reject_fraction
    self.files: list[str] = []
    self.rejects = raw.Rejects()
    self.num_rows = {'events': 0, 'items': 0}
    self.sources: dict[str, Mapping[str, str | int]] = {
        description.name: _source(description)
    }

  def read(
      self,
      kind: raw.Kind,
      section: table_description.Events | table_description.Items,
      convert: Callable[[pl.DataFrame], pl.DataFrame],
      parts: pathlib.Path,
  ) -> None:
    """Reads a section's files.

    Args:
      kind: Which section.
      section: It.
      convert: Makes rows with `table_columns.REASON` of what the files hold.
      parts: Where to write the good ones, but for the reason.
    """
    for path in self._find(kind, section.files):
      try:
        num_rows = self._read_file(path, kind, section, convert, parts)
      except pl.exceptions.PolarsError as error:
        raise ValueError(_told(path, section, error)) from error
      self.num_rows[kind] += num_rows
      self.sources[path.name] = _source(path) | {'rows': num_rows}
      self.rejects.check(
          kind,
          file=path.name,
          num_rows=num_rows,
          max_reject_fraction=self._max_reject_fraction,
          mends=_MENDS,
      )

  def _read_file(
      self,
      path: pathlib.Path,
      kind: raw.Kind,
      section: table_description.Events | table_description.Items,
      convert: Callable[[pl.DataFrame], pl.DataFrame],
      parts: pathlib.Path,
  ) -> int:
    """Returns the number of rows, good and bad."""
    index = len(self.files)
    self.files.append(path.name)
    blocks = table_files.read_table(
        path,
        columns=section.columns(),
        delimiter=section.delimiter,
        quoting=section.quoting,
    )
    with progress.stage(f'read {path.name}') as stage:
      for number, block in enumerate(blocks):
        rows = convert(block.rows)
        is_bad = rows[table_columns.REASON].is_not_null()
        bad = rows.filter(is_bad).select('seq', table_columns.REASON)
        for line, reason in sorted([*block.rejects, *bad.iter_rows()]):
          self.rejects.add(kind, file=path.name, line=line, reason=reason)
        good = rows.filter(~is_bad).drop(table_columns.REASON)
        good.with_columns(pl.col('seq') + raw.first_seq(index)).write_parquet(
            parts / f'part-{index:05d}-{number:05d}.parquet'
        )
        stage.rows += len(rows) + len(block.rejects)
        stage.advance(len(rows) + len(block.rejects))
      return stage.rows

  def _find(
      self, kind: raw.Kind, patterns: Sequence[str]
  ) -> list[pathlib.Path]:
    """The files of the patterns, in their order; of one pattern, by name."""
    found = []
    folder = self._description.parent
    for pattern in patterns:
      matches = sorted(glob.glob(pattern, root_dir=folder))
      if not matches:
        raise ValueError(
            f'--description {self._description}: no file beside it matches '
            f'{pattern!r} of `files` in [{kind}].'
        )
      found += [folder / match for match in matches]
    names = [*self.files, *(path.name for path in found)]
    for name in names:
      if names.count(name) > 1:
        raise ValueError(
            f'--description {self._description}: {name} is twice among `files`;'
            ' the manifest knows files by their names.'
        )
    return found


def _told(
    path: pathlib.Path,
    section: table_description.Events | table_description.Items,
    error: pl.exceptions.PolarsError,
) -> str:
  """What Polars cannot do: its first line, and the column if it names one."""
  first, *more = str(error).splitlines()
  found = re.search(r'col\("(.+?)"\)', '\n'.join(more))
  if found is None:
    return f'{path} is damaged, or of types that are not read: {first}.'
  column = section.columns().get(found[1], found[1])
  return f'{path}: the column {column!r} has a type that does not fit: {first}.'


def _source(path: pathlib.Path) -> dict[str, str | int]:
  return {'sha256': manifest_lib.sha256_of(path), 'bytes': path.stat().st_size}

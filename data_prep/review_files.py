"""From files of reviews and of what they are about to stage one's Parquet.

What Amazon's and Google Local's dumps share: JSON lines, of several layouts
told apart by their fields, a file a category or state.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Annotated, Any

import msgspec
import polars as pl

from data_prep import items
from data_prep import json_lines
from data_prep import parallel
from data_prep import privacy
from data_prep import progress
from data_prep import raw
from data_prep import writing

_SUFFIXES = ('.json', '.jsonl', '.json.gz', '.jsonl.gz')
_PROBED_BYTES = 1 << 18
# Below it, starting processes takes longer than the work.
_LEAST_PARALLEL_BYTES = 32 << 20

# Types of the layouts' fields; what does not fit is the reason of a reject.
Id = Annotated[str, msgspec.Meta(min_length=1)]
Stars = Annotated[float, msgspec.Meta(ge=1, le=5)]
# Up to the year 2100: milliseconds for seconds shall not pass.
Secs = Annotated[int, msgspec.Meta(ge=0, lt=4_102_444_800)]
Millisecs = Annotated[int, msgspec.Meta(ge=0, lt=4_102_444_800_000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How a file's lines look.

  Attributes:
    name: For the manifest and messages.
    kind: 'events', or 'items' if lines describe them.
    keys: Fields that tell it from the layouts after it.
    row_type: What a line is decoded to; checks it and drops what is not used.
    columns: Makes columns of decoded rows. Of events: user (as upstream has
      it), item, timestamp, rating and the texts; of items: item, title, labels.
  """

  name: str
  kind: raw.Kind
  keys: frozenset[str]
  row_type: type[msgspec.Struct]
  columns: Callable[[Sequence[Any]], Mapping[str, list[Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
  """What every reader of reviews is told.

  Attributes:
    user_key: Hashes the users' ids.
    max_reject_fraction: Of bad rows in a file, before it is refused.
    allow_truncated: Whether a gzip that breaks off is read up to the break.
  """

  user_key: privacy.UserKey
  max_reject_fraction: float = 0.01
  allow_truncated: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
  path: pathlib.Path
  index: int
  layout: Layout
  schema: Mapping[str, pl.DataType]
  missable: tuple[str, ...]
  directory: pathlib.Path
  user_key: privacy.UserKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Report:
  rejects: raw.Rejects
  source: Mapping[str, str | int]
  broken_line: int | None


def labels(names: Iterable[str]) -> list[str]:
  """Names as labels: one line each, none empty or twice, none with a '|'."""
  clean = (' '.join(name.replace('|', '/').split()) for name in names)
  return list(dict.fromkeys(filter(None, clean)))


def find_files(inputs: Sequence[str]) -> list[pathlib.Path]:
  """The files in the order given; those of a directory by name."""
  files = []
  for given in map(pathlib.Path, inputs):
    if given.is_dir():
      inside = [
          path
          for path in sorted(given.iterdir())
          if path.name.endswith(_SUFFIXES) and path.name[0] not in '._'
      ]
      if not inside:
        raise ValueError(
            f'--input {given} holds no file in {", ".join(_SUFFIXES)}.'
        )
      files += inside
    elif given.is_file():
      files.append(given)
    else:
      raise ValueError(
          f'--input {given} does not exist; give files, or directories of them.'
      )
  names = collections.Counter(path.name for path in files)
  twice = [name for name, count in names.items() if count > 1]
  if twice:
    raise ValueError(
        f'--input has {twice[0]} more than once; the manifest and the rejects '
        'know files by their names: give it once, or rename one.'
    )
  return files


def detect(path: pathlib.Path, layouts: Sequence[Layout]) -> Layout:
  """The first layout whose fields the file's first rows have."""
  keys = sorted(frozenset().union(*(layout.keys for layout in layouts)))
  probe = msgspec.defstruct('Probe', [(k, Any, msgspec.UNSET) for k in keys])
  blocks = json_lines.read_blocks(path, probe, block_bytes=_PROBED_BYTES)
  rows = next(blocks).rows
  blocks.close()
  found = {
      key
      for row in rows
      for key in keys
      if getattr(row, key) is not msgspec.UNSET
  }
  for layout in layouts:
    if layout.keys <= found:
      return layout
  known = '; '.join(
      f'{layout.name}: {", ".join(sorted(layout.keys))}' for layout in layouts
  )
  what = (
      f'has of these fields only {", ".join(sorted(found)) or "none"}'
      if rows
      else 'has no JSON object in its first lines'
  )
  raise ValueError(f'{path} {what}. Looked for: {known}.')


def read(
    *,
    inputs: Sequence[str],
    layouts: Sequence[Layout],
    texts: Sequence[str],
    options: ReadOptions,
    scratch: pathlib.Path,
    **described_as: Any,
) -> raw.RawDataset:
  """Parses files of reviews, and of items if there are any.

  Args:
    inputs: Files and directories.
    layouts: Those that the files may have.
    texts: The reviews' columns of text.
    options: See there.
    scratch: An empty directory for the Parquet files.
    **described_as: Of the `RawDataset`: name, item_noun.

  Returns:
    The reviews, their users hashed, and the items' titles and categories.

  Raises:
    ValueError: A file is absent, unknown, broken off, or has too many rejects.
  """
  files = find_files(inputs)
  events, described = scratch / 'events', scratch / 'items'
  event_columns = {
      **raw.EVENT_COLUMNS, 'rating': pl.Float32, **dict.fromkeys(texts, pl.String)
  }
  jobs = []
  for index, path in enumerate(files):
    layout = detect(path, layouts)
    is_event = layout.kind == 'events'
    jobs.append(
        _Job(
            path=path,
            index=index,
            layout=layout,
            schema=event_columns if is_event else items.COLUMNS,
            missable=tuple(texts) if is_event else ('title', 'labels'),
            directory=events if is_event else described,
            user_key=options.user_key,
        )
    )
  _check_layouts(jobs)
  events.mkdir()
  described.mkdir()
  rejects = raw.Rejects()
  num_rows = collections.Counter()
  sources = {}
  for job, report in zip(jobs, _parse_all(jobs), strict=True):
    _check(job, report, options)
    rejects.merge(report.rejects)
    num_rows[job.layout.kind] += report.source['rows']
    sources[job.path.name] = report.source
  with progress.stage('one row an item') as stage:
    stage.rows = num_rows['items']
    first = items.first_descriptions(
        described, files=[path.name for path in files], rejects=rejects
    )
  return raw.RawDataset(
      events=events,
      items=first,
      rejects=rejects,
      num_event_rows=num_rows['events'],
      num_item_rows=num_rows['items'],
      sources=sources,
      label_name='category' if num_rows['items'] else None,
      texts=tuple(texts),
      user_key_id=options.user_key.id,
      **described_as,
  )


def _check_layouts(jobs: Sequence[_Job]) -> None:
  of_events = {
      job.layout.name: job.path
      for job in jobs
      if job.layout.kind == 'events'
  }
  if not of_events:
    raise ValueError(
        f'--input has no file of reviews: {jobs[0].path.name} has '
        f'{jobs[0].layout.name}.'
    )
  if len(of_events) > 1:
    told = ', '.join(f'{p.name} has {name}' for name, p in of_events.items())
    raise ValueError(
        f'--input mixes layouts whose ids do not agree ({told}); prepare a '
        'dataset of each.'
    )


def _parse_all(jobs: Sequence[_Job]) -> Iterator[_Report]:
  total_bytes = sum(job.path.stat().st_size for job in jobs)
  with progress.stage('parse', total=total_bytes, unit='B') as stage:
    for report in parallel.map_files(
        _parse,
        jobs,
        advance=stage.advance,
        processes=1 if total_bytes < _LEAST_PARALLEL_BYTES else None,
    ):
      stage.rows += report.source['rows']
      yield report


def _parse(job: _Job, advance: Callable[[int], None]) -> _Report:
  """Writes a file's good rows as `part-<file>-<block>.parquet`."""
  rejects = raw.Rejects()
  counts = collections.Counter()
  broken_line = None
  done_bytes = 0
  blocks = json_lines.read_blocks(job.path, job.layout.row_type)
  for number, block in enumerate(blocks):
    frame = _frame(job, block)
    if len(frame):
      frame.write_parquet(
          job.directory / f'part-{job.index:05d}-{number:05d}.parquet',
          compression='zstd',
          compression_level=1,
      )
    for line, reason in block.rejects:
      rejects.add(job.layout.kind, file=job.path.name, line=line, reason=reason)
      if reason == json_lines.BREAKS_OFF:
        broken_line = line
    counts['rows'] += len(block.rows) + len(block.rejects)
    for column in job.missable:
      counts[f'rows_without_{column}'] += (frame[column] == '').sum()
    advance(block.file_bytes - done_bytes)
    done_bytes = block.file_bytes
  source = {
      'sha256': writing.sha256_of(job.path),
      'bytes': job.path.stat().st_size,
      'layout': job.layout.name,
      **counts,
  }
  if job.path.suffix == '.gz' and not json_lines.is_gzip(job.path):
    source['note'] = 'not gzip, in spite of its name'
  return _Report(rejects=rejects, source=source, broken_line=broken_line)


def _frame(job: _Job, block: json_lines.Block) -> pl.DataFrame:
  first_seq = raw.first_seq(job.index)
  columns = {
      'seq': [first_seq + line for line in block.lines],
      **job.layout.columns(block.rows),
  }
  frame = pl.DataFrame(columns, schema=job.schema).with_columns(
      pl.col(job.missable).str.replace_all('\0', '', literal=True)
  )
  if 'user' not in job.schema:
    return frame
  return frame.with_columns(job.user_key.hash_all(frame['user']))


def _check(job: _Job, report: _Report, options: ReadOptions) -> None:
  if report.broken_line is not None and not options.allow_truncated:
    raise ValueError(
        f'{job.path}:{report.broken_line}: the gzip breaks off or is damaged '
        'here. Fetch the file again, or give --allow_truncated to use the rows '
        'before the break.'
    )
  report.rejects.check(
      job.layout.kind,
      file=job.path.name,
      num_rows=report.source['rows'],
      max_reject_fraction=options.max_reject_fraction,
  )

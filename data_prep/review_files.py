"""From files of reviews and of what they are about to stage one's Parquet.

What Amazon's and Google Local's dumps share: JSON lines, of several layouts
told apart by their fields, a file a category or state.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import polars as pl

from data_prep import items
from data_prep import json_lines
from data_prep import parallel
from data_prep import privacy
from data_prep import progress
from data_prep import raw
from data_prep import review_layouts
from user_llm.data import manifest as manifest_lib

# Below it, starting processes takes longer than the work.
_LEAST_PARALLEL_BYTES = 32 << 20


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
  layout: review_layouts.Layout
  schema: Mapping[str, pl.DataType]
  missable: tuple[str, ...]
  directory: pathlib.Path
  user_key: privacy.UserKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Report:
  rejects: raw.Rejects
  source: Mapping[str, str | int]
  broken_line: int | None


def read(
    *,
    inputs: Sequence[str],
    layouts: Sequence[review_layouts.Layout],
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
  files = review_layouts.find_files(inputs)
  jobs = _jobs(files, layouts, texts, options.user_key, scratch)
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
        scratch / 'items', files=[path.name for path in files], rejects=rejects
    )
  return raw.RawDataset(
      events=scratch / 'events',
      items=first,
      rejects=rejects,
      num_event_rows=num_rows['events'],
      num_item_rows=num_rows['items'],
      sources=sources,
      ticks_per_sec=next(
          job.layout.ticks_per_sec
          for job in jobs
          if job.layout.kind == 'events'
      ),
      label_name='category' if num_rows['items'] else None,
      texts=tuple(texts),
      user_key_id=options.user_key.id,
      **described_as,
  )


def _jobs(
    files: Sequence[pathlib.Path],
    layouts: Sequence[review_layouts.Layout],
    texts: Sequence[str],
    user_key: privacy.UserKey,
    scratch: pathlib.Path,
) -> list[_Job]:
  columns = {
      'events': {
          **raw.EVENT_COLUMNS,
          'rating': pl.Float32,
          **dict.fromkeys(texts, pl.String),
      },
      'items': items.COLUMNS,
  }
  for kind in columns:
    (scratch / kind).mkdir()
  jobs = []
  for index, path in enumerate(files):
    layout = review_layouts.detect(path, layouts)
    jobs.append(
        _Job(
            path=path,
            index=index,
            layout=layout,
            schema=columns[layout.kind],
            missable=(
                tuple(texts) if layout.kind == 'events' else ('title', 'labels')
            ),
            directory=scratch / layout.kind,
            user_key=user_key,
        )
    )
  _check_layouts(jobs)
  return jobs


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
      'sha256': manifest_lib.sha256_of(job.path),
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

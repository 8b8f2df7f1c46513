"""Tiny sources: MovieLens in its layouts, and raw datasets of a few rows."""

from collections.abc import Sequence
import hashlib
import pathlib
import tempfile
from typing import Any

RATINGS = (
    # user, movie, rating, time; the last two of user 7 at one time.
    (10, 31, 2.5, 500),
    (10, 1, 3.0, 400),
    (10, 2, 4.0, 600),
    (7, 2, 5.0, 90),
    (7, 31, 0.5, 80),
    (7, 1, 3.5, 90),
    (7, 9, 3.0, 85),
)
MOVIES = (
    (1, 'Toy Story (1995)', ('Animation', 'Comedy')),
    (2, 'Il "postino", The (1994)', ('Drama',)),
    (9, 'Amélie (2001)', ('Comedy',)),
    (31, 'Heat (1995)', ('Drama',)),
    (40, 'Unrated (1999)', ('War',)),
)


def _csv_title(title: str) -> str:
  if ',' not in title and '"' not in title:
    return title
  doubled = title.replace('"', '""')
  return f'"{doubled}"'


def _write(path: pathlib.Path, lines, encoding='utf-8', newline='\n'):
  text = ''.join(line + newline for line in lines)
  path.write_bytes(text.encode(encoding))


def _write_csv(directory: pathlib.Path, newline: str) -> None:
  _write(
      directory / 'ratings.csv',
      ['userId,movieId,rating,timestamp']
      + [f'{u},{i},{r},{t}' for u, i, r, t in RATINGS],
      newline=newline,
  )
  _write(
      directory / 'movies.csv',
      ['movieId,title,genres']
      + [f'{i},{_csv_title(t)},{"|".join(g)}' for i, t, g in MOVIES],
      newline=newline,
  )


def _write_dat(directory: pathlib.Path, encoding: str, beside: str) -> None:
  _write(
      directory / 'ratings.dat',
      [f'{u}::{i}::{r:g}::{t}' for u, i, r, t in RATINGS],
  )
  _write(
      directory / 'movies.dat',
      [f'{i}::{t}::{"|".join(g)}' for i, t, g in MOVIES],
      encoding,
  )
  _write(directory / beside, ['1'])


def _write_100k(directory: pathlib.Path) -> None:
  genres = ('unknown', 'Animation', 'Comedy', 'Drama', 'War')
  _write(
      directory / 'u.data',
      [f'{u}\t{i}\t{r:g}\t{t}' for u, i, r, t in RATINGS],
  )
  _write(
      directory / 'u.item',
      [
          f'{i}|{t}|01-Jan-1995||http://x|'
          + '|'.join(str(int(name in g)) for name in genres)
          for i, t, g in MOVIES
      ],
      'latin-1',
  )
  _write(
      directory / 'u.genre',
      [f'{name}|{i}' for i, name in enumerate(genres)] + [''],
  )


LAYOUTS = {
    '100k': _write_100k,
    '1m': lambda directory: _write_dat(directory, 'latin-1', 'users.dat'),
    '10m': lambda directory: _write_dat(directory, 'utf-8', 'tags.dat'),
    'csv': lambda directory: _write_csv(directory, '\n'),
    'csv_crlf': lambda directory: _write_csv(directory, '\r\n'),
}


def make_raw(
    tmp_path: pathlib.Path,
    rows: Sequence[tuple],
    columns: Sequence[str] = ('user', 'item', 'timestamp'),
    items: Sequence[tuple[str, str, str]] = (),
    **described_as: Any,
) -> Any:
  """A `RawDataset` of these events and (item, title, labels)."""
  from data_prep import raw
  import polars as pl

  schema = {
      name: raw.EVENT_COLUMNS.get(name, pl.Float32)
      if not rows or not isinstance(rows[0][i], str)
      else pl.String
      for i, name in enumerate(columns)
  }
  directory = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  parts = raw.EventParts(directory / 'events')
  events = pl.DataFrame(rows, schema=schema, orient='row')
  events = events.with_row_index('seq', offset=1)
  events = events.with_columns(pl.col('seq').cast(pl.Int64))
  for start in range(0, len(events), 3):
    parts.write(events[start : start + 3])
  pl.DataFrame(
      items,
      schema=dict.fromkeys(('item', 'title', 'labels'), pl.String),
      orient='row',
  ).write_parquet(directory / 'items.parquet')
  return raw.RawDataset(**{
      'name': 'toy',
      'events': directory / 'events',
      'items': directory / 'items.parquet',
      'rejects': raw.Rejects(),
      'num_event_rows': len(rows),
      'num_item_rows': len(items),
      'sources': {},
      **described_as,
  })


def encode(raw: Any, tmp_path: pathlib.Path, config: Any = None) -> Any:
  """The encoded dataset, and the steps of its cleaning."""
  from data_prep import cleaning
  from data_prep import engine
  from data_prep import tables

  scratch = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  config = config or cleaning.CleaningConfig()
  with tables.Tables(raw, scratch=scratch, memory_gib=0.5) as source:
    return engine.clean_and_encode(raw, source, config)


def digests(directory: pathlib.Path) -> dict[str, str]:
  """SHA-256 of each file."""
  return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in directory.iterdir()
      if path.is_file()
  }

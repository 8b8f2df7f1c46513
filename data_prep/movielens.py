"""MovieLens in every layout that GroupLens has published it in.

100k: u.data (tabs), u.item (pipes, Latin-1); 1m and 10m: ratings.dat and
movies.dat ('::', Latin-1 or UTF-8); from latest-small to 32m: ratings.csv and
movies.csv. See the READMEs at https://files.grouplens.org/datasets/movielens/.
"""

from collections.abc import Iterator
import csv
import io
import pathlib
import re

import polars as pl

from data_prep import privacy
from data_prep import raw
from data_prep import rows
from data_prep import sources
from user_llm.data import manifest as manifest_lib

# The first file is what tells a layout with a missing file from another one.
LAYOUTS = {
    '100k': ('u.data', 'u.item', 'u.genre'),
    'dat': ('ratings.dat', 'movies.dat'),
    'csv': ('ratings.csv', 'movies.csv'),
}
_SEPARATORS = {'100k': '\t', 'dat': '::', 'csv': ','}
_RATINGS_HEADER = 'userId,movieId,rating,timestamp'
_MOVIES_HEADER = ['movieId', 'title', 'genres']
_NO_GENRE = '(no genres listed)'
# id, title, two dates, URL; then a flag a genre.
_FIELDS_BEFORE_FLAGS = 5
_NAME_PATTERN = re.compile(
    r'ml-(100k|1m|10m|20m|25m|32m|latest-small|latest)', re.IGNORECASE
)


def read(
    *,
    path: str,
    scratch: pathlib.Path,
    name: str | None = None,
    max_reject_fraction: float = 0.01,
    user_key: privacy.UserKey | None = None,
) -> raw.RawDataset:
  """Parses a MovieLens directory or zip.

  Args:
    path: The directory, one that holds it, or a zip of either.
    scratch: An empty directory for the Parquet files.
    name: The dataset's name; by default from the directory's, as
      movielens_100k, or from what tells 1m and 10m apart.
    max_reject_fraction: Of bad rows in a file, before it is refused.
    user_key: Hashes the users; they are pseudonyms already.

  Returns:
    The ratings, in file order, and the movies.

  Raises:
    ValueError: The input is missing, unknown or damaged.
  """
  rejects = raw.Rejects()
  events = raw.EventParts(scratch / 'events')
  with sources.open_source(path, LAYOUTS, scratch=scratch) as found:
    layout, folder, files, beside = found
    ratings_file, movies_file = LAYOUTS[layout][:2]
    if layout == '100k':
      genre_names = _read_genre_names(files['u.genre'])
      movie_rows = _pipe_movies(files[movies_file], genre_names)
    elif layout == 'dat':
      movie_rows = _dat_movies(files[movies_file])
    else:
      movie_rows = _csv_movies(files[movies_file])
    movies, num_item_rows = _read_movies(
        files[movies_file], movie_rows, rejects
    )
    rejects.check(
        'items',
        file=movies_file,
        num_rows=num_item_rows,
        max_reject_fraction=max_reject_fraction,
    )
    ratings = _read_ratings(
        files[ratings_file], layout, movies['item'], events, rejects, user_key
    )
    rejects.check(
        'events',
        file=ratings_file,
        num_rows=ratings.num_rows,
        max_reject_fraction=max_reject_fraction,
    )
    described = {ratings_file: ratings.source}
    for other in (movies_file, *LAYOUTS[layout][2:]):
      described[other] = {
          'sha256': manifest_lib.sha256_of(files[other]),
          'bytes': files[other].stat().st_size,
      }
  items = scratch / 'items.parquet'
  movies.with_columns(pl.col('item').cast(pl.String)).write_parquet(items)
  return raw.RawDataset(
      name=name or _dataset_name(layout, folder, pathlib.Path(path), beside),
      events=scratch / 'events',
      items=items,
      rejects=rejects,
      num_event_rows=ratings.num_rows,
      num_item_rows=num_item_rows,
      sources=described,
      item_noun='film',
      label_name='genre',
      user_key_id=user_key and user_key.id,
  )


def _dataset_name(
    layout: str, folder: str, path: pathlib.Path, beside: frozenset[str]
) -> str:
  for text in (folder, path.stem):
    if match := _NAME_PATTERN.match(text):
      return 'movielens_' + match[1].lower().replace('-', '_')
  if layout == '100k':
    return 'movielens_100k'
  # Only 1m describes its users, only 10m has tags.
  if 'users.dat' in beside:
    return 'movielens_1m'
  if 'tags.dat' in beside:
    return 'movielens_10m'
  return 'movielens'


def _read_ratings(
    path: pathlib.Path,
    layout: str,
    known_items: pl.Series,
    events: raw.EventParts,
    rejects: raw.Rejects,
    user_key: privacy.UserKey | None,
) -> rows.ParsedFile:
  separator = _SEPARATORS[layout]
  user, item, rating, timestamp = map(
      pl.col, ('user', 'item', 'rating', 'timestamp')
  )
  checks = (
      (
          pl.col('field_3').is_null() | pl.col('field_4').is_not_null(),
          'wrong field count',
      ),
      (user.is_null() | (user < 0), 'unparsable user id'),
      (item.is_null() | (item < 0), 'unparsable movie id'),
      (rating.is_null() | rating.is_nan(), 'non-numeric rating'),
      (
          ~(rating.is_between(0.5, 5) & ((rating * 2) % 1 == 0)),
          'rating out of range',
      ),
      (timestamp.is_null(), 'unparsable time'),
      (timestamp < 0, 'negative time'),
      (~item.is_in(known_items.implode()), 'unknown movie'),
  )

  def write(block: pl.DataFrame) -> None:
    block = block.with_columns(pl.col('user', 'item').cast(pl.String))
    if user_key is not None:
      block = block.with_columns(user_key.hash_all(block['user']))
    events.write(block.rename({'line': 'seq'}))

  return rows.read_rows(
      path,
      write=write,
      rejects=rejects,
      show_rejects=user_key is None,
      header=_RATINGS_HEADER if layout == 'csv' else None,
      split=lambda line: line.str.split_exact(separator, 4),
      fields=[
          pl.col(f'field_{i}').cast(dtype, strict=False).alias(field)
          for i, (field, dtype) in enumerate((
              ('user', pl.Int64),
              ('item', pl.Int64),
              ('rating', pl.Float32),
              ('timestamp', pl.Int64),
          ))
      ],
      reason=pl.coalesce(
          pl.when(check).then(pl.lit(text)) for check, text in checks
      ),
  )


# What the layouts' readers yield: line, the row as it is, and its fields
# (id, title, genres) or None if they cannot be told apart.
_MovieRows = Iterator[tuple[int, str, tuple[str, str, str] | None]]


def _read_movies(
    path: pathlib.Path, movie_rows: _MovieRows, rejects: raw.Rejects
) -> tuple[pl.DataFrame, int]:
  """The movies (item Int64, title, labels), and how many rows were read."""
  items: dict[int, tuple[str, str]] = {}
  num_rows = 0
  for line, row, fields in movie_rows:
    num_rows += 1
    reason = None
    if fields is None:
      reason = 'wrong field count'
    elif not re.fullmatch(r'\d{1,18}', fields[0], re.ASCII):
      reason = 'unparsable movie id'
    elif int(fields[0]) in items:
      reason = 'movie listed twice'
    elif not fields[1].strip():
      reason = 'no title'
    if reason is not None:
      rejects.add('items', file=path.name, line=line, reason=reason, row=row)
      continue
    movie, title, genres = fields
    items[int(movie)] = (' '.join(title.split()), genres.strip() or _NO_GENRE)
  if not num_rows:
    raise ValueError(f'{path} holds no movies.')
  movies = pl.DataFrame(
      [(movie, *rest) for movie, rest in items.items()],
      schema={'item': pl.Int64, 'title': pl.String, 'labels': pl.String},
      orient='row',
  )
  return movies, num_rows


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  text = rows.decode(path.read_bytes())
  for number, line in enumerate(text.split('\n'), start=1):
    if line.strip():
      yield number, line.removesuffix('\r')


def _dat_movies(path: pathlib.Path) -> _MovieRows:
  for number, line in _lines(path):
    movie, _, rest = line.partition('::')
    title, separator, genres = rest.rpartition('::')
    yield number, line, (movie, title, genres) if separator else None


def _pipe_movies(path: pathlib.Path, genre_names: list[str]) -> _MovieRows:
  for number, line in _lines(path):
    fields = line.split('|')
    flags = fields[_FIELDS_BEFORE_FLAGS:]
    if len(flags) != len(genre_names) or not set(flags) <= {'0', '1'}:
      yield number, line, None
      continue
    genres = [name for name, flag in zip(genre_names, flags) if flag == '1']
    yield number, line, (fields[0], fields[1], '|'.join(genres))


def _read_genre_names(path: pathlib.Path) -> list[str]:
  """`Comedy|5` a line; the number is the flag's place."""
  numbered = {}
  for number, line in _lines(path):
    name, _, index = line.strip().partition('|')
    if not index.isdecimal():
      raise ValueError(f'{path}:{number}: expected `genre|number`: {line!r}.')
    numbered[int(index)] = name
  if not numbered or sorted(numbered) != list(range(len(numbered))):
    raise ValueError(f'{path}: the genres are not numbered 0, 1, 2, ...')
  return [numbered[i] for i in range(len(numbered))]


def _csv_movies(path: pathlib.Path) -> _MovieRows:
  text = rows.decode(path.read_bytes())
  lines = re.split('\r\n|\r|\n', text)  # As the reader counts them.
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  try:
    header = next(reader, [])
    if header != _MOVIES_HEADER:
      raise ValueError(
          f'{path}:1: expected the header {",".join(_MOVIES_HEADER)!r}, found '
          f'{",".join(header)[:80]!r}.'
      )
    for fields in reader:
      row = lines[reader.line_num - 1]
      if fields:
        yield reader.line_num, row, tuple(fields) if len(fields) == 3 else None
  except csv.Error as error:
    raise ValueError(
        f'{path}:{reader.line_num}: {error}; is a quoted title not closed?'
    ) from error

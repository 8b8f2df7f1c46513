"""One row an item, of many descriptions."""

from collections.abc import Sequence
import pathlib

import duckdb
import polars as pl

from data_prep import raw

COLUMNS = {
    'seq': pl.Int64,
    'item': pl.String,
    'title': pl.String,
    'labels': pl.String,
}
TWICE = 'item described before'
_MEMORY = '2GB'
_FETCHED_ROWS = 10_000


def first_descriptions(
    parts: pathlib.Path, *, files: Sequence[str], rejects: raw.Rejects
) -> pathlib.Path:
  """Writes the first description of each item; later ones are rejects.

  Args:
    parts: A directory of Parquet files with `COLUMNS`; '' for no title or no
      label. `seq` is as that of events.
    files: The names of the files that `seq` counts.
    rejects: Where the later descriptions go.

  Returns:
    A Parquet file beside `parts`: item, title (the id where there is none) and
    labels, in the order of the ids.
  """
  target = parts.with_suffix('.parquet')
  if not any(parts.iterdir()):
    pl.DataFrame(schema=COLUMNS).drop('seq').write_parquet(target)
    return target
  config = {'memory_limit': _MEMORY, 'temp_directory': str(parts / 'spilled')}
  with duckdb.connect(config=config) as db:
    db.read_parquet(str(parts / '*.parquet')).create_view('lines')
    db.sql('SELECT min(seq) AS seq FROM lines GROUP BY item').create('firsts')
    db.sql(
        "SELECT item, if(title = '', item, title) AS title, labels "
        'FROM lines SEMI JOIN firsts USING (seq) ORDER BY item'
    ).write_parquet(str(target), compression='zstd')
    later = db.execute(
        'SELECT seq FROM lines ANTI JOIN firsts USING (seq) ORDER BY seq'
    )
    while rows := later.fetchmany(_FETCHED_ROWS):
      for (seq,) in rows:
        file, line = divmod(seq, raw.first_seq(1))
        rejects.add('items', file=files[file], line=line, reason=TWICE)
  return target

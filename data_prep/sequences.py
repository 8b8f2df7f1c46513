"""SASRec's published layout: one `user item` pair a line, in order of time.

Upstream: https://github.com/kang205/SASRec, `data/*.txt`.
"""

import pathlib

import polars as pl

from data_prep import common
from data_prep import rows

_FIELDS = ('user', 'item')


def read(
    *, path: str, name: str, max_reject_fraction: float
) -> common.RawDataset:
  """Parses a file of pairs.

  An item's title is `Item <id>`; an event's timestamp is its place in the
  user's history, from 0.

  Args:
    path: The file.
    name: The dataset's name.
    max_reject_fraction: Of bad rows, before the file is refused.

  Returns:
    The pairs, in file order.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(
        f'--input {file} is no file; it must be a text of one `user item` pair '
        'a line.'
    )
  parsed = rows.read_rows(
      file,
      split=lambda line: line.str.strip_chars()
      .str.replace_all(r'\s+', ' ')
      .str.split_exact(' ', 2),
      fields=[
          pl.col('field_0').alias('user'),
          pl.col('field_1').alias('item'),
      ],
      reason=pl.when(
          pl.col('field_1').is_null() | pl.col('field_2').is_not_null()
      ).then(pl.lit('wrong field count')),
  )
  rows.check_rejects(parsed, max_reject_fraction)
  user, item = common.natural_ids(*(parsed.rows[field] for field in _FIELDS))
  events = pl.DataFrame({'user': user, 'item': item}).with_columns(
      timestamp=pl.int_range(pl.len()).over('user')
  )
  items = events.select(pl.col('item').unique()).with_columns(
      title=pl.format('Item {}', 'item')
  )
  return common.RawDataset(
      name=name,
      events=events,
      items=items,
      rejects=parsed.rejects,
      sources={file.name: parsed.source},
  )

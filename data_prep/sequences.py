"""SASRec's published layout: one `user item` pair a line, in order of time.

Upstream: https://github.com/kang205/SASRec, `data/*.txt`.
"""

import pathlib

import polars as pl

from data_prep import privacy
from data_prep import raw
from data_prep import rows


def read(
    *,
    path: str,
    scratch: pathlib.Path,
    name: str,
    max_reject_fraction: float,
    user_key: privacy.UserKey | None = None,
) -> raw.RawDataset:
  """Parses a file of pairs.

  An item's title is `Item <id>`; an event's timestamp is its place in the
  user's history, from 0.

  Args:
    path: The file.
    scratch: An empty directory for the Parquet files.
    name: The dataset's name.
    max_reject_fraction: Of bad rows, before the file is refused.
    user_key: Hashes the users.

  Returns:
    The pairs, in file order.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise ValueError(
        f'--input {file} is no file; it must be a text of one `user item` pair '
        'a line.'
    )
  rejects = raw.Rejects()
  blocks: list[pl.DataFrame] = []
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
      write=blocks.append,
      rejects=rejects,
      show_rejects=user_key is None,
  )
  rejects.check(
      'events',
      file=file.name,
      num_rows=parsed.num_rows,
      max_reject_fraction=max_reject_fraction,
  )
  events = pl.concat(blocks).rename({'line': 'seq'})
  if user_key is not None:
    events = events.with_columns(user_key.hash_all(events['user']))
  raw.EventParts(scratch / 'events').write(
      events.with_columns(timestamp=pl.int_range(pl.len()).over('user'))
  )
  items = scratch / 'items.parquet'
  events.select(pl.col('item').unique(maintain_order=True)).with_columns(
      title=pl.format('Item {}', 'item')
  ).write_parquet(items)
  return raw.RawDataset(
      name=name,
      events=scratch / 'events',
      items=items,
      rejects=rejects,
      num_event_rows=parsed.num_rows,
      num_item_rows=0,
      has_times=False,
      sources={file.name: parsed.source},
      user_key_id=user_key and user_key.id,
  )

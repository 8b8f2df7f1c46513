"""Google Local's reviews of places, 2021, by state.

review-<State>.json.gz and meta-<State>.json.gz; times in ms; user ids have 21
digits, more than an integer or float holds, and stay strings. One user may
have reviews in several states. See
https://datarepo.eng.ucsd.edu/mcauley_group/gdrive/googlelocal/.
"""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

import msgspec

from data_prep import raw
from data_prep import review_files
from data_prep import review_layouts

TEXTS = ('review',)


class _Review(msgspec.Struct, gc=False):
  user: review_layouts.Id = msgspec.field(name='user_id')
  item: review_layouts.Id = msgspec.field(name='gmap_id')
  rating: review_layouts.Stars
  time: review_layouts.Millisecs
  review: str | None = msgspec.field(name='text', default=None)


class _Place(msgspec.Struct):
  item: review_layouts.Id = msgspec.field(name='gmap_id')
  title: str | None = msgspec.field(name='name', default=None)
  category: list[str] | None = None


def read(
    *,
    inputs: Sequence[str],
    name: str,
    scratch: pathlib.Path,
    options: review_files.ReadOptions,
    max_categories: int = 1,
) -> raw.RawDataset:
  """Parses reviews of one or several states, and metadata if given.

  Args:
    inputs: Files, or directories of them; each is known by its content.
    name: The dataset's.
    scratch: An empty directory for the Parquet files.
    options: See `review_files.ReadOptions`.
    max_categories: How many of a place's categories are used; the first is the
      main one.

  Returns:
    The reviews and the places.
  """
  if max_categories < 1:
    raise ValueError(
        f'--max_categories must be at least 1, got {max_categories}.'
    )
  layouts = (
      review_layouts.Layout(
          name='2021 reviews',
          kind='events',
          keys=frozenset({'user_id', 'gmap_id', 'rating', 'time'}),
          row_type=_Review,
          columns=_event_columns,
          ticks_per_sec=1000,
      ),
      review_layouts.Layout(
          name='2021 metadata',
          kind='items',
          keys=frozenset({'gmap_id', 'name'}),
          row_type=_Place,
          columns=functools.partial(
              _item_columns, max_categories=max_categories
          ),
      ),
  )
  return review_files.read(
      inputs=inputs,
      layouts=layouts,
      texts=TEXTS,
      options=options,
      scratch=scratch,
      name=name,
      item_noun='place',
  )


def _event_columns(rows: Sequence[_Review]) -> dict[str, list[Any]]:
  return {
      'user': [row.user for row in rows],
      'item': [row.item for row in rows],
      'timestamp': [row.time for row in rows],
      'rating': [row.rating for row in rows],
      'review': [(row.review or '').strip() for row in rows],
  }


def _item_columns(
    rows: Sequence[_Place], *, max_categories: int
) -> dict[str, list[Any]]:
  return {
      'item': [row.item for row in rows],
      'title': [' '.join((row.title or '').split()) for row in rows],
      'labels': [
          '|'.join(review_layouts.labels(row.category or ())[:max_categories])
          for row in rows
      ],
  }

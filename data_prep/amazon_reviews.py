"""Amazon's product reviews of 2014, 2018 and 2023, by category.

2014: reviews_*.json.gz and meta_*.json.gz, the latter (and some of the former)
Python literals. 2018: *_5.json.gz or *.json.gz, meta_*.json.gz. 2023:
*.jsonl.gz, meta_*.jsonl.gz, times in ms; items are `parent_asin`, as in its
metadata. See https://amazon-reviews-2023.github.io and
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/.
"""

from collections.abc import Sequence
import functools
import html
import pathlib
import re
from typing import Any

import msgspec

from data_prep import raw
from data_prep import review_files
from data_prep import review_layouts

TEXTS = ('summary', 'review')
_BREAK = re.compile(r'<br ?/?>')


class _Review2018(msgspec.Struct, gc=False):
  user: review_layouts.Id = msgspec.field(name='reviewerID')
  item: review_layouts.Id = msgspec.field(name='asin')
  rating: review_layouts.Stars = msgspec.field(name='overall')
  time: review_layouts.Secs = msgspec.field(name='unixReviewTime')
  summary: str | None = None
  review: str | None = msgspec.field(name='reviewText', default=None)


class _Review2023(msgspec.Struct, gc=False):
  user: review_layouts.Id = msgspec.field(name='user_id')
  item: review_layouts.Id = msgspec.field(name='parent_asin')
  rating: review_layouts.Stars
  time: review_layouts.Millisecs = msgspec.field(name='timestamp')
  summary: str | None = msgspec.field(name='title', default=None)
  review: str | None = msgspec.field(name='text', default=None)


class _Item2018(msgspec.Struct):
  """2014 has `categories`, of several paths; 2018 `category`, of one."""

  item: review_layouts.Id = msgspec.field(name='asin')
  title: str | None = None
  categories: list[list[str]] | None = None
  category: list[str] | None = None
  main: str | None = msgspec.field(name='main_cat', default=None)

  def paths(self) -> list[list[str]]:
    return self.categories or [self.category or []]


class _Item2023(msgspec.Struct):
  item: review_layouts.Id = msgspec.field(name='parent_asin')
  title: str | None = None
  categories: list[str] | None = None
  main: str | None = msgspec.field(name='main_category', default=None)

  def paths(self) -> list[list[str]]:
    return [self.categories or []]


def read(
    *,
    inputs: Sequence[str],
    name: str,
    scratch: pathlib.Path,
    options: review_files.ReadOptions,
    category_depth: int = 2,
) -> raw.RawDataset:
  """Parses reviews of one or several categories, and metadata if given.

  Args:
    inputs: Files, or directories of them; each is known by its content.
    name: The dataset's.
    scratch: An empty directory for the Parquet files.
    options: See `review_files.ReadOptions`.
    category_depth: Which part of the path 'Books > Science > Physics' is an
      item's category, from 1; the last one of a shorter path.

  Returns:
    The reviews and the products.
  """
  if category_depth < 1:
    raise ValueError(
        f'--category_depth must be at least 1, got {category_depth}.'
    )
  items = functools.partial(_item_columns, depth=category_depth)
  layouts = (
      review_layouts.Layout(
          name='2014 or 2018 reviews',
          kind='events',
          keys=frozenset({'reviewerID', 'asin', 'overall', 'unixReviewTime'}),
          row_type=_Review2018,
          columns=_event_columns,
      ),
      review_layouts.Layout(
          name='2023 reviews',
          kind='events',
          keys=frozenset({'user_id', 'parent_asin', 'rating', 'timestamp'}),
          row_type=_Review2023,
          columns=_event_columns,
          ticks_per_sec=1000,
      ),
      review_layouts.Layout(
          name='2023 metadata',
          kind='items',
          keys=frozenset({'parent_asin', 'title'}),
          row_type=_Item2023,
          columns=items,
      ),
      review_layouts.Layout(
          name='2014 or 2018 metadata',
          kind='items',
          keys=frozenset({'asin', 'title'}),
          row_type=_Item2018,
          columns=items,
      ),
  )
  return review_files.read(
      inputs=inputs,
      layouts=layouts,
      texts=TEXTS,
      options=options,
      scratch=scratch,
      name=name,
      item_noun='product',
  )


def _event_columns(rows: Sequence[Any]) -> dict[str, list[Any]]:
  return {
      'user': [row.user for row in rows],
      'item': [row.item for row in rows],
      'timestamp': [row.time for row in rows],
      'rating': [row.rating for row in rows],
      'summary': [_plain(row.summary) for row in rows],
      'review': [_plain(row.review) for row in rows],
  }


def _item_columns(rows: Sequence[Any], *, depth: int) -> dict[str, list[Any]]:
  return {
      'item': [row.item for row in rows],
      'title': [' '.join(_plain(row.title).split()) for row in rows],
      'labels': ['|'.join(_categories(row, depth)) for row in rows],
  }


def _plain(text: str | None) -> str:
  """The text without HTML's entities and line breaks, which some years have."""
  if not text:
    return ''
  if '&' in text or '<' in text:
    text = html.unescape(_BREAK.sub('\n', text))
  return text.strip()


def _categories(row: Any, depth: int) -> list[str]:
  """Of each path the part at that depth, or its last; none of them twice."""
  chosen = []
  for path in row.paths():
    names = review_layouts.labels(
        # 2018 has scraps of HTML among them.
        _plain(name) for name in path or [row.main or ''] if '<' not in name
    )
    chosen += names[:depth][-1:]
  return review_layouts.labels(chosen)

"""Tests of the data card: numbers, bytes, and what must not be on it."""

import dataclasses
import html.parser
import re
from xml.etree import ElementTree

from data_prep import card_plots
from data_prep import data_card
from data_prep import encoding
from data_prep import tallies as tallies_lib
import matplotlib
import numpy as np
import polars as pl
import pytest
from user_llm.data import schema

_DAY = tallies_lib.DAY_SECS
_SCHEMA = schema.EventSchema(
    name='toy',
    modalities=(
        schema.Modality(name='item', size=4),
        schema.Modality(
            name='category',
            size=4,
            values=('Soap|Under $5 & $9', 'Soap', ''),
            separator='|',
        ),
        schema.Modality(name='rating', size=3, values=('1.0', '5.0')),
    ),
    texts=('review',),
)
_MANIFEST = {
    'name': 'toy',
    'counts': {
        'users': 2, 'items': 3, 'events': 4, 'rejects': 3, 'item_rows': 5,
        'items_without_metadata': 1,
    },
    'cleaning': [
        {'step': 'parse', 'events': 9, 'dropped': 2},
        {'step': 'duplicates', 'events': 7, 'dropped': 1},
        {'step': 'k_core', 'events': 6, 'dropped': 2},
        {'step': 'length_cap', 'events': 4, 'dropped': 0},
    ],
    'rejects': {
        'events': {'negative time': 2}, 'items': {'item described before': 1}
    },
    'splits': {
        'leave_one_out': {
            'fingerprint': '0123456789abcdef',
            'users': 1, 'train': 0, 'validation': 1, 'test': 1,
        }
    },
    'source': {'x.json.gz': {'bytes': 1234, 'sha256': 'ab' * 32}},
    'options': {'command': 'amazon_reviews', 'max_events_per_user': None},
    'user_key_id': 'deadbeef',
}
_CATALOGUE = pl.DataFrame({
    'title': ['<b>Soap</b>', 'Bath', 'B0001'],
    'labels': ['Soap|Under $5 & $9', 'Soap', ''],
    'count': [2, 1, 1],
})
_TALLIES = tallies_lib.tally(
    _SCHEMA,
    [
        encoding.Histories(
            offsets=np.array([0, 3, 4]),
            columns={
                'item': np.array([1, 2, 1, 3], np.int32),
                'category': np.array([1, 2, 1, 3], np.int32),
                'rating': np.array([2, 2, 1, 2], np.int32),
                'timestamp': np.array([0, 40, 80, 400]) * _DAY,
            },
        )
    ],
    {'review': np.array([1, 3] + [0] * (len(tallies_lib.TEXT_EDGES) - 1))},
)


def _render(**changes):
  arguments = {
      'event_schema': _SCHEMA, 'catalogue': _CATALOGUE, 'tallies': _TALLIES
  }
  return data_card.render(_MANIFEST, **(arguments | changes))


@pytest.fixture(name='text', scope='module')
def _text():
  return _render()


class _Page(html.parser.HTMLParser):
  """The words of a page, and the targets of its links."""

  def __init__(self, text):
    super().__init__()
    self.words = ''
    self.targets = []
    self.feed(text)
    self.words = ' '.join(self.words.split())

  def handle_data(self, data):
    self.words += data + ' '

  def handle_starttag(self, tag, attrs):
    assert tag not in ('script', 'link', 'img', 'b', 'image'), tag
    self.targets += [
        value for name, value in attrs if name in ('src', 'href', 'xlink:href')
    ]


def test_every_row_is_accounted_for(text):
  words = _Page(text).words
  assert '4 kept + 2 rejected + 3 dropped = 9 rows read' in words
  assert 'negative time event 2' in words
  assert 'item described before item 1' in words


def test_says_what_is_in_it(text):
  words = _Page(text).words
  # Of 1 and 3 events the median is the smaller; 4 events / (2 users * 3 items).
  assert 'events a user, median 1' in words
  assert 'density 67 %' in words
  assert 'from 1970-01-01 to 1971-02-05' in words
  assert 'top 1 (33.3 %) of 3 items: 50.0 % of events' in words
  assert 'review: 25.0 % missing' in words
  assert '1 of 3 items are not described upstream' in words
  assert 'leave_one_out' in words and '0123456789abcdef' in words
  assert 'keyed hashes (key deadbeef )' in words
  # A title is text, whatever is in it.
  assert '<b>Soap</b> Soap, Under $5 & $9 2' in words
  assert 'Under $5 & $9' in words.split('Most frequent items')[0]
  assert 'max events per user' not in words


def test_needs_nothing_else(text):
  assert all(target.startswith('#') for target in _Page(text).targets)
  # Names of formats, which nothing fetches.
  text = re.sub(r'xmlns(:\w+)?="[^"]*"', '', text)
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  assert not re.search(r'https?:|@import|url\((?!#)', text)


def test_same_bytes_whatever_the_users_matplotlib_looks_like(text):
  with matplotlib.rc_context({'font.size': 30, 'axes.grid': False}):
    assert _render() == text
  assert not re.search(r'\d\d:\d\d:\d\d', text)
  assert matplotlib.__version__ not in text


def test_without_times_there_is_no_time():
  days = np.zeros_like(_TALLIES.days)
  days[0] = 4
  words = _Page(
      _render(tallies=dataclasses.replace(_TALLIES, days=days))
  ).words
  assert '1970' not in words and 'Time' not in words


def test_without_texts_there_is_no_chart_of_them():
  empty = {'review': np.eye(1, len(tallies_lib.TEXT_EDGES) + 1, dtype=int)[0]}
  for texts in ({}, empty):
    tallies = dataclasses.replace(_TALLIES, texts=texts)
    assert 'Length of texts' not in _render(tallies=tallies)


def test_many_values_are_cut_to_the_most_frequent():
  names = tuple(f'city {i:03}' for i in range(300))
  modality = schema.Modality(name='city', size=301, values=names)
  counts = np.arange(301)
  words = _Page(
      _render(
          event_schema=dataclasses.replace(
              _SCHEMA, modalities=(*_SCHEMA.modalities, modality)
          ),
          tallies=dataclasses.replace(
              _TALLIES, values={**_TALLIES.values, 'city': counts}
          ),
      )
  ).words
  assert '12 most frequent of 300 values' in words
  assert 'city 299' in words and 'city 288' in words
  assert 'city 287' not in words


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('span', [2, 60, 92, 93, 1358, 7300, 7301, 47_482])
def test_times_of_any_span(span):
  days = np.zeros(47_482, np.int64)
  days[[0, span - 1]] = 5, 4
  svg, busiest = card_plots.times(days)
  assert busiest == (
      'busiest day: 1970-01-01'
      if span <= 92
      else 'busiest month: 1970-01' if span <= 7300 else 'busiest year: 1970'
  )
  ElementTree.fromstring(svg)


@pytest.mark.filterwarnings('error')
def test_charts_of_next_to_nothing():
  one = np.array([0, 1])
  for svg in (
      card_plots.history_lengths(one),
      card_plots.popularity(one[1:]),
      card_plots.values(['評価'], one[1:], 'events'),
      card_plots.text_lengths(
          {'review': np.eye(1, len(tallies_lib.TEXT_EDGES) + 1, 1)[0]}
      ),
  ):
    assert ElementTree.fromstring(svg).tag.endswith('svg')

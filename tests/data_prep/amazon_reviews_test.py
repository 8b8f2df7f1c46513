"""Tests of Amazon's layouts, each written as upstream writes it."""

import gzip
import json

from data_prep import amazon_reviews
from data_prep import privacy
from data_prep import raw as raw_lib
from data_prep import review_files
import polars as pl
import pytest

KEY = privacy.UserKey(b'0123456789abcdef' * 2)
OPTIONS = review_files.ReadOptions(user_key=KEY)

REVIEWS_2014 = (
    # A row of http://jmcauley.ucsd.edu/data/amazon/, its text shortened.
    {
        'reviewerID': 'A2SUAM1J3GNN3B', 'asin': '0000013714',
        'reviewerName': 'J. McDonald', 'helpful': [2, 3],
        'reviewText': 'I bought this for my husband &amp; he loves it.',
        'overall': 5.0, 'summary': 'Heavenly Highway Hymns',
        'unixReviewTime': 1252800000, 'reviewTime': '09 13, 2009',
    },
    {
        'reviewerID': 'A2SUAM1J3GNN3B', 'asin': '0000031852',
        'helpful': [0, 0], 'reviewText': '', 'overall': 1.0, 'summary': 'No',
        'unixReviewTime': 1252800001, 'reviewTime': '09 13, 2009',
    },
)
METADATA_2014 = (
    {
        'asin': '0000031852', 'title': "Girl's Ballet &amp; Tutu", 'price': 3,
        'imUrl': 'http://x/y.jpg', 'related': {'also_bought': []},
        'salesRank': {'Toys & Games': 211836}, 'brand': 'Coxlures',
        'categories': [
            ['Sports & Outdoors', 'Other Sports', 'Dance'],
            ['Clothing', 'Girls'],
            ['Movies', 'Other Sports'],
        ],
    },
)
REVIEWS_2018 = (
    {
        'overall': 5.0, 'vote': '2', 'verified': True,
        'reviewTime': '01 1, 2018', 'reviewerID': 'AUI6WTTT0QZYS',
        'asin': '5120053084', 'style': {'Size:': 'Large'},
        'reviewerName': 'Abbey', 'reviewText': 'Two lines.<br />It fits',
        'summary': 'Comfy', 'unixReviewTime': 1514764800,
    },
    {
        'overall': 4.0, 'verified': True, 'reviewTime': '01 2, 2018',
        'reviewerID': 'AUI6WTTT0QZYS', 'asin': '5120053085',
        'unixReviewTime': 1514851200,
    },
)
METADATA_2018 = (
    {
        'category': [
            'Clothing', 'Women|Girls', '</span></span></span>', 'Dresses',
        ],
        'title': 'Leggings\n  XL', 'asin': '5120053084', 'main_cat': '<img',
    },
    {'category': [], 'title': '', 'asin': '5120053085', 'main_cat': 'Books'},
    {'category': ['B'], 'title': 'Again', 'asin': '5120053085'},
)
REVIEWS_2023 = (
    {
        'rating': 3.0, 'title': 'Such a lovely scent', 'text': 'This spray ...',
        'images': [], 'asin': 'B00YQ6X8EO', 'parent_asin': 'B00YQ6X8E0',
        'user_id': 'AGKHLEW2SOWHNMFQIJGBECAF7INQ', 'timestamp': 1588687728923,
        'helpful_vote': 0, 'verified_purchase': True,
    },
)
METADATA_2023 = (
    {
        'main_category': 'All Beauty', 'title': 'Lotion', 'average_rating': 4.8,
        'features': [], 'description': [], 'price': None, 'images': [],
        'store': 'Howard', 'categories': [], 'details': {'Brand': 'x'},
        'parent_asin': 'B00YQ6X8E0', 'bought_together': None,
    },
)


def _write(path, rows, dumps=json.dumps):
  opened = gzip.open(path, 'wt') if path.suffix == '.gz' else path.open('w')
  with opened as handle:
    handle.writelines(dumps(row) + '\n' for row in rows)


def _read(tmp_path, *inputs, options=OPTIONS, **arguments):
  scratch = tmp_path / 'scratch'
  scratch.mkdir()
  raw = amazon_reviews.read(
      inputs=[str(path) for path in inputs or (tmp_path / 'in',)],
      name='x',
      scratch=scratch,
      options=options,
      **arguments,
  )
  events = pl.read_parquet(raw.events / '*.parquet').sort('seq')
  return raw, events, pl.read_parquet(raw.items)


@pytest.fixture
def source(tmp_path):
  directory = tmp_path / 'in'
  directory.mkdir()
  return directory


def test_2014_with_literals_for_metadata(source, tmp_path):
  _write(source / 'reviews_Beauty_5.json.gz', REVIEWS_2014)
  _write(source / 'meta_Beauty.json.gz', METADATA_2014, dumps=repr)
  raw, events, items = _read(tmp_path)
  assert (raw.num_event_rows, raw.num_item_rows) == (2, 1)
  assert raw.item_noun == 'product' and raw.label_name == 'category'
  assert raw.user_key_id == KEY.id
  user = KEY.hash('A2SUAM1J3GNN3B')
  # meta_ is file 0, by name.
  assert events.rows() == [
      (
          (1 << 40) + 1, user, '0000013714', 1252800000, 5.0,
          'Heavenly Highway Hymns',
          'I bought this for my husband & he loves it.',
      ),
      ((1 << 40) + 2, user, '0000031852', 1252800001, 1.0, 'No', ''),
  ]
  assert events.schema == {
      'seq': pl.Int64, 'user': pl.String, 'item': pl.String,
      'timestamp': pl.Int64, 'rating': pl.Float32, 'summary': pl.String,
      'review': pl.String,
  }
  assert items.rows() == [
      ('0000031852', "Girl's Ballet & Tutu", 'Other Sports|Girls')
  ]
  assert raw.sources['reviews_Beauty_5.json.gz']['rows_without_review'] == 1


def test_2014_reviews_that_are_literals(source, tmp_path):
  _write(source / 'reviews_Beauty.json.gz', REVIEWS_2014, dumps=repr)
  raw, events, items = _read(tmp_path)
  assert len(events) == 2 and not len(items) and raw.label_name is None


@pytest.mark.parametrize(
    'depth, labels',
    [
        (1, ['Clothing', 'Books']),
        (2, ['Women/Girls', 'Books']),
        (3, ['Dresses', 'Books']),
        (9, ['Dresses', 'Books']),
    ],
)
def test_2018_and_depths_of_category(depth, labels, source, tmp_path):
  _write(source / 'All_Beauty_5.json.gz', REVIEWS_2018)
  _write(source / 'meta_All_Beauty.json.gz', METADATA_2018)
  raw, events, items = _read(tmp_path, category_depth=depth)
  assert events['review'].to_list() == ['Two lines.\nIt fits', '']
  assert events['summary'].to_list() == ['Comfy', '']
  # The first description of an item counts; one without title has its id.
  assert items['title'].to_list() == ['Leggings XL', '5120053085']
  assert items['labels'].to_list() == labels
  assert raw.rejects.counts('items') == {'item described before': 1}
  assert list(raw.rejects.shown()) == [{
      'file': 'meta_All_Beauty.json.gz',
      'line': 3,
      'reason': 'item described before',
  }]


def test_2023(source, tmp_path):
  _write(source / 'All_Beauty.jsonl.gz', REVIEWS_2023)
  _write(source / 'meta_All_Beauty.jsonl.gz', METADATA_2023)
  raw, events, items = _read(tmp_path)
  assert raw.ticks_per_sec == 1000
  assert events.row(0)[1:] == (
      KEY.hash('AGKHLEW2SOWHNMFQIJGBECAF7INQ'), 'B00YQ6X8E0',
      1588687728923, 3.0,
      'Such a lovely scent', 'This spray ...',
  )
  assert items.rows() == [('B00YQ6X8E0', 'Lotion', 'All Beauty')]


def test_several_categories_in_the_order_given(tmp_path):
  paths = [tmp_path / name for name in ('b.jsonl', 'a.jsonl', 'c.jsonl.gz')]
  for path, item in zip(paths, 'xyz'):
    _write(path, [REVIEWS_2023[0] | {'parent_asin': item}])
  _, events, _ = _read(tmp_path, *paths)
  assert events['item'].to_list() == ['x', 'y', 'z']
  assert events['seq'].to_list() == [1, (1 << 40) + 1, (2 << 40) + 1]


def test_bad_rows_are_counted_and_show_nobody(source, tmp_path):
  good = REVIEWS_2023[0]
  bad = [
      good | {'rating': 0.0},
      good | {'timestamp': -1},
      good | {'timestamp': 1588687728923000},
      good | {'user_id': ''},
      good | {'parent_asin': None},
      {k: v for k, v in good.items() if k != 'user_id'},
  ]
  _write(source / 'x.jsonl', [good] * 2 + bad)
  options = review_files.ReadOptions(user_key=KEY, max_reject_fraction=0.75)
  raw, events, _ = _read(tmp_path, options=options)
  assert len(events) == 2 and raw.num_event_rows == 8
  assert raw.rejects.counts('events') == {
      'Expected `float` >= 1.0 - at `$.rating`': 1,
      'Expected `int` >= 0 - at `$.timestamp`': 1,
      'Expected `int` <= 4102444799999 - at `$.timestamp`': 1,
      'Expected `str` of length >= 1 - at `$.user_id`': 1,
      'Expected `str`, got `null` - at `$.parent_asin`': 1,
      'Object missing required field `user_id`': 1,
  }
  shown = list(raw.rejects.shown())
  assert [reject['line'] for reject in shown] == [3, 4, 5, 6, 7, 8]
  assert all(set(reject) == {'file', 'line', 'reason'} for reject in shown)


def test_too_many_bad_rows(source, tmp_path):
  _write(source / 'x.jsonl', [*REVIEWS_2023, REVIEWS_2023[0] | {'rating': 0}])
  with pytest.raises(ValueError, match=r'1 of 2 rows are bad, .*x.jsonl:2: '):
    _read(tmp_path)


@pytest.mark.parametrize('depth', [0, -1])
def test_bad_depth(depth, source, tmp_path):
  with pytest.raises(ValueError, match='--category_depth must be at least 1'):
    _read(tmp_path, category_depth=depth)


def test_layouts_are_not_mixed(source, tmp_path):
  _write(source / 'a.json', REVIEWS_2018)
  _write(source / 'b.jsonl', REVIEWS_2023)
  with pytest.raises(ValueError, match='a.json has 2014 or 2018 reviews, b.js'):
    _read(tmp_path)


def test_all_beauty(real_data, tmp_path):
  raw, events, _ = _read(tmp_path, real_data / 'amazon')
  assert raw.num_event_rows == len(events) == 5269
  assert not raw.rejects.counts('events')
  assert events['user'].n_unique() == 991 and events['item'].n_unique() == 85
  assert raw.sources['All_Beauty_5.json.gz']['rows_without_review'] == 5
  assert raw_lib.first_seq(0) + 5269 == events['seq'][-1]

"""Users from JSON lines: ids, batches, and a message for each bad line."""

import json

import numpy as np
import pytest

from user_llm.data import requests
from user_llm.data import schema as schema_lib

_SCHEMA = schema_lib.EventSchema(
    name='films',
    modalities=(
        schema_lib.Modality(name='item', size=5),
        schema_lib.Modality(
            name='genre', size=4, values=('Action', 'Action|Drama', 'Drama'),
            separator='|',
        ),
        schema_lib.Modality(name='rating', size=4, values=('0.5', '4', '5.0')),
    ),
)
_CATALOGUE = tuple(
    schema_lib.CatalogueItem(
        id=i, source_id=source, title=title, labels=genres, count=1
    )
    for i, (source, title, genres) in enumerate(
        [
            ('50', 'Heat (1995)', ('Action', 'Drama')),
            ('7', 'Hamlet', ('Drama',)),
            ('9', 'Hamlet', ('Action',)),
            ('11', '50', ('Drama',)),
        ],
        start=1,
    )
)


def _reader(*names):
  return requests.RequestReader(_SCHEMA.select(names or ('item',)), _CATALOGUE)


def _read(tmp_path, text, *names):
  path = tmp_path / 'users.jsonl'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return list(_reader(*names).read(str(path)))


def _line(*events, **fields):
  return json.dumps({'user': 'u1', 'history': events, **fields})


def test_items_by_id_and_by_title(tmp_path):
  text = '\n'.join([
      _line('Heat (1995)', '7', {'item': 9}, '50', question='next_item'),
      '',
      json.dumps({'user': None, 'history': [11]}),
  ])
  first, second = _read(tmp_path, text)
  # '50' is an id and a title: the id counts.
  assert [e['item'] for e in first.events] == [1, 2, 3, 1]
  assert (first.user, first.question) == ('u1', 'next_item')
  assert first.where.endswith('users.jsonl, line 1')
  assert second.events == ({'item': 4},)
  assert (second.user, second.question) == ('', None)
  assert second.where.endswith('users.jsonl, line 3')


def test_a_property_of_the_item_need_not_be_said(tmp_path):
  events = [
      {'item': '50', 'rating': 5},
      {'item': '50', 'rating': '4.0', 'genre': 'Drama'},
      {'item': '9', 'rating': 0.5},
  ]
  (user,) = _read(tmp_path, _line(*events), 'item', 'genre', 'rating')
  assert user.events == (
      {'item': 1, 'genre': 2, 'rating': 3},
      {'item': 1, 'genre': 3, 'rating': 2},
      {'item': 3, 'genre': 1, 'rating': 1},
  )


@pytest.mark.parametrize(
    ['seconds', 'wanted'],
    [
        (-3, 1), (1, 1), (19.5, 1), ('20', 2), (89, 2), (90, 2), (1e9, 2),
        (None, 3), ('unknown', 3), ('[20.0, 90.0]', 2),
    ],
)
def test_numbers_go_into_their_buckets(tmp_path, seconds, wanted):
  schema = schema_lib.EventSchema(
      name='reads',
      modalities=(
          schema_lib.Modality(name='item', size=5),
          schema_lib.Modality(
              name='seconds', size=4,
              values=('[1.0, 20.0)', '[20.0, 90.0]', 'unknown'),
          ),
      ),
  )
  path = tmp_path / 'users.jsonl'
  path.write_text(_line({'item': '50', 'seconds': seconds}, {'item': '50'}))
  (user,) = requests.RequestReader(schema, _CATALOGUE).read(str(path))
  assert [e['seconds'] for e in user.events] == [wanted, 3]
  path.write_text(_line({'item': '50', 'seconds': 'long'}))
  with pytest.raises(ValueError, match="line 1: seconds 'long' is unknown"):
    list(requests.RequestReader(schema, _CATALOGUE).read(str(path)))


def test_what_a_question_names(tmp_path):
  path = tmp_path / 'users.jsonl'
  path.write_text('\n'.join([
      _line('7', question='review_generation', item='Heat (1995)', rating=5),
      _line('7', question='next_item'),
  ]))
  reader = requests.RequestReader(
      _SCHEMA.select(('item',)), _CATALOGUE, _SCHEMA
  )
  first, second = reader.read(str(path))
  assert first.about == {'item': 1, 'rating': 3} and not second.about
  assert first.events == ({'item': 2},)
  path.write_text(_line('7', item='7', rating=None))
  (nothing,) = reader.read(str(path))
  assert nothing.about == {'item': 2}
  path.write_text(_line('7', question='review_generation', item='no such'))
  with pytest.raises(ValueError, match="line 1: item 'no such' is neither"):
    list(reader.read(str(path)))


@pytest.mark.parametrize(
    ['line', 'message'],
    [
        ('{"user": "u1", "history"', 'not JSON'),
        (b'{"history": ["\xff"]}', 'not JSON'),
        ('["Heat (1995)"]', 'need an object with a list "history"'),
        ('{"user": "u1"}', 'need an object with a list "history"'),
        ('{"history": "50"}', 'need an object with a list "history"'),
        ('{"user": "\\ud83d", "history": []}', '"user" is no text .*surrog'),
        (_line('50', question=['next_item']), '"question" must be a text'),
        (_line({'rating': 5}), 'has no "item"'),
        (_line({'item': '51', 'rating': 5}), "item '51' is neither an id"),
        (_line({'item': 'Hamlet', 'rating': 5}), '2 items .* an id: 7, 9'),
        (_line('50'), "this model reads 'rating' of every event"),
        (_line({'item': '50', 'rating': 3}), 'rating 3 is unknown'),
        (_line({'item': '50', 'rating': 'good'}), "rating 'good' is unknown"),
        (_line({'item': '50', 'rating': 10**400}), 'rating 10+ is unknown'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
  good = _line({'item': '50', 'rating': 5}).encode()
  line = line if isinstance(line, bytes) else line.encode()
  with pytest.raises(ValueError, match=f'users.jsonl, line 2: .*{message}'):
    _read(tmp_path, good + b'\n' + line, 'item', 'rating')


def test_missing_and_empty_files(tmp_path):
  with pytest.raises(ValueError, match='--input=.*none.jsonl does not exist'):
    list(_reader().read(str(tmp_path / 'none.jsonl')))
  with pytest.raises(ValueError, match='users.jsonl is empty'):
    _read(tmp_path, '\n\n')


def test_batch_worked_example(tmp_path):
  text = _line('50', '7', '50', '9') + '\n' + _line('11')
  batch = requests.batch(
      _read(tmp_path, text), _SCHEMA.select(('item',)), history_length=3, rows=3
  )
  want = {
      'user_item': [[2, 1, 3], [4, 0, 0], [0, 0, 0]],
      'positions': [[0, 1, 2], [0, 0, 0], [0, 0, 0]],
      'segment_ids': [[1, 1, 1], [1, 0, 0], [0, 0, 0]],
      'user_mask': [[1, 1, 1], [1, 0, 0], [0, 0, 0]],
      'history_end': [[3], [1], [0]],
      'example_id': [0, 1, -1],
  }
  for key, value in want.items():
    np.testing.assert_array_equal(batch[key], value, key)
  seen = batch['seen_item']
  # Of the whole history, each item once.
  assert [set(row) - {0} for row in seen.tolist()] == [{1, 2, 3}, {4}, set()]
  assert {v.dtype.name for v in batch.values()} == {'int32', 'bool'}


def test_a_user_of_whom_nothing_is_known(tmp_path):
  (user,) = _read(tmp_path, _line(question='next_item'))
  assert user.events == ()
  batch = requests.batch(
      [user], _SCHEMA.select(('item',)), history_length=3, rows=1
  )
  assert not batch['user_mask'].any() and not batch['history_end'].any()
  assert batch['seen_item'].shape == (1, 64) and not batch['seen_item'].any()

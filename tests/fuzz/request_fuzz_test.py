"""Fuzzes what users send: JSONL requests."""

import json

from hypothesis import strategies as st
import pytest

import fuzzing
from user_llm.data import requests
from user_llm.data import schema as schema_lib

_SCHEMA = schema_lib.EventSchema(
    name='tiny',
    modalities=(
        schema_lib.Modality(name='item', size=4),
        schema_lib.Modality(
            name='genre', size=3, values=('Drama', 'Drama|War'), separator='|'
        ),
        schema_lib.Modality(name='rating', size=3, values=('1.5', '4.0')),
    ),
)
_CATALOGUE = tuple(
    schema_lib.CatalogueItem(
        id=i, source_id=f's{i}', title=title, labels=('Drama',), count=1
    )
    for i, title in enumerate(('Heat (1995)', 'Il "postino"', 'Heat (1995)'), 1)
)
_REQUEST = {
    'user': 'u1',
    'question': 'next_item',
    'history': [
        {'item': 's1', 'rating': 4}, {'item': 'Il "postino"', 'rating': '1.5'},
        {'item': 's3', 'rating': 4.0, 'genre': 'Drama|War'},
    ],
    'item': 's2',
    'rating': 4,
}
_LINE = json.dumps(_REQUEST).encode()


@pytest.fixture(name='read')
def _read(tmp_path):
  reader = requests.RequestReader(_SCHEMA, _CATALOGUE)
  path = tmp_path / 'users.jsonl'

  def read(data):
    path.write_bytes(data)
    found = list(reader.read(str(path)))
    requests.batch(found[:4], _SCHEMA, 2, 4)

  return read


def test_the_original_is_read(read):
  read(_LINE + b'\n' + _LINE)


@fuzzing.fuzz(fuzzing.edited(_LINE, _LINE + b'\n' + _LINE), quick=600, slow=10_000)
def test_bytes(case, read):
  with fuzzing.only_mistakes():
    read(case)


@fuzzing.fuzz(
    fuzzing.edited_json(_REQUEST, {'history': []}) | fuzzing.json_values(),
    quick=350,
    slow=10_000,
)
def test_values(case, read):
  with fuzzing.only_mistakes():
    read(json.dumps(case).encode())


@fuzzing.fuzz(st.binary(max_size=60), quick=200, slow=6_000)
def test_anything(case, read):
  with fuzzing.only_mistakes():
    read(case)

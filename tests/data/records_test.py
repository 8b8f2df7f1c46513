import json
import pathlib
import shutil

import numpy as np
import pytest

import fixtures
from user_llm.data import records
from user_llm.data import schema


@pytest.fixture
def copied(tiny_dataset, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(tiny_dataset, tmp_path / 'copy'))


def test_reads_what_was_written(tiny_dataset):
  log = records.load_events(tiny_dataset)
  users = fixtures.random_users()
  assert log.users == [u.name for u in users]
  assert log.lengths.tolist() == [len(u.items) for u in users]
  for u, user in enumerate(users):
    own = slice(log.offsets[u], log.offsets[u + 1])
    np.testing.assert_array_equal(log.values['item'][own], user.items)
    assert log.timestamps[own].tolist() == [
        60 * i for i in range(len(user.items))
    ]
  items = log.values['item']
  np.testing.assert_array_equal(log.values['genre'], (items - 1) % 8 + 1)
  assert log.values['item'].dtype == np.int32
  assert log.timestamps.dtype == np.int64


def test_is_read_once_a_process(tiny_dataset):
  assert records.load_events(tiny_dataset) is records.load_events(
      tiny_dataset + '/'
  )


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
@pytest.mark.parametrize('min_history', [1, 10])
def test_label_bounds_are_the_rules_own(tiny_dataset, split, min_history):
  log = records.load_events(tiny_dataset)
  rule = schema.SplitRule(name='rule', min_history=min_history)
  first, stop = log.label_bounds(rule, split)
  for u, length in enumerate(log.lengths):
    ends = fixtures.label_positions(int(length), split, min_history)
    want = [int(log.offsets[u]) + end for end in ends]
    assert list(range(first[u], stop[u])) == want


@pytest.mark.parametrize('rule', schema.SPLIT_RULES.values())
def test_fingerprint_is_the_manifests(tiny_dataset, rule):
  path = pathlib.Path(tiny_dataset) / 'manifest.json'
  manifest = json.loads(path.read_text())
  log = records.load_events(tiny_dataset)
  want = manifest['splits'][rule.name]['fingerprint']
  assert log.split_fingerprint(rule) == want


def test_texts_are_of_the_events(tiny_dataset):
  log = records.load_events(tiny_dataset)
  for name in ('summary', 'review'):
    texts = log.texts(name)
    assert texts is log.texts(name)
    assert [text.decode() for text in texts] == [
        fixtures.text_of(name, item) for item in log.values['item']
    ]
  with pytest.raises(ValueError, match="no text 'title'; it has summary, rev"):
    log.texts('title')


def test_another_format_version(copied):
  path = copied / 'schema.json'
  path.write_text(path.read_text().replace('"format_version": 2,', ''))
  with pytest.raises(ValueError, match='format version 1; .* again'):
    records.load_events(str(copied))


def test_no_directory(tmp_path):
  with pytest.raises(ValueError, match='nowhere.*data_prep'):
    records.load_events(str(tmp_path / 'nowhere'))


def test_missing_shard(copied):
  shard = copied / 'tiny-train.tfrecord-00001-of-00002'
  shard.unlink()
  with pytest.raises(ValueError, match='00001-of-00002 is missing'):
    records.load_events(str(copied))


def test_short_shard(copied):
  shard = copied / 'tiny-train.tfrecord-00000-of-00002'
  shard.write_bytes(shard.read_bytes()[:-10])
  with pytest.raises(ValueError, match='00000-of-00002 has .* bytes'):
    records.load_events(str(copied))


def test_missing_manifest(copied):
  (copied / 'manifest.json').unlink()
  with pytest.raises(ValueError, match='manifest.json does not exist'):
    records.load_events(str(copied))


def test_counts_that_are_not_the_manifests(copied):
  path = copied / 'manifest.json'
  manifest = json.loads(path.read_text())
  manifest['counts']['users'] += 1
  path.write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match='holds 24 users .* says 25'):
    records.load_events(str(copied))


def test_ids_past_the_schema(copied):
  def change(raw):
    raw['modalities'][0]['size'] = 20
    return raw

  fixtures.change_schema(copied, change)
  with pytest.raises(ValueError, match="ids of 'item'"):
    records.load_events(str(copied))


@pytest.mark.parametrize('name', ['label', 'mask', 'positions', 'target_item'])
def test_a_feature_with_the_name_of_another_key(copied, name):
  def change(raw):
    raw['modalities'][2]['name'] = name
    return raw

  fixtures.change_schema(copied, change)
  with pytest.raises(
      ValueError, match=f"has a feature '{name}', .* rename the feature and pre"
  ):
    records.load_events(str(copied))

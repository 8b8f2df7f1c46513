"""Tests of `python -m data_prep forget`, down to the bytes."""

import hashlib
import json

from data_prep import __main__ as command
from data_prep import encoding
from data_prep import privacy
import pytest
from user_llm.data import records
from user_llm.data import schema

KEY = privacy.UserKey(b'k' * 40)
USERS = [f'person-{number}' for number in range(40)]
FORGOTTEN = ('person-3', 'person-17')
NUM_SHARDS = 5


@pytest.fixture
def key_file(tmp_path):
  path = tmp_path / 'key'
  path.write_bytes(KEY.key)
  path.chmod(0o600)
  return path


@pytest.fixture
def dataset(tmp_path, key_file, monkeypatch):
  """40 users of 3 to 6 events each, in 5 record files."""
  rows = [
      f'{user} {(7 * number + event) % 11}'
      for number, user in enumerate(USERS)
      for event in range(3 + number % 4)
  ]
  rows.append('person-3')  # A reject.
  monkeypatch.setattr(encoding, '_EVENTS_PER_SHARD', -(-len(rows) // NUM_SHARDS))
  (tmp_path / 'pairs.txt').write_text('\n'.join(rows))
  output = tmp_path / 'out'
  assert command.main([
      'sequences', f'--input={tmp_path / "pairs.txt"}', '--name=toy',
      f'--output={output}', f'--user_key_file={key_file}',
  ]) == 0
  return output


def _forget(dataset, key_file, users, text_encoding='utf-8'):
  path = dataset.parent / 'users.txt'
  path.write_text(''.join(f'{user}\n' for user in users), text_encoding)
  return command.main([
      'forget', f'--dataset={dataset}', f'--users={path}',
      *([f'--user_key_file={key_file}'] if key_file else []),
  ])


def _digests(dataset):
  return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in dataset.iterdir()
  }


def _histories(dataset):
  log = records.load_events(str(dataset))
  return {
      user: log.values['item'][start:stop].tolist()
      for user, start, stop in zip(log.users, log.offsets, log.offsets[1:])
  }


def test_forget(dataset, key_file, capsys):
  before = _digests(dataset)
  histories = _histories(dataset)
  records._load_events.cache_clear()
  hashed = [KEY.hash(user) for user in FORGOTTEN]
  capsys.readouterr()
  assert _forget(dataset, key_file, [*FORGOTTEN, '', 'person-99']) == 0
  told = capsys.readouterr()
  assert '2 of 3 users were there; their 10 events are gone' in told.out

  # Nothing of them is left, and nobody was named.
  for path in dataset.iterdir():
    for name in (*FORGOTTEN, *hashed):
      assert name.encode() not in path.read_bytes()
      assert name not in told.out + told.err
  assert sorted(p.name for p in dataset.parent.iterdir()) == [
      'key', 'out', 'pairs.txt', 'users.txt'
  ]

  # Of the record files only theirs are new.
  after = _digests(dataset)
  assert set(after) == set(before)
  touched = {
      f'toy-train.tfrecord-{encoding.shard_of(user, NUM_SHARDS):05d}'
      f'-of-{NUM_SHARDS:05d}'
      for user in hashed
  }
  changed = {name for name in before if before[name] != after[name]}
  assert changed == touched | {'manifest.json', 'dataset_info.json'}

  # What is left is whole.
  manifest = json.loads((dataset / 'manifest.json').read_text())
  del after['manifest.json']
  assert {n: f['sha256'] for n, f in manifest['files'].items()} == after
  for user in hashed:
    del histories[user]
  assert _histories(dataset) == histories
  assert manifest['counts']['users'] == 38
  assert manifest['counts']['events'] == sum(map(len, histories.values()))
  assert manifest['forgotten'] == [
      {'users': 2, 'events': 10,
       'unchanged': ['catalogue counts', 'cleaning', 'data card', 'ids']}
  ]
  log = records.load_events(str(dataset))
  # Pairs in order have no times.
  assert set(manifest['splits']) == {'leave_one_out', 'paper_windows'}
  for name, described in manifest['splits'].items():
    rule = schema.split_rule(name=name)
    assert described['fingerprint'] == log.split_fingerprint(rule)
    first, stop = log.label_bounds(rule, 'train')
    assert described['train'] == (stop - first).sum()
  assert manifest['splits']['leave_one_out']['users'] == 38


def test_a_byte_order_mark_is_no_part_of_the_first_id(
    dataset, key_file, capsys
):
  assert _forget(dataset, key_file, FORGOTTEN, 'utf-8-sig') == 0
  assert '2 of 2 users were there' in capsys.readouterr().out


def test_forgetting_twice_changes_nothing(dataset, key_file, capsys):
  assert _forget(dataset, key_file, FORGOTTEN) == 0
  before = _digests(dataset)
  assert _forget(dataset, key_file, FORGOTTEN) == 0
  assert '0 of 2 users were there' in capsys.readouterr().out
  assert _digests(dataset) == before
  assert _forget(dataset, key_file, ['person-20']) == 0
  manifest = json.loads((dataset / 'manifest.json').read_text())
  assert [entry['users'] for entry in manifest['forgotten']] == [2, 1]


def test_a_record_file_may_become_empty(dataset, key_file):
  gone = [u for u in USERS if encoding.shard_of(KEY.hash(u), NUM_SHARDS) == 2]
  assert _forget(dataset, key_file, gone) == 0
  assert len(_histories(dataset)) == len(USERS) - len(gone)
  assert (dataset / 'toy-train.tfrecord-00002-of-00005').stat().st_size == 0


def test_rejects_do_not_show_rows_any_more(tmp_path):
  (tmp_path / 'pairs.txt').write_text('ann x\nann\nbob x\n')
  output = tmp_path / 'out'
  assert command.main([
      'sequences', f'--input={tmp_path / "pairs.txt"}', '--name=toy',
      f'--output={output}', '--max_reject_fraction=0.5',
  ]) == 0
  assert b'ann' in (output / 'rejects.jsonl').read_bytes()
  assert _forget(output, None, ['ann']) == 0
  assert all(b'ann' not in path.read_bytes() for path in output.iterdir())
  (reject,) = (output / 'rejects.jsonl').read_text().splitlines()
  assert json.loads(reject)['reason'] == 'wrong field count'


def test_errors_change_nothing(dataset, key_file, tmp_path, capsys):
  before = _digests(dataset)
  other = tmp_path / 'other'
  other.write_text('x' * 32)
  other.chmod(0o600)
  for key, users, message in (
      (other, FORGOTTEN, f'prepared with the key {KEY.id}, but the key'),
      (None, FORGOTTEN, 'but no key is given'),
      (key_file, USERS, 'all users of .* are to be forgotten'),
  ):
    assert _forget(dataset, key, users) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('data_prep: error: ')
    assert message.split('.*')[0] in error
    assert _digests(dataset) == before
  shard = dataset / 'toy-train.tfrecord-00001-of-00005'
  shard.write_bytes(shard.read_bytes()[:-1])
  assert _forget(dataset, key_file, FORGOTTEN) == 2
  assert '00001-of-00005 has ' in capsys.readouterr().err
  assert _forget(tmp_path / 'nowhere', key_file, FORGOTTEN) == 2


def test_times_are_of_who_is_left(movielens_dir, tmp_path):
  source = movielens_dir()
  (source / 'ratings.csv').write_text(
      'userId,movieId,rating,timestamp\n7,1,5,86400\n10,1,5,864000\n'
  )
  dataset = tmp_path / 'out'
  assert command.main(
      ['movielens', f'--input={source}', f'--output={dataset}']
  ) == 0
  times = json.loads((dataset / 'manifest.json').read_text())['times']
  assert times == ['1970-01-02', '1970-01-11']
  assert _forget(dataset, None, ['10']) == 0
  times = json.loads((dataset / 'manifest.json').read_text())['times']
  assert times == ['1970-01-02', '1970-01-02']

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pytest

import fixtures
from user_llm.data import pipeline
from user_llm.data import schema
from user_llm.data import tasks

USERS = fixtures.random_users()
LENGTH = 8
TASKS = (
    'events', 'next_item', 'favourite_genre', 'future_favourite_genre',
    'review_generation', 'text',
)


def _equal(left, right):
  assert left.keys() == right.keys()
  for key in left:
    np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def _text(dataset, tokens):
  return dataset.tokenizer.decode([t for t in tokens.tolist() if t > 3])


def _steps(dataset, count, **settings):
  settings = dict(batch_size=6, seed=1) | settings
  return list(itertools.islice(dataset.train_batches(**settings), count))


@pytest.mark.parametrize('packed', [True, False])
def test_an_epoch_of_events_supervises_every_training_pair_once(make, packed):
  dataset = make('events', packed=packed)
  rows = dataset.num_examples('train')
  (epoch,) = _steps(dataset, 1, batch_size=rows)
  mask = epoch['user_mask']
  pairs = collections.Counter(
      zip(epoch['user_item'][mask], epoch['target_item'][mask])
  )
  want = collections.Counter(
      pair for u in USERS for pair in itertools.pairwise(u.items[:-2])
  )
  assert pairs == want
  for modality in ('item', 'genre', 'rating'):
    for key in (f'user_{modality}', f'target_{modality}'):
      assert ((epoch[key] > 0) == mask).all()
  items = epoch['target_item']
  np.testing.assert_array_equal(
      epoch['target_genre'], np.where(mask, (items - 1) % 8 + 1, 0)
  )
  starts = epoch['positions'] == 0
  np.testing.assert_array_equal(
      epoch['segment_ids'], np.where(mask, np.cumsum(starts & mask, 1), 0)
  )


@pytest.mark.parametrize('split, back', [('validation', 2), ('test', 1)])
def test_events_evaluation_is_a_row_a_user_in_order(make, split, back):
  dataset = make('events')
  batches = list(dataset.eval_batches(split=split, batch_size=7))
  kept = [u for u in USERS if len(u.items) >= 3]
  rows = {
      key: np.concatenate([b[key] for b in batches]) for key in batches[0]
  }
  assert rows['example_id'].tolist() == list(range(len(kept))) + [-1] * (
      -len(kept) % 7
  )
  for i, user in enumerate(kept):
    history = list(user.items[:-back])
    assert rows['label_item'][i] == user.items[-back]
    n = min(LENGTH, len(history))
    assert rows['user_item'][i][:n].tolist() == history[-n:]
    assert not rows['user_item'][i][n:].any()
    seen = rows['seen_item'][i]
    assert sorted(seen[seen > 0]) == sorted(set(history))
    assert rows['user_mask'][i].sum() == n
    assert dataset.user_of_example(split, i) == user.name


def test_next_item_targets_are_the_titles_after_what_they_see(make):
  dataset = make('next_item', targets_per_example=4)
  (epoch,) = _steps(dataset, 1, batch_size=dataset.num_examples('train'))
  found = collections.Counter()
  wordings = set()
  for row in range(len(epoch['history_end'])):
    questions = set()
    for target, end in enumerate(epoch['history_end'][row]):
      tokens = epoch['target_tokens'][row, target]
      if not end:
        assert not tokens.any()
        continue
      question, text = _text(dataset, tokens).split('?')
      questions.add(question)
      found[(epoch['user_item'][row, end - 1], text)] += 1
    assert len(questions) == 1
    wordings |= questions
  want = collections.Counter(
      (before, f' Film {label} ({1950 + label})')
      for u in USERS
      for before, label in itertools.pairwise(u.items[:-2])
  )
  assert found == want
  assert wordings == {'Which film next', 'What film follows', 'The next film'}


def test_answer_weights_hold_the_answer_and_its_end(make):
  dataset = make('next_item')
  batch = next(dataset.eval_batches(split='test', batch_size=4))
  assert batch['prompt_tokens'].shape[1] == 1
  for row, label in enumerate(batch['label_item']):
    answer = batch['target_tokens'][row, 0][batch['loss_weights'][row, 0] > 0]
    assert answer[-1] == 1
    assert dataset.tokenizer.decode(answer[:-1].tolist()) == (
        dataset.catalogue[label - 1].title
    )
    prompt = batch['prompt_tokens'][row, 0]
    prompt = prompt[np.argmax(prompt > 0) :]
    assert prompt[0] == 3 and prompt.all()
    np.testing.assert_array_equal(
        batch['input_tokens'][row, 0, : len(prompt)], prompt
    )


def test_favourite_genre_counts_only_what_is_seen(make):
  dataset = make('favourite_genre', modalities=('item',))
  batch = next(dataset.eval_batches(split='test', batch_size=24))
  assert 'user_genre' not in batch
  names = dataset.answers.texts
  for row in np.flatnonzero(batch['example_id'] >= 0):
    counts = collections.Counter()
    seen = batch['user_item'][row][batch['user_mask'][row]]
    for when, item in enumerate(seen):
      for genre in dataset.catalogue[item - 1].labels:
        # The fraction decides ties: the one seen last.
        counts[genre] = int(counts[genre]) + 1 + 1e-3 * when
    best = max(counts, key=lambda g: (counts[g], -names.index(g)))
    assert names[batch['label'][row] - 1] == best


@pytest.mark.parametrize('task', TASKS)
def test_batches_are_as_the_spec_says(make, task):
  targets = 1 if task in ('events', 'text') else 3
  dataset = make(task, targets_per_example=targets)
  batches = [('train', _steps(dataset, 1)[0])]
  if task != 'text':
    batches.append(
        ('test', next(dataset.eval_batches(split='test', batch_size=6)))
    )
  for split, batch in batches:
    spec = dataset.batch_spec(split, 6)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == spec


@pytest.mark.parametrize('task', TASKS)
def test_any_number_of_hosts_and_any_start_give_the_same_batches(make, task):
  dataset = make(task)
  whole = _steps(dataset, 25)  # More than an epoch of events.
  _equal(_steps(dataset, 1, start_step=24)[0], whole[24])
  parts = [
      _steps(dataset, 1, start_step=3, host=host, num_hosts=3)[0]
      for host in range(3)
  ]
  together = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  _equal(together, whole[3])


def test_another_seed_gives_other_batches(make):
  dataset = make('events')
  one, other = _steps(dataset, 1), _steps(dataset, 1, seed=2)
  assert (one[0]['user_item'] != other[0]['user_item']).any()


def test_hosts_share_an_evaluation(make):
  dataset = make('next_item')
  whole = list(dataset.eval_batches(split='test', batch_size=20))
  hosts = [
      list(dataset.eval_batches(
          split='test', batch_size=20, host=host, num_hosts=2
      ))
      for host in range(2)
  ]
  assert {len(h) for h in hosts} == {len(whole)}
  for step, batch in enumerate(whole):
    together = {
        k: np.concatenate([h[step][k] for h in hosts]) for k in batch
    }
    _equal(together, batch)


def test_text_length_pads_and_cuts_training_only(make):
  free = make('next_item')
  longest = free.batch_spec('train', 1)['target_tokens'].shape[-1]
  for length in (longest - 2, longest + 5):
    dataset = make('next_item', text_length=length)
    train, test = (dataset.batch_spec(s, 1) for s in ('train', 'test'))
    assert train['target_tokens'].shape == (1, 1, length)
    assert test['target_tokens'].shape == (1, 1, longest)


def test_answers_that_are_cut_are_told_once(make, monkeypatch, capfd):
  free = make('next_item')
  longest = free.num_tokens('train')
  lengths = np.count_nonzero(free.answers.tokens[1:], axis=1)
  small = free.asking.longest_prompt + 2
  cut = (lengths > 2).sum()
  dataset = make('next_item', text_length=small)
  assert 0 < dataset.asking.least < dataset.asking.longest_prompt
  # Were all wordings as long; no answer is cut that fits after the shortest.
  monkeypatch.setattr(
      dataset.asking.questions, 'shortest', dataset.asking.longest_prompt
  )
  for _ in range(2):
    assert dataset.num_tokens('train') == small
    assert dataset.num_tokens('test') == longest
  told = capfd.readouterr().err
  assert told.count('warning: ') == 1
  assert f'={small} cuts at least {cut} of {len(lengths)} answers' in told
  make('next_item', text_length=longest - 1).num_tokens('train')
  assert 'cuts' not in capfd.readouterr().err


@pytest.mark.parametrize('task', ['next_item', 'favourite_genre'])
def test_datasets_of_one_task_share_answers_and_targets(make, task):
  """As those that train, in a mixture or not, and those that evaluate."""
  one, other = make(task), make(task, text_length=40, modalities=['item'])
  assert one.answers is other.answers
  for split in ('train', 'validation', 'test'):
    assert one.splits[split].targets is other.splits[split].targets


@pytest.mark.parametrize(
    ['names', 'mend'],
    [
        (('genre', 'rating'), "FAVOURITE_TASK='\"favourite_genre\"'"),
        (('rating',), 'include data/next_item.gin'),
    ],
)
def test_a_favourite_that_items_do_not_have(make, names, mend):
  schema = make('next_item').log.schema.select(('item', *names))
  with pytest.raises(ValueError, match='have no category; ') as error:
    tasks.labels_of(schema, 'favourite_category')
  assert mend in str(error.value)


def test_there_are_as_many_examples_as_the_manifest_says(make):
  dataset = make('next_item')
  path = pathlib.Path(dataset.data_dir) / 'manifest.json'
  want = json.loads(path.read_text())['splits']['leave_one_out']
  for split in ('train', 'validation', 'test'):
    assert dataset.num_examples(split) == want[split]


def test_another_number_in_the_manifest_is_an_error(tmp_path):
  data_dir = fixtures.write_dataset(tmp_path / 'd')
  path = pathlib.Path(data_dir) / 'manifest.json'
  manifest = json.loads(path.read_text())
  manifest['splits']['leave_one_out']['train'] += 1
  path.write_text(json.dumps(manifest))
  dataset = pipeline.Dataset(
      data_dir=data_dir, task='events', history_length=4
  )
  with pytest.raises(ValueError, match='gives .* train examples; manifest'):
    dataset.batch_spec('train', 2)


def test_identity_and_fingerprint(make):
  dataset = make('next_item')
  catalogue = pathlib.Path(dataset.data_dir) / 'catalogue.jsonl'
  assert dataset.identity['catalogue'] == (
      hashlib.sha256(catalogue.read_bytes()).hexdigest()[:16]
  )
  without_text = {'catalogue', 'events', 'split_rule'}
  assert set(dataset.identity) == without_text | {'vocabulary'}
  assert set(make('events').identity) == without_text
  assert dataset.name == 'tiny_next_item'
  assert make('events').fingerprint == dataset.fingerprint


def test_every_split_rule_has_its_identity(make):
  later = dataclasses.replace(schema.GLOBAL_TIME, quantiles=(0.7, 0.9))
  rules = (*schema.SPLIT_RULES.values(), later)
  found = [make('events', split_rule=rule).identity for rule in rules]
  assert len({identity.pop('split_rule') for identity in found}) == len(rules)
  assert all(identity == found[0] for identity in found)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(task='next_film'), "TASK is 'next_film'; it must be one of"),
        (dict(history_length=0), 'HISTORY_LENGTH is 0'),
        (dict(history_length=51, split_rule=schema.PAPER_WINDOWS), 'allows 50'),
        (dict(targets_per_example=0), 'TARGETS_PER_EXAMPLE is 0'),
        (dict(targets_per_example=9), r'1\.\.8'),
        (dict(vocabulary=None), 'VOCABULARY is None .* give a'),
        (dict(task='events'), 'drop it'),
        (dict(max_eval_examples=0), 'MAX_EVAL_EXAMPLES is 0'),
        (dict(max_eval_examples=1.5), 'MAX_EVAL_EXAMPLES is 1.5'),
    ],
)
def test_bad_settings(make, settings, message):
  settings = {
      'task': 'next_item', 'vocabulary': 'x.model'
  } | settings
  with pytest.raises(ValueError, match=message):
    make(**settings)


@pytest.mark.parametrize(
    'task, settings, split, message',
    [
        ('events', dict(data_dir='/nowhere'), 'train', 'DATA_DIR must be'),
        ('events', dict(modalities=('item', 'mood')), 'train', "'mood'"),
        ('events', dict(modalities=('genre',)), 'train', "must be 'item'"),
        ('events', dict(split_rule=schema.PAPER_WINDOWS), 'train', 'is empty'),
        ('events', dict(split_rule=schema.PAPER_WINDOWS), 'test', 'is empty'),
        ('text', {}, 'test', "no split 'test'; it has train"),
        ('next_item', dict(vocabulary='/none.model'), 'test', 'does not exist'),
        ('next_item', dict(text_length=2), 'train', 'TEXT_LENGTH is 2'),
    ],
)
def test_bad_data(make, task, settings, split, message):
  with pytest.raises(ValueError, match=message):
    make(task, **settings).batch_spec(split, 2)


def test_an_empty_split_says_what_its_events_lack(tmp_path, make):
  users = [fixtures.User(name='u', items=[5, 10, 15, 20])]  # Without texts.
  root = pathlib.Path(fixtures.write_dataset(tmp_path / 'd', users))

  def without_genres(raw):
    item, genre, rating = raw['modalities']
    return {'modalities': [item, {**genre, 'values': [''] * 8}, rating]}

  fixtures.change_schema(root, without_genres)
  for task, lacks in (
      ('review_generation', 'review'), ('favourite_genre', 'genre')
  ):
    dataset = make(task, data_dir=str(root))
    with pytest.raises(ValueError, match=f'empty: .* no event has a {lacks}'):
      dataset.num_examples('test')
  few = [fixtures.User(name='u', items=[1, 2])]
  data_dir = fixtures.write_dataset(tmp_path / 'few', few)
  with pytest.raises(ValueError, match='a user needs 3 events or more'):
    make('review_generation', data_dir=data_dir).num_examples('test')


def test_favourite_genre_needs_genres(tmp_path, tiny_vocabulary):
  root = pathlib.Path(fixtures.write_dataset(tmp_path / 'plain'))
  fixtures.change_schema(
      root, lambda raw: {'modalities': raw['modalities'][:1]}
  )
  dataset = pipeline.Dataset(
      data_dir=str(root),
      task='favourite_genre',
      history_length=4,
      vocabulary=tiny_vocabulary,
  )
  with pytest.raises(ValueError, match="have no genre; include data.next_item"):
    dataset.batch_spec('train', 2)

"""Summaries of histories, against counting by hand."""

import collections
import dataclasses
import json

import pytest
import tensorflow as tf

from user_llm.data import label_counts
from user_llm.data import questions
from user_llm.data import requests


def _summary(dataset, items, num_labels):
  counts = collections.Counter(
      label for i in items for label in dataset.catalogue[i - 1].labels
  )
  ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
  told = [f'{name} {count},' for name, count in ranked[:num_labels]]
  return ' '.join([*told, 'so far;']) if told else ''


def _text(dataset, tokens):
  return dataset.tokenizer.decode([t for t in tokens.tolist() if t > 3])


@pytest.mark.parametrize('num_labels', [1, 2, 99])
def test_counts_of_all_that_may_be_seen(make, num_labels):
  config = questions.TextPromptConfig(summary_labels=num_labels)
  dataset = make('next_item', history_as_text=config)
  (batch,) = dataset.eval_batches(
      split='test', batch_size=dataset.num_examples('test')
  )
  found = set()
  for i, tokens in enumerate(batch['prompt_tokens'][:, 0]):
    items = batch['user_item'][i][batch['user_mask'][i]]
    summary = _summary(dataset, items, num_labels)
    assert _text(dataset, tokens).startswith(summary)
    found.add(summary)
  assert len(found) > 3
  assert not batch['num_prompt_events'].any()  # None is told one by one.


def test_every_target_has_its_own(make):
  config = questions.TextPromptConfig(summary_labels=3)
  dataset = make('next_item', history_as_text=config, targets_per_example=3)
  batch = next(iter(dataset.train_batches(batch_size=4, seed=0)))
  checked = 0
  for i, rows in enumerate(batch['input_tokens']):
    items = batch['user_item'][i]
    for tokens, end in zip(rows, batch['history_end'][i]):
      if end:
        summary = _summary(dataset, items[:end], 3)
        assert _text(dataset, tokens).startswith(summary)
        checked += 1
  assert checked > 4


def test_before_the_last_events_of_a_request(tmp_path, make):
  config = questions.TextPromptConfig(
      summary_labels=2, max_tokens=40, max_events=1, fields=('item',)
  )
  dataset = make('next_item', history_as_text=config)
  history = [{'item': f's{i}', 'rating': 4} for i in (1, 5, 1)]
  path = tmp_path / 'users.jsonl'
  lines = [{'history': history}, {'history': []}]
  path.write_text('\n'.join(json.dumps(line) for line in lines))
  users = list(
      requests.RequestReader(
          dataset.schema, dataset.catalogue, dataset.log.schema
      ).read(str(path))
  )
  known, unknown = dataset.request_prompts(users, rows=2)[:, 0]
  assert _text(dataset, known) == (
      'Action 2, Drama 1, so far; Film 1 (1951); Which film next?'
  )
  assert _text(dataset, unknown) == 'Which film next?'


def test_labels_of_any_name(make, tiny_vocabulary):
  dataset = make('next_item')
  item, genre = dataset.log.schema.modalities[:2]
  schema = dataclasses.replace(
      dataset.log.schema,
      modalities=(item, dataclasses.replace(genre, name='shelf')),
  )
  counts = label_counts.LabelCounts(
      dataclasses.replace(dataset.log, schema=schema), 2, tiny_vocabulary
  )
  assert counts.modality == 'shelf'
  (told,) = counts(tf.ragged.constant([[1, 4, 2]]), tf.ragged.constant([[2]]))
  assert _text(dataset, told.numpy()) == 'Action 1, Comedy 1, so far;'


def test_mistakes(make, tiny_vocabulary):
  with pytest.raises(ValueError, match=r'SUMMARY_LABELS\) is -1; it must be'):
    questions.TextPromptConfig(summary_labels=-1)
  log = make('next_item').log
  schema = dataclasses.replace(
      log.schema, modalities=(log.schema['item'], log.schema['rating'])
  )
  log = dataclasses.replace(log, schema=schema)
  with pytest.raises(ValueError, match='neither genres nor categories; set it'):
    label_counts.LabelCounts(log, 3, tiny_vocabulary)

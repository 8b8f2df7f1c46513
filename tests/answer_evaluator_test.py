"""Answers as text: ranks by hand, and a ranking by exhaustive scoring."""

import dataclasses

import numpy as np
import pytest
import small_user_llm

from user_llm import answer_evaluator
from user_llm import partitioning
from user_llm.data import questions

_MAX = np.iinfo(np.int32).max


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  return small_user_llm.write_workdir(
      tmp_path_factory.mktemp('answers') / 'run',
      small_user_llm.USER_LLM,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )


def _test_split(dataset):
  """All test users at once, without padding rows."""
  size = dataset.num_examples('test')
  (batch,) = dataset.eval_batches(split='test', batch_size=size)
  return batch


def _metrics(ranks):
  gain = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0)
  return {
      'recall@1': np.mean(ranks <= 1),
      'recall@5': np.mean(ranks <= 5),
      'recall@10': np.mean(ranks <= 10),
      'ndcg@10': gain.mean(),
      'mrr@10': np.mean(np.where(ranks <= 10, 1 / ranks, 0)),
  }


def test_answer_ranks_worked_example():
  found = np.array([[4, 2, 7], [0, 1, 2], [3, -1, -1], [4, 2, 7]])
  scores = np.array([[-1, -2, -3], [-1, -1, -2], [-1, -9, -9], [np.nan] * 3])
  ranks = answer_evaluator.answer_ranks(found, scores, np.array([2, 0, 5, 4]))
  assert ranks.tolist() == [2, 2, _MAX, 3]


def test_answers_as_text_leaves_out_what_was_not_found(model):
  answers = model[0]['test_evaluators'][0].answers
  found = answer_evaluator.answers_as_text(
      answers, np.array([3, 0, -1]), np.array([-0.25, -1.00004, -np.inf]), 5
  )
  assert found == [
      {'text': answers.texts[3], 'score': -0.25},
      {'text': answers.texts[0], 'score': -1.0},
  ]


def test_next_item_equals_an_exhaustive_ranking(model, tiny_dataset):
  parts, params = model
  evaluator = dataclasses.replace(parts['test_evaluators'][0], batch_size=16)
  batch = _test_split(evaluator.dataset)
  scores = small_user_llm.answer_scores(
      parts['objective'], params, evaluator.dataset, batch
  )
  rows = np.arange(len(scores))
  label = batch['label_item']
  of_label = scores[rows, label - 1]
  ahead = scores > of_label[:, None]
  ranks_all = 1 + ahead.sum(axis=1)
  seen = (batch['seen_item'][:, :, None] == np.arange(1, 41)).any(axis=1)
  ranks_unseen = 1 + (ahead & ~seen).sum(axis=1)

  found = evaluator.evaluate(
      parts['objective'], params, partitioning.MeshConfig().make()
  )
  row = found.models['user_llm']
  for policy, ranks in (('all', ranks_all), ('unseen', ranks_unseen)):
    for name, value in _metrics(ranks).items():
      got = row[f'{name}/{policy}'].mean
      np.testing.assert_allclose(got, value, rtol=1e-6, err_msg=name + policy)
  np.testing.assert_allclose(row['answer_nats'].mean, -of_label.mean(), 1e-4)
  kept = found.per_example.values['user_llm']
  np.testing.assert_array_equal(kept['rank/all'], ranks_all)
  np.testing.assert_array_equal(kept['rank/unseen'], ranks_unseen)
  facts = found.per_example.facts
  np.testing.assert_array_equal(facts['label_item'], label)
  np.testing.assert_array_equal(
      facts['history_events'], (batch['user_item'] > 0).sum(axis=1)
  )
  assert set(found.models) == {'user_llm', 'popularity', 'markov'}
  assert found.num_examples == len(scores)
  assert found.split == 'test'
  assert found.split_fingerprint == evaluator.dataset.fingerprint

  assert len(found.examples) == 8
  titles = [item.title for item in evaluator.dataset.catalogue]
  example = found.examples[0]
  assert example['truth'] == titles[label[0] - 1]
  assert example['user'] == evaluator.dataset.user_of_example('test', 0)
  history = batch['user_item'][0]
  history = history[history > 0]
  assert example['history'] == [titles[i - 1] for i in history]
  candidates = np.where(seen[0], -np.inf, scores[0])
  candidates[label[0] - 1] = of_label[0]
  best = np.argsort(-candidates)[:5]
  assert [a['text'] for a in example['answers']] == [titles[i] for i in best]
  np.testing.assert_allclose(
      [a['score'] for a in example['answers']], candidates[best], atol=1e-3
  )


def test_favourite_genre_equals_an_exhaustive_choice(model):
  """With a batch size that the 8 devices do not divide."""
  parts, params = model
  evaluator = dataclasses.replace(parts['test_evaluators'][1], batch_size=5)
  batch = _test_split(evaluator.dataset)
  scores = small_user_llm.answer_scores(
      parts['objective'], params, evaluator.dataset, batch
  )
  mesh = partitioning.MeshConfig().make()
  found = evaluator.evaluate(parts['objective'], params, mesh)
  want = np.mean(scores.argmax(axis=1) + 1 == batch['label'])
  assert found.models['user_llm']['accuracy'].mean == pytest.approx(want)
  texts = evaluator.dataset.answers.texts
  assert found.per_example.facts['labels/genre'].tolist() == [
      texts[label - 1] for label in batch['label']
  ]
  assert set(found.models) == {
      'user_llm', 'counting_oracle', 'most_frequent_genre'
  }
  genres = set(evaluator.dataset.answers.texts)
  for example in found.examples:
    assert example['truth'] in genres
    assert {a['text'] for a in example['answers']} <= genres
  brief = evaluator.evaluate(parts['objective'], params, mesh, full=False)
  assert set(brief.models) == {'user_llm'} and not brief.examples


def test_the_future_and_the_history_as_text(model):
  parts, params = model
  evaluator = parts['test_evaluators'][1]
  dataset = dataclasses.replace(
      evaluator.dataset,
      task='future_favourite_genre',
      history_as_text=questions.TextPromptConfig(max_tokens=60),
  )
  evaluator = dataclasses.replace(evaluator, dataset=dataset, batch_size=16)
  found = evaluator.evaluate(
      parts['objective'], params, partitioning.MeshConfig().make()
  )
  assert set(found.models) == {
      'user_llm', 'favourite_so_far', 'most_frequent_genre'
  }
  assert found.protocol.endswith('the future has 1.0 events on average')
  batch = _test_split(dataset)
  told, visible = batch['num_prompt_events'][:, 0], batch['history_end'][:, 0]
  row = found.models['user_llm']
  assert row['prompt_events'].mean == told.mean() > 0
  assert 0 < row['prompt_truncated'].mean == (told < visible).mean()
  for example in found.examples:
    assert example['question'].startswith('Film ')
    assert example['question'].endswith('favourite genre?')
    assert example['history'][-1] in example['question']


def test_what_is_not_among_the_beams_has_no_rank(model):
  parts, params = model
  evaluator = dataclasses.replace(
      parts['test_evaluators'][0], batch_size=16, beam_size=10
  )
  found = evaluator.evaluate(
      parts['objective'], params, partitioning.MeshConfig().make(), full=False
  )
  ranks = found.per_example.values['user_llm']['rank/all']
  assert (ranks <= 10).any()
  assert set(ranks[ranks > 10]) == {np.iinfo(np.int32).max}
  assert found.models['user_llm']['recall@10/all'].mean == (ranks <= 10).mean()


@pytest.mark.parametrize('beam_size', [0, -1, 2.5, 9])
def test_bad_beam_size(model, beam_size):
  evaluator = model[0]['test_evaluators'][0]
  with pytest.raises(ValueError, match='BEAM_SIZE'):
    dataclasses.replace(evaluator, beam_size=beam_size)


def test_a_task_without_answers(model):
  dataset = dataclasses.replace(
      model[0]['test_evaluators'][0].dataset,
      task='events', vocabulary=None, targets_per_example=1,
  )
  with pytest.raises(ValueError, match="task with answers, not 'events'"):
    answer_evaluator.AnswerEvaluator(dataset=dataset)

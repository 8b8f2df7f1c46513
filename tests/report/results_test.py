"""Tests of reading workdirs and joining their evaluations."""

import json
import pathlib

import pytest

from user_llm.report import plots
from user_llm.report import results


def _write(workdir: pathlib.Path, task: str, models: dict, **fields) -> None:
  evaluation = {
      'task': task,
      'split': 'test',
      'step': 10,
      'num_examples': 100,
      'split_rule': 'leave_one_out',
      'split_fingerprint': 'abc',
      'models': {
          name: {metric: {'mean': mean, 'stderr': 0.1}}
          for name, (metric, mean) in models.items()
      },
      **fields,
  }
  path = workdir / 'eval' / task / f'{evaluation["step"]}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(evaluation))


def _tables(*workdirs: pathlib.Path) -> list[results.Table]:
  return results.make_tables([results.load_run(str(w)) for w in workdirs])


def test_encoder_and_text_model_share_a_table(tmp_path):
  _write(
      tmp_path / 'a',
      'x_y_events',
      {'popularity': ('recall@5/all', 0.1), 'encoder_head': ('mrr/all', 0.2)},
  )
  _write(
      tmp_path / 'b',
      'x_y_next_item',
      {
          'bayes_optimal': ('recall@5/all', 0.5),
          'popularity': ('recall@5/all', 0.3),
          'user_llm': ('recall@5/unseen', 0.2),
      },
  )
  (table,) = _tables(tmp_path / 'a', tmp_path / 'b')
  assert table.title == 'x_y: next item'
  assert [row.model for row in table.rows] == [
      'user_llm',
      'encoder_head',
      'popularity',
      'bayes_optimal',
  ]
  assert table.metrics == ('recall@5', 'mrr')
  assert table.policies == ('unseen', 'all')
  # The later workdir counts, and a ceiling is never the best.
  assert table.best('recall@5/all') == 0.3
  assert table.rows[2].run == 'b'
  assert table.best('ndcg@10/all') is None


@pytest.mark.parametrize(
    ['task', 'title'],
    [
        ('x_favourite_category', 'x: favourite category'),
        ('x_future_favourite_genre', 'x: future favourite genre'),
        ('x_y_review_generation', 'x_y: review generation'),
    ],
)
def test_titles(tmp_path, task, title):
  _write(tmp_path / 'a', task, {'user_llm': ('accuracy', 0.2)})
  assert [table.title for table in _tables(tmp_path / 'a')] == [title]


def test_a_table_of_texts(tmp_path):
  _write(
      tmp_path / 'a',
      'x_review_generation',
      {
          'copy_title': ('exact_match', 0.1),
          'most_frequent_answer': ('rougeL', 0.1),
          'user_llm': ('rouge1', 0.1),
      },
  )
  (table,) = _tables(tmp_path / 'a')
  assert table.metrics == ('rouge1', 'rougeL', 'exact_match')
  assert [row.model for row in table.rows] == [
      'user_llm', 'most_frequent_answer', 'copy_title'
  ]
  assert [row.is_floor for row in table.rows] == [False, True, True]


def test_another_split_is_another_table(tmp_path):
  _write(tmp_path / 'a', 'x_events', {'encoder_head': ('mrr/all', 0.2)})
  _write(
      tmp_path / 'b',
      'x_next_item',
      {'user_llm': ('mrr/all', 0.2)},
      split_fingerprint='other',
  )
  _write(tmp_path / 'b', 'x_favourite_genre', {'user_llm': ('accuracy', 0.2)})
  titles = [table.title for table in _tables(tmp_path / 'a', tmp_path / 'b')]
  assert titles == ['x: next item', 'x: next item', 'x: favourite genre']


def test_the_row_with_most_examples_counts(tmp_path):
  _write(
      tmp_path / 'a',
      'x_events',
      {'markov': ('mrr/all', 0.25), 'encoder_head': ('mrr/all', 0.3)},
      num_examples=943,
  )
  _write(
      tmp_path / 'b',
      'x_next_item',
      {'markov': ('mrr/all', 0.5), 'user_llm': ('mrr/all', 0.3)},
      num_examples=50,
  )
  (table,) = _tables(tmp_path / 'a', tmp_path / 'b')
  means = {row.model: row.metrics['mrr/all'].mean for row in table.rows}
  assert means == {'user_llm': 0.3, 'encoder_head': 0.3, 'markov': 0.25}
  assert table.has_mixed_counts


def test_test_split_and_newest_step_go_first(tmp_path):
  for split, step, mean in (
      ('validation', 9, 0.1),
      ('test', 10, 0.2),
      ('test', 100, 0.3),
      ('validation', 200, 0.4),
  ):
    _write(
        tmp_path,
        'x_events',
        {'encoder_head': ('mrr/all', mean)},
        split=split,
        step=step,
    )
  (table,) = _tables(tmp_path)
  assert table.split == 'test'
  assert table.rows[0].metrics['mrr/all'].mean == 0.3
  assert table.rows[0].step == 100


def test_a_bare_workdir_is_fine(tmp_path):
  run = results.load_run(str(tmp_path))
  assert run.name == tmp_path.name
  assert not results.make_tables([run])


def test_bad_workdirs(tmp_path):
  with pytest.raises(ValueError, match='not a directory'):
    results.load_run(str(tmp_path / 'nothing'))
  (tmp_path / 'run.json').write_text('{')
  with pytest.raises(ValueError, match='run.json is no valid JSON'):
    results.load_run(str(tmp_path))


def test_knowledge_that_is_kept(tmp_path):
  """Fewer bits are better, and the decoder as it was is no competitor."""
  for name, mean in (('a', 1.5), ('b', 1.25)):
    _write(
        tmp_path / name,
        'wikitext2_test_held_out_text',
        {
            f'user_llm_{name}': ('bits_per_byte', mean),
            'base_decoder': ('bits_per_byte', 1.0),
        },
    )
  (table,) = _tables(tmp_path / 'a', tmp_path / 'b')
  assert table.title == 'wikitext2_test: held out text'
  assert table.best('bits_per_byte') == 1.25
  base = table.rows[-1]
  assert base.model == 'base_decoder' and base.is_ceiling
  chart = plots.bars(table)
  assert 'Decoder before training' in chart and 'bits_per_byte' in chart
  _write(tmp_path / 'c', 'x_favourite_genre', {'user_llm': ('accuracy', 0.2)})
  (table,) = _tables(tmp_path / 'c')
  assert plots.bars(table) is None

"""Tests of joining evaluations: tables, seeds, floors, and names."""

import json
import math
import pathlib

import pytest
import report_runs

from user_llm.report import configs
from user_llm.report import gathering
from user_llm.report import plots
from user_llm.report import results
from user_llm.report import tables as tables_lib


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


def _tables(*workdirs: pathlib.Path) -> tuple[results.Table, ...]:
  return gathering.gather([str(w) for w in workdirs]).tables


def _labels(table: results.Table) -> list[str]:
  return [tables_lib.label(row) for row in table.rows]


def test_encoder_and_text_model_share_a_table(tmp_path):
  _write(
      tmp_path / 'a',
      'x_y_events',
      {'popularity': ('recall@5/all', 0.1), 'encoder_head': ('mrr@10/all', 0.2)},
  )
  _write(
      tmp_path / 'b',
      'x_y_next_item',
      {
          'bayes_optimal': ('recall@5/all', 0.5),
          'popularity': ('recall@5/all', 0.1),
          'user_llm': ('recall@5/unseen', 0.2),
      },
  )
  (table,) = _tables(tmp_path / 'a', tmp_path / 'b')
  assert table.title == 'x_y: next item'
  assert _labels(table) == [
      'User-LLM (text)', 'Encoder head', 'Popularity', 'Bayes-optimal'
  ]
  assert table.metrics('all') == ('recall@5/all', 'mrr@10/all')
  assert table.policies == ('unseen', 'all')
  # A ceiling is never the best.
  assert table.best('recall@5/all') == 0.1
  assert table.best('ndcg@10/all') is None
  assert table.rows[2].runs == ('a', 'b')


def test_no_row_is_lost(tmp_path):
  """Two runs of one model, and floors of other examples, are rows each."""
  for name, recall, popularity, num in (
      ('a', 0.2, 0.1, 943), ('b', 0.4, 0.1, 943), ('c', 0.3, 0.5, 64),
  ):
    _write(
        tmp_path / name,
        'x_next_item',
        {
            'user_llm': ('mrr@10/all', recall),
            'popularity': ('mrr@10/all', popularity),
        },
        num_examples=num,
        seed=0,
    )
  (table,) = _tables(*(tmp_path / name for name in 'abc'))
  assert _labels(table) == [
      'User-LLM (text) · a', 'User-LLM (text) · b', 'User-LLM (text) · c',
      'Popularity · n = 943', 'Popularity · n = 64',
  ]
  means = [row.metrics['mrr@10/all'].mean for row in table.rows]
  assert means == [0.2, 0.4, 0.3, 0.1, 0.5]
  assert table.has_mixed_counts


def test_baselines_and_models_without_a_name_come_before_floors(tmp_path):
  names = (
      'popularity', 'my_model', 'gru4rec', 'bayes_optimal', 'user_llm',
      'bert4rec',
  )
  _write(
      tmp_path / 'a', 'x_events', {name: ('mrr@10/all', 0.1) for name in names}
  )
  (table,) = _tables(tmp_path / 'a')
  assert _labels(table) == [
      'User-LLM (text)', 'BERT4Rec', 'GRU4Rec', 'my_model', 'Popularity',
      'Bayes-optimal',
  ]


def test_runs_of_one_name(tmp_path):
  for folder in ('x/run', 'y/run'):
    _write(tmp_path / folder, 'x_next_item', {'user_llm': ('mrr@10/all', 0.2)})
  (table,) = _tables(tmp_path / 'x' / 'run', tmp_path / 'y' / 'run')
  assert [row.detail for row in table.rows] == ['x/run', 'y/run']


def test_seeds_of_one_configuration_are_one_row(tmp_path):
  """Means 0.5, 0.25, 0 over seeds: 0.25, with sd 0.25, se 0.25 / sqrt(3)."""
  accuracies = ([1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0])
  for seed, accuracy in enumerate(accuracies):
    report_runs.write(
        tmp_path / f'lora_s{seed}',
        {'user_llm': {'accuracy': accuracy}, 'floor': {'accuracy': [0] * 4}},
        seed=seed,
    )
  report_runs.write(
      tmp_path / 'other', {'user_llm': {'accuracy': [1, 1, 1, 0]}},
      config=report_runs.CONFIG.replace('0.001', '0.002'),
  )
  (table,) = _tables(*sorted(tmp_path.iterdir()))
  joined = table.rows[0]
  assert joined.run == 'lora_s*' and joined.seeds == (0, 1, 2)
  value = joined.metrics['accuracy']
  assert value.mean == pytest.approx(0.25)
  assert value.stderr == pytest.approx(0.25 / math.sqrt(3))
  assert joined.values['accuracy'] == pytest.approx([1 / 3, 2 / 3, 0, 0])
  single = table.rows[1]
  assert single.run == 'other' and not single.has_seeds
  # Over the four examples: sqrt(3/4 * 1/4 / 3).
  assert single.metrics['accuracy'].stderr == pytest.approx(0.25)
  assert 'sd / √seeds' in tables_lib.errors_note(table)


@pytest.mark.parametrize(
    'changes',
    [
        {'seed': 0}, {'step': 20}, {'first_user': 3}, {'config': ''},
        {'protocol': 'another'},
    ],
)
def test_what_is_not_another_seed_of_the_same(tmp_path, changes):
  values = {'user_llm': {'accuracy': [1, 0, 0]}}
  report_runs.write(tmp_path / 'a', values, seed=0)
  report_runs.write(tmp_path / 'b', values, **{'seed': 1, **changes})
  (table,) = _tables(tmp_path / 'a', tmp_path / 'b')
  assert [row.run for row in table.rows] == ['a', 'b']


def test_checkpoints_of_other_seeds_are_one_configuration(tmp_path):
  found = {}
  for name, rate in (('s0', 1), ('s1', 1), ('s2', 2)):
    encoder = tmp_path / f'encoder_{name}'
    encoder.mkdir()
    (encoder / 'config.gin').write_text(f'RATE = {rate}\nSEED = {name[1]}\n')
    run = tmp_path / name
    run.mkdir()
    (run / 'config.gin').write_text(
        f"SEED = {name[1]}\nENCODER_CHECKPOINT = '{encoder}'\n"
    )
    found[name] = configs.identity(run)
  assert found['s0'] == found['s1'] != found['s2']


def test_how_a_run_is_watched_is_not_what_it_is(tmp_path):
  configs_of = {
      'often': 'EVAL_EVERY_STEPS = 10\nLOG_EVERY_STEPS = 1\nNUM_STEPS = 8\n',
      'seldom': 'EVAL_EVERY_STEPS = 20\nLOG_EVERY_STEPS = 5\nNUM_STEPS = 8\n',
      'longer': 'EVAL_EVERY_STEPS = 10\nLOG_EVERY_STEPS = 1\nNUM_STEPS = 9\n',
  }
  found = {}
  for name, text in configs_of.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.gin').write_text(text)
    found[name] = configs.identity(tmp_path / name)
  assert found['often'] == found['seldom'] != found['longer']


def test_macros(tmp_path):
  (tmp_path / 'config.gin').write_text(report_runs.CONFIG.format(seed=3))
  assert configs.macros(tmp_path) == {
      'SEED': '3',
      'LEARNING_RATE': '0.001',
      'LEARNING_RATE_SCALES': "(('a', 1.0), ('b', 2.0))",
  }
  assert not configs.macros(tmp_path / 'nothing')


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
  assert table.metrics('') == ('rouge1', 'rougeL', 'exact_match')
  assert table.leading == 'rougeL'
  assert [row.model for row in table.rows] == [
      'user_llm', 'most_frequent_answer', 'copy_title'
  ]
  assert [row.is_floor for row in table.rows] == [False, True, True]


def test_another_split_is_another_table(tmp_path):
  _write(tmp_path / 'a', 'x_events', {'encoder_head': ('mrr@10/all', 0.2)})
  _write(
      tmp_path / 'b',
      'x_next_item',
      {'user_llm': ('mrr@10/all', 0.2)},
      split_fingerprint='other',
  )
  _write(tmp_path / 'b', 'x_favourite_genre', {'user_llm': ('accuracy', 0.2)})
  titles = [table.title for table in _tables(tmp_path / 'a', tmp_path / 'b')]
  assert titles == ['x: next item', 'x: next item', 'x: favourite genre']


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
        {'encoder_head': ('mrr@10/all', mean)},
        split=split,
        step=step,
    )
  (table,) = _tables(tmp_path)
  assert table.split == 'test'
  assert table.rows[0].metrics['mrr@10/all'].mean == 0.3
  assert table.rows[0].step == 100


def test_knowledge_that_is_kept(tmp_path):
  """Fewer bits are better, and the decoder as it was is no competitor."""
  for name, mean in (('a', 1.5), ('b', 1.25)):
    _write(
        tmp_path / name,
        'wikitext2_test_held_out_text',
        {
            'user_llm': ('bits_per_byte', mean),
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
  _write(tmp_path / 'c', 'x_future', {'user_llm': ('other', 0.2)})
  (table,) = _tables(tmp_path / 'c')
  assert plots.bars(table) is None

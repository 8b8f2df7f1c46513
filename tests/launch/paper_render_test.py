"""What a table of the paper shows of evaluations."""

import json

import pytest

from launch.paper import render
from launch.paper import spec
from launch.paper import workflow
from user_llm.report import costs


def _measured(recall, **changes):
  value = {'mean': recall, 'stderr': 0.01}
  return {
      'task': 'toy_next_item', 'split': 'test', 'split_rule': 'leave_one_out',
      'split_fingerprint': 'abc', 'protocol': 'full ranking',
      'num_examples': 200,
      'models': {'user_llm': {'recall@5/unseen': value}},
  } | changes


def _write_evaluations(folder, run, evaluations):
  """The newest of a seed each; older ones and other splits are not read."""
  for seed, evaluation in enumerate(evaluations):
    path = workflow.workdir(folder, run, seed) / 'eval' / 'x_next_item'
    path.mkdir(parents=True)
    other = _measured(0.9)
    for file, found in (
        ('8', other), ('40', evaluation), ('40-validation', other)
    ):
      (path / f'{file}.json').write_text(json.dumps(found))


@pytest.fixture(name='render_rows')
def _render_rows(tmp_path):
  """Markdown of the evaluations of each run, one a seed."""

  def render_rows(**evaluations):
    for run, found in evaluations.items():
      _write_evaluations(tmp_path, run, found)
    table = spec.Table(
        name='next_item', title='T', tasks=('next_item',),
        metrics=('recall@5/unseen',),
        rows=tuple(
            spec.Row(title=f'Row {run}', run=run, model='user_llm')
            for run in evaluations
        ),
    )
    seeds = range(len(next(iter(evaluations.values()))))
    return render.table(table, tmp_path, seeds, {})

  return render_rows


def test_the_mean_over_seeds(render_rows):
  text = render_rows(a=[_measured(recall) for recall in (0.1, 0.2, 0.3)])
  assert '| Row a | 0.200 ± 0.058 | 200 |' in text  # sd .1 / sqrt 3
  assert 'Mean of 3 seeds' in text
  assert 'Not comparable' not in text


def test_what_no_seed_changes_has_no_error_of_zero(render_rows):
  """A floor is the same with every seed: its error is over the examples."""
  text = render_rows(
      floor=[_measured(0.1)] * 3,
      a=[_measured(recall) for recall in (0.1, 0.2, 0.3)],
  )
  assert '| Row floor | 0.100 ± 0.010 | 200 |' in text
  assert '| Row a | 0.200 ± 0.058 | 200 |' in text
  assert 'where all seeds agree (floors, oracles), ± is the standard' in text


@pytest.mark.parametrize(
    ['change', 'told'],
    [
        ({'split_fingerprint': 'def'}, '`def`, n = 200'),
        ({'num_examples': 100}, '`abc`, n = 100'),
    ],
)
def test_rows_of_different_examples_are_told(render_rows, change, told):
  text = render_rows(
      a=[_measured(0.1)], b=[_measured(0.2, **change)], c=[_measured(0.3)]
  )
  warning, cells = text.split('\n| ', 1)
  assert '**Not comparable**: rows are of different examples: test' in warning
  assert '`abc`, n = 200 (Row a, Row c); ' in warning
  assert f'{told} (Row b).' in warning
  assert 'Row b | 0.200' in cells


def test_seeds_of_different_examples_have_no_mean(render_rows):
  text = render_rows(
      a=[_measured(0.1), _measured(0.3, split_fingerprint='def')],
      b=[_measured(0.1), _measured(0.3)],
  )
  assert '| Row a |  |  | no mean: its seeds are of different examples' in text
  assert '| Row b | 0.200 ± 0.100 | 200 |' in text
  assert '**Not comparable**' in text


def _cost(model, events, held, tokens):
  timing = costs.Timing(
      median_secs=0.5, fastest_secs=0.4, slowest_secs=0.6, cpu_secs=0.9, calls=3
  )
  return costs.Cost(
      model=model, events=events, events_held=held, llm_tokens=tokens,
      prefill_flops=1e9, masked_flops=1e6, request_flops={8: 2e9},
      step_params=100, step_param_bytes=400, kv_bytes=1000, prefill=timing,
      request={8: timing},
  )


@pytest.mark.parametrize('held', [200, 75])
def test_what_a_request_costs(tmp_path, held):
  """On what it was measured, and our ratio of tokens beside the published."""
  folder = workflow.workdir(tmp_path, 'cost', 0)
  folder.mkdir()
  costs.write_files(folder, costs.Comparison(
      text={
          50: _cost('text prompt', 50, 50, 700),
          200: _cost('text prompt', 200, held, 2500),
      },
      others=[
          _cost('User-LLM', 50, 50, 32), _cost('User-LLM', 200, 200, 32),
          _cost('soft prompt', 200, 200, 48),
      ],
      facts={'about': 'CPU of 2 cores; float32; medians'},
  ))
  table = spec.load_tables()['efficiency']
  text = render.table(table, tmp_path, (0, 1), {})
  assert '\nCPU of 2 cores; float32; medians.\n' in text
  fits = ' (75 fit)' if held == 75 else ''
  for model, ratio in (('User-LLM', 78.1), ('soft prompt', 52.1)):
    assert (
        f'Ours: tokens of a text prompt of 200 events{fits} / of {model}: '
        f'{ratio}.'
    ) in text
  assert text.count('Ours: ') == 2
  assert 'of User-LLM: 78.1 (MovieLens-20M) [A].\nOurs: ' in text

"""Tests of the tables against numbers worked out by hand."""

import csv
import json
import math

import pytest

from launch.sweep import folder as folder_lib
from launch.sweep import protocol
from launch.sweep import results
import fake_sweep

_NAN = float('nan')


@pytest.fixture(name='written')
def _written(tmp_path):
  """Writes results of trials by {(A, seed): value or status}."""

  def written(outcomes, is_max=True, **fields):
    values = list(dict.fromkeys(a for a, _ in outcomes))
    seeds = list(dict.fromkeys(seed for _, seed in outcomes))
    spec = fake_sweep.make_spec(values, seeds, **fields)
    plan = fake_sweep.prepare(tmp_path, spec)
    for trial in plan.trials:
      outcome = outcomes[trial.bindings['A'], trial.bindings['SEED']]
      common = {'secs': 30.0 * trial.bindings['A'], 'attempts': 1}
      if outcome == 'failed':
        trial.write_result(
            status='failed', scalars={}, reason='exit code 1', log=['x', 'why'],
            **common,
        )
      elif outcome is not None:
        trial.write_result(
            status='done', scalars={fake_sweep.METRIC: outcome}, **common
        )
    results.write(tmp_path, plan)
    return tmp_path, plan

  return written


def _table(folder):
  """Rows of results.md: A, value, seeds, wall time."""
  lines = (folder / 'results.md').read_text().splitlines()
  rows = [line for line in lines if line.startswith('| ')][2:]
  return [[c.strip() for c in row.split('|')[1:5]] for row in rows]


def test_means_and_standard_errors(written):
  folder, _ = written({
      (1, 0): 0.1, (1, 1): 0.2, (1, 2): 0.3,
      (2, 0): 0.4, (2, 1): 0.4, (2, 2): 0.7,
      (4, 0): 0.1, (4, 1): 0.1, (4, 2): 0.1,
  })
  # Standard deviations 0.1, sqrt(0.03) and 0; each by sqrt(3).
  assert _table(folder) == [
      ['2', '**0.5 ± 0.1**', '3 of 3', '60.0 s'],
      ['1', '0.2 ± 0.058', '3 of 3', '30.0 s'],
      ['4', '0.1 ± 0', '3 of 3', '2.0 min'],
  ]


def test_what_ranks_last(written):
  """NaN behind all values; what is not whole behind what is."""
  folder, plan = written({
      (1, 0): 0.9, (1, 1): _NAN,
      (2, 0): 0.9, (2, 1): None,
      (3, 0): 0.1, (3, 1): 0.2,
      (4, 0): None, (4, 1): None,
      (5, 0): 0.8, (5, 1): 'failed',
      (6, 0): 0.3, (6, 1): 0.3,
  })
  order = [point.trials[0].bindings['A'] for point in results.ranked(plan)]
  assert order == [6, 3, 2, 5, 1, 4]
  text = (folder / 'results.md').read_text()
  assert text.count('**') == 2
  failed = plan.trials[9]
  assert f'- {failed.name}: exit code 1: why' in text
  assert '8 of 12 done, 1 failed, 3 left, about' in text
  assert folder_lib.load(folder).trials[0].result()['scalars']


def test_less_may_be_better(written, tmp_path):
  _, plan = written({(1, 0): 0.2, (2, 0): 0.1, (3, 0): _NAN})
  plan = folder_lib.load(tmp_path)
  assert plan.objective.is_max
  low = folder_lib.Plan(**{
      **vars(plan), 'objective': fake_sweep.spec_lib.Objective(
          metric=fake_sweep.METRIC, is_max=False
      ),
  })
  assert [p.trials[0].bindings['A'] for p in results.ranked(low)] == [2, 1, 3]


def test_the_rows_of_the_csv(written):
  folder, plan = written({(1, 0): 0.1, (2, 0): 1 / 3, (3, 0): None})
  with (folder / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['A'] for row in rows] == ['2', '1', '3']
  assert [row['status'] for row in rows] == ['done', 'done', 'open']
  assert float(rows[0][fake_sweep.METRIC]) == 1 / 3  # Every digit.
  assert [row['trial'] for row in rows] == [
      plan.trials[i].name for i in (1, 0, 2)
  ]
  assert rows[0]['secs'] == '60.0'


def test_the_best_config(written):
  folder, plan = written({(1, 0): 0.1, (2, 0): 0.2})
  text = (folder / 'best.gin').read_text()
  assert text.endswith('\nA = 2\n')
  assert plan.trials[1].name in text
  lines = text.splitlines()
  assert all(line.startswith('#') for line in lines[:-1])


def _evaluate(trial, split='validation', **changes):
  suffix = '' if split == 'test' else f'-{split}'
  path = trial.workdir / 'eval' / 't' / f'8{suffix}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({
      'split': split, 'split_rule': 'leave_one_out', 'split_fingerprint': 'f1',
      'num_examples': 6040, 'protocol': 'full ranking; ties count against',
      'models': {'row': {'recall': {'mean': 0.1}}}, **changes,
  }))


def _below_the_table(folder, plan):
  results.write(folder, plan)
  text = (folder / 'results.md').read_text()
  return text.split(' |\n\n')[-1].splitlines()


def test_what_the_numbers_are_of(written):
  folder, plan = written({(1, 0): 0.1, (2, 0): 0.2, (3, 0): None})
  for trial in plan.trials[:2]:
    _evaluate(trial)
    _evaluate(trial, split='test', split_fingerprint='of the test')
  assert _below_the_table(folder, plan) == [
      'validation split, leave_one_out, fingerprint f1, n = 6,040.', '',
      'Protocol: full ranking; ties count against',
  ]
  metric = f'{fake_sweep.METRIC}/unseen'
  objective = fake_sweep.spec_lib.Objective(metric=metric, is_max=True)
  unseen = folder_lib.Plan(**{**vars(plan), 'objective': objective})
  _evaluate(
      plan.trials[0], models={'row': {'recall/unseen': {'mean': 0.1}}}
  )
  assert protocol.lines(unseen)[0].endswith(', n = 6,040, seen items removed.')


@pytest.mark.parametrize(
    'change', [{'split_fingerprint': 'f2'}, {'num_examples': 6041}]
)
def test_other_examples_are_not_comparable(written, change):
  folder, plan = written({(1, 0): 0.1, (2, 0): 0.2})
  one, two = plan.trials
  _evaluate(one)
  _evaluate(two, **change)
  warning, _, first, _, second, *_ = _below_the_table(folder, plan)
  assert warning.startswith('**NOT comparable')
  assert first.endswith(f'fingerprint f1, n = 6,040: {one.name}')
  assert str(*change.values()).replace('6041', '6,041') in second
  assert second.endswith(two.name)


def test_nothing_is_best_where_all_diverge(written):
  folder, _ = written({(1, 0): _NAN, (2, 0): None})
  assert not (folder / 'best.gin').exists()
  assert '**' not in (folder / 'results.md').read_text()


@pytest.mark.parametrize(
    ['secs', 'text'],
    [
        (0.25, '0.2 s'), (119.0, '119.0 s'), (120.0, '2.0 min'),
        (7200.0, '2.0 h'), (200_000.0, '2.3 d'), (math.nan, '-'),
    ],
)
def test_durations(secs, text):
  assert results.duration(secs) == text

"""Learning curves of one run and of several."""

import report_runs

from user_llm.report import curves
from user_llm.report import runs


def _run(workdir, rows, seed=0, config=report_runs.CONFIG):
  workdir.mkdir()
  report_runs.write_metrics(workdir, rows)
  (workdir / 'config.gin').write_text(config.format(seed=seed))
  return runs.load_run(workdir)


def _losses(num):
  return [{'step': s, 'train/loss': 9.0 / s} for s in range(1, num + 1)]


def test_losses_and_evaluations_on_the_way(tmp_path):
  key = 'eval/x_next_item/{}/recall@10/unseen'
  rows = _losses(9) + [
      {'step': s, key.format('user_llm'): 0.1 * s, key.format('markov'): 0.1}
      for s in (4, 8)
  ]
  chart = curves.learning_curves(_run(tmp_path / 'a', rows))
  assert 'training loss' in chart
  assert 'User-LLM (text), next item: recall@10/unseen' in chart
  assert 'Markov' not in chart
  assert curves.learning_curves(_run(tmp_path / 'b', [])) is None


def test_seeds_share_a_name(tmp_path):
  found = [_run(tmp_path / f'lora_{s}', _losses(9), seed=s) for s in range(3)]
  assert curves.all_losses(found[:1]) is None
  other = _run(
      tmp_path / 'full', _losses(9), config=report_runs.CONFIG + 'A = 1\n'
  )
  chart = curves.all_losses([*found, other, _run(tmp_path / 'silent', [])])
  assert chart.count('lora_*') == 1 and 'full' in chart
  assert 'silent' not in chart


def test_evaluations_of_the_test_split(tmp_path):
  """As `evaluate` leaves them when it follows a run."""
  for step in (4, 8):
    report_runs.write(
        tmp_path, {'user_llm': {'rank/unseen': [1, 20, step]}}, step=step
    )
  chart = curves.learning_curves(runs.load_run(tmp_path))
  assert 'User-LLM (text), next item: recall@10/unseen, test split' in chart

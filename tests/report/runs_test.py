"""Reading workdirs, and what is wrong with some."""

import json

import numpy as np
import pytest
import report_runs

from user_llm.report import runs

_VALUES = {'user_llm': {'accuracy': [1, 0, 0, 1]}}


def test_a_bare_workdir_is_fine(tmp_path):
  run = runs.load_run(str(tmp_path))
  assert run.name == tmp_path.name
  assert not run.evaluations and not run.macros and not run.history


def test_bad_workdirs(tmp_path):
  with pytest.raises(ValueError, match='not a directory'):
    runs.load_run(str(tmp_path / 'nothing'))
  (tmp_path / 'run.json').write_text('{')
  with pytest.raises(ValueError, match='run.json is no valid JSON'):
    runs.load_run(str(tmp_path))
  (tmp_path / 'run.json').write_text('[]')
  with pytest.raises(ValueError, match='run.json holds no JSON object'):
    runs.load_run(str(tmp_path))


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
  """As of a run that was killed, or that is running."""
  metrics = tmp_path / 'metrics.jsonl'
  metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "tr')
  run = runs.load_run(tmp_path)
  assert run.history == ({'step': 1}, {'step': 2})
  assert run.state == 'unfinished, at step 2'
  metrics.write_text('{"st')
  assert not runs.load_run(tmp_path).history
  metrics.write_text('{"step": 1}\n{"step": 2, "tr\n{"step": 3}\n')
  with pytest.raises(ValueError, match='metrics.jsonl is no valid JSON'):
    runs.load_run(tmp_path)


def test_an_evaluation_that_is_none(tmp_path):
  path = report_runs.write(tmp_path, _VALUES)
  raw = json.loads(path.read_text())
  del raw['models'], raw['step']
  path.write_text(json.dumps(raw))
  with pytest.raises(ValueError, match='10.json has no step, models'):
    runs.load_run(tmp_path)


def test_an_older_evaluation_has_no_examples(tmp_path):
  report_runs.write(tmp_path, _VALUES, kept=False)
  (evaluation,) = runs.load_run(tmp_path).evaluations
  assert not len(evaluation.per_example)


def test_the_examples_of_another_evaluation(tmp_path):
  path = report_runs.write(tmp_path / 'a', _VALUES)
  for values in ([1, 0, 0, 0], [1, 0]):
    other = report_runs.write(
        tmp_path / 'b', {'user_llm': {'accuracy': values}}
    )
    other.with_suffix('.npz').replace(path.with_suffix('.npz'))
    (evaluation,) = runs.load_run(tmp_path / 'a').evaluations
    with pytest.raises(ValueError, match='does not belong to 10.json'):
      evaluation.per_example  # pylint: disable=pointless-statement


def test_an_older_evaluation_without_a_metric_and_one_of_nan(tmp_path):
  values = {'user_llm': {'rank/all': [1, 30], 'accuracy': [1, np.nan]}}
  path = report_runs.write(tmp_path, values)
  raw = json.loads(path.read_text())
  del raw['models']['user_llm']['mrr@10/all']
  path.write_text(json.dumps(raw))
  (evaluation,) = runs.load_run(tmp_path).evaluations
  assert len(evaluation.per_example) == 2
  raw['models']['user_llm']['recall@10/all']['mean'] = 0.1
  path.write_text(json.dumps(raw))
  (evaluation,) = runs.load_run(tmp_path).evaluations
  with pytest.raises(ValueError, match='does not belong to 10.json'):
    evaluation.per_example  # pylint: disable=pointless-statement


def test_examples_are_read_as_they_were(tmp_path):
  report_runs.write(tmp_path, {'user_llm': {'rank/all': [1, 30, 4]}})
  (evaluation,) = runs.load_run(tmp_path).evaluations
  found = evaluation.per_example.metrics('user_llm')
  np.testing.assert_array_equal(found['recall@10/all'], [1, 0, 1])

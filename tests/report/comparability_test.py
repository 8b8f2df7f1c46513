"""What may be compared, and the doctor's exit code."""

import pytest
import report_runs

from user_llm import answer_evaluator
from user_llm import evaluator
from user_llm.report import __main__ as report
from user_llm.report import comparability
from user_llm.report import runs

_VALUES = {'user_llm': {'rank/unseen': [1, 20, 3, 4]}}


def _doctor(*workdirs):
  return report.main(['doctor', '--workdirs', *map(str, workdirs)])


def test_an_encoder_and_a_text_model(tmp_path, capsys):
  """How an answer comes about may differ, what it counts as may not."""
  report_runs.write(tmp_path / 'a', _VALUES, task='x_events')
  report_runs.write(
      tmp_path / 'b', _VALUES,
      protocol=f'{answer_evaluator.GENERATED_PROTOCOL}; {evaluator.RANKING_PROTOCOL}',
  )
  assert _doctor(tmp_path / 'a', tmp_path / 'b') == 0
  out = capsys.readouterr().out
  assert 'x: next item' in out
  assert '= ties: ties count against the model' in out
  assert '= ranking protocol: full ranking over the catalogue' in out
  assert 'Comparable: the same split, split fingerprint, split rule' in out


@pytest.mark.parametrize(
    ['changes', 'message'],
    [
        ({'fingerprint': 'other'}, 'split fingerprint: abc (a) | other (b)'),
        ({'split_rule': 'x'}, 'split rule: leave_one_out (a) | x (b)'),
        ({'split': 'validation'}, 'split: test (a) | validation (b)'),
        ({'first_user': 1}, 'examples: 4, digest '),
        (
            {'protocol': evaluator.RANKING_PROTOCOL.replace('against', 'for')},
            'ties: ties count against the model (a) | ties count for the model',
        ),
        (
            {'protocol': evaluator.RANKING_PROTOCOL.replace('full', 'sampled')},
            'full ranking over the catalogue (a) | sampled ranking over',
        ),
        (
            {'protocol': evaluator.RANKING_PROTOCOL.replace('stay', 'go')},
            'seen items: "unseen": the history\'s items',
        ),
    ],
)
def test_what_differs_is_named(tmp_path, capsys, changes, message):
  report_runs.write(tmp_path / 'a', _VALUES)
  report_runs.write(tmp_path / 'b', _VALUES, **changes)
  assert _doctor(tmp_path / 'a', tmp_path / 'b') == 1
  out = capsys.readouterr().out
  assert message in out
  assert 'NOT comparable: the runs differ in ' in out
  found = [runs.load_run(tmp_path / name) for name in 'ab']
  (question,) = comparability.questions(found)
  assert len(question.differences) == 1


def test_another_number_of_examples(tmp_path, capsys):
  report_runs.write(tmp_path / 'a', _VALUES)
  report_runs.write(tmp_path / 'b', {'user_llm': {'rank/unseen': [1, 2]}})
  assert _doctor(tmp_path / 'a', tmp_path / 'b') == 1
  assert 'number of examples: 4 (a) | 2 (b)' in capsys.readouterr().out


def test_an_older_evaluation_is_in_doubt(tmp_path, capsys):
  report_runs.write(tmp_path / 'a', _VALUES)
  report_runs.write(tmp_path / 'b', _VALUES, kept=False)
  assert _doctor(tmp_path / 'a', tmp_path / 'b') == 0
  out = capsys.readouterr().out
  assert 'Comparable as far as is known: examples: 4, digest ' in out
  assert 'not recorded (an older evaluation, without its .npz) (b)' in out


def test_nothing_in_common(tmp_path, capsys):
  report_runs.write(tmp_path / 'a', _VALUES)
  report_runs.write(tmp_path / 'b', _VALUES, task='y_next_item')
  assert _doctor(tmp_path / 'a', tmp_path / 'b') == 1
  assert 'no two runs were asked the same' in capsys.readouterr().out
  assert _doctor(tmp_path / 'a') == 0


def test_nothing_evaluated(tmp_path, capsys):
  assert _doctor(tmp_path) == 1
  out = capsys.readouterr().out
  assert f'{tmp_path.name}: no evaluations yet.' in out
  assert 'user_llm.main evaluate' in out

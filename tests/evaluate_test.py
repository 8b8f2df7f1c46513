"""The eval binary measures what training measured; following a run."""

import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest

import small_run
from user_llm import checkpoints
from user_llm import evaluate as evaluate_lib
from user_llm import evaluator
from user_llm import per_example
from user_llm import train as train_lib
from user_llm.data import schema

pytestmark = pytest.mark.usefixtures('compilation_cache')


@pytest.fixture(name='finished', scope='module')
def _finished(tiny_dataset, tmp_path_factory, compilation_cache):
  del compilation_cache
  workdir = tmp_path_factory.mktemp('runs') / 'finished'
  train_lib.train(**small_run.arguments(tiny_dataset, workdir))
  return workdir


@pytest.fixture(name='workdir')
def _workdir(finished, tmp_path):
  """A copy of the run."""
  shutil.copytree(finished, tmp_path / 'run')
  return tmp_path / 'run'


def _evaluate(data_dir, workdir, split='validation', run=None, **changes):
  evaluators = [
      evaluator.RankingEvaluator(
          dataset=small_run.dataset(data_dir), split=split, batch_size=5
      )
  ]
  evaluate_lib.evaluate(
      workdir=str(workdir),
      run=run or small_run.trained_run(data_dir),
      **{'evaluators': evaluators, **changes},
  )


def _result(workdir, step=12, suffix='-validation'):
  path = workdir / 'eval' / 'tiny_events' / f'{step}{suffix}.json'
  return json.loads(path.read_text())


def test_it_measures_what_training_measured(
    finished, workdir, tiny_dataset, capsys
):
  shutil.rmtree(workdir / 'eval')
  _evaluate(tiny_dataset, workdir)
  found, wanted = _result(workdir)['models'], _result(finished)['models']
  # Compiled anew, the log-probabilities may differ in their last bit.
  nats = [m['encoder_head'].pop('answer_nats')['mean'] for m in (found, wanted)]
  np.testing.assert_allclose(*nats, rtol=1e-5)
  assert found == wanted
  out = capsys.readouterr().out
  assert 'tiny_events validation: n=24, leave_one_out' in out
  assert out.count('recall@10/unseen') == 3


def test_the_test_split(finished, workdir, tiny_dataset):
  _evaluate(tiny_dataset, workdir, 'test')
  found = _result(workdir, suffix='')
  assert found['split'] == 'test' and found['num_examples'] == 24
  assert found['models'] != _result(finished)['models']
  kept = per_example.read(workdir / 'eval' / 'tiny_events' / '12.npz')
  assert len(kept) == 24
  assert set(kept.values) == set(found['models'])
  for row, metrics in found['models'].items():
    values = kept.metrics(row)
    assert set(values) == set(metrics)
    for name, value in values.items():
      assert value.mean() == pytest.approx(metrics[name]['mean']), name


def test_a_known_ceiling(workdir, tiny_dataset, tmp_path):
  """Shown beside the figures of the very split that it is of, and no other."""
  data_dir = str(shutil.copytree(tiny_dataset, tmp_path / 'synthetic'))
  dataset = small_run.dataset(data_dir)
  ceiling = {'mrr@10/all': {'mean': 0.5, 'stderr': 0.1}}
  for fingerprint, is_shown in (('other', False), (dataset.fingerprint, True)):
    (tmp_path / 'synthetic' / 'bayes.json').write_text(json.dumps({
        'leave_one_out': {
            'split_fingerprint': fingerprint, 'metrics': ceiling
        }
    }))
    _evaluate(data_dir, workdir, 'test')
    models = _result(workdir, suffix='')['models']
    assert ('bayes_optimal' in models) == is_shown
  assert models['bayes_optimal'] == ceiling
  # It is of all 24 examples.
  for limit, shown in ((24, ['bayes_optimal']), (23, [])):
    some = dataclasses.replace(dataset, max_eval_examples=limit)
    assert list(evaluator.item_ceilings(some, 'test')) == shown


def test_a_chosen_step(workdir, tiny_dataset):
  _evaluate(tiny_dataset, workdir, step=8)
  assert _result(workdir, 8)['step'] == 8


@pytest.mark.parametrize(
    ['changes', 'message'],
    [
        ({'step': 5}, r'No checkpoint of step 5; there are \[8, 12\]'),
        ({'evaluators': ()}, 'EVALUATORS is empty'),
    ],
)
def test_errors(finished, tiny_dataset, changes, message):
  with pytest.raises(ValueError, match=message):
    _evaluate(tiny_dataset, finished, **changes)


def test_no_checkpoint(tiny_dataset, tmp_path):
  with pytest.raises(ValueError, match='no finished checkpoint'):
    _evaluate(tiny_dataset, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_another_model(finished, tiny_dataset):
  objective = small_run.objective(tiny_dataset, embed_dim=8)
  run = small_run.trained_run(tiny_dataset, objective=objective)
  with pytest.raises(ValueError, match=r'does not fit MODEL[^$]*scale +\(16,\)'):
    _evaluate(tiny_dataset, finished, run=run)


def test_another_split_rule(finished, tiny_dataset):
  """It may have trained on what is held out now, other events or not."""
  run = small_run.trained_run(tiny_dataset)
  dataset = dataclasses.replace(run.dataset, split_rule=schema.GLOBAL_TIME)
  message = "step 12 .*'leave_one_out'.*'global_time'.*: SPLIT_RULE must"
  with pytest.raises(ValueError, match=message):
    _evaluate(
        tiny_dataset, finished, allow_data_change=True,
        run=dataclasses.replace(run, dataset=dataset),
    )


def test_following_a_finished_run(workdir, tiny_dataset):
  shutil.rmtree(workdir / 'eval')
  _evaluate(tiny_dataset, workdir, follow=True, poll_secs=60.0)
  assert {_result(workdir, step)['step'] for step in (8, 12)} == {8, 12}


def test_following_a_run(finished, tiny_dataset, tmp_path):
  """It waits for checkpoints, and ends when the run is done."""
  workdir = tmp_path / 'run'
  thread = threading.Thread(
      target=_evaluate,
      args=(tiny_dataset, workdir),
      kwargs={
          'follow': True,
          'poll_secs': 0.05,
          'run': small_run.trained_run(tiny_dataset, num_steps=99),
      },
  )
  thread.start()
  shutil.copytree(finished / 'checkpoints' / '8', tmp_path / '8')
  (workdir / 'checkpoints').mkdir(parents=True)
  (tmp_path / '8').rename(workdir / 'checkpoints' / '8')
  thread.join(0.3)
  assert thread.is_alive()
  (workdir / 'DONE').touch()
  thread.join(120)
  assert not thread.is_alive()
  assert _result(workdir, 8)['step'] == 8


def test_checkpoints_that_go_while_one_follows(
    workdir, tiny_dataset, monkeypatch
):
  """Training keeps two: an older one may be gone when its turn comes."""
  evaluated = []

  class Slow:
    ranking = evaluator.RankingEvaluator(
        dataset=small_run.dataset(tiny_dataset)
    )

    def check(self, *args):
      self.ranking.check(*args)

    def evaluate(self, *args, **kwargs):
      steps = checkpoints.Checkpoints(str(workdir)).steps()
      evaluated.append(steps)
      shutil.rmtree(workdir / 'checkpoints' / '12', ignore_errors=True)
      return self.ranking.evaluate(*args, **kwargs)

  _evaluate(tiny_dataset, workdir, evaluators=[Slow()], follow=True)
  assert evaluated == [[8, 12]]


def test_the_training_goes_on_while_one_reads(workdir, tiny_dataset):
  """Two are kept, and the one that is read: it goes with the next save."""
  arguments = small_run.arguments(tiny_dataset, workdir, evaluators=())
  stored = checkpoints.Checkpoints(str(workdir))
  assert stored.steps() == [8, 12]
  with stored.pinned(8):
    train_lib.train(**arguments | {'num_steps': 20})
    assert stored.steps() == [8, 16, 20]
    run = small_run.trained_run(tiny_dataset, num_steps=20)
    _evaluate(tiny_dataset, workdir, step=8, run=run)
  assert _result(workdir, 8)['step'] == 8
  train_lib.train(**arguments | {'num_steps': 24})
  assert stored.steps() == [20, 24]

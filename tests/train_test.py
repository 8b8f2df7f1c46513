"""Training end to end: files, resuming bit by bit, what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

import fixtures
import small_run
from user_llm import checkpoints
from user_llm import evaluator
from user_llm import partitioning
from user_llm import restore
from user_llm import train as train_lib
from user_llm import trainer as trainer_lib
from user_llm import training_run
from user_llm.data import pipeline

pytestmark = pytest.mark.usefixtures('compilation_cache')


@pytest.fixture(name='finished', scope='module')
def _finished(tiny_dataset, tmp_path_factory, compilation_cache):
  """The workdir of a run that was never stopped."""
  del compilation_cache
  workdir = tmp_path_factory.mktemp('runs') / 'finished'
  train_lib.train(
      **small_run.arguments(tiny_dataset, workdir, eval_every_steps=4)
  )
  return workdir


def _metrics(workdir, key):
  """A metric by step."""
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {row['step']: row[key] for row in rows if key in row}


def _files(folder):
  return {
      path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
      for path in folder.rglob('*')
  }


def test_metrics(finished):
  losses = _metrics(finished, 'train/loss')
  assert list(losses) == list(range(1, 13))
  assert losses[1] == pytest.approx(np.log(40) + np.log(8), rel=0.05)
  assert losses[12] < losses[1]
  parts = [
      _metrics(finished, f'train/loss_{name}') for name in ('item', 'genre')
  ]
  assert losses[5] == pytest.approx(sum(part[5] for part in parts), rel=1e-6)
  rates = _metrics(finished, 'train/learning_rate')
  # Two steps of warm-up, and the peak at the third.
  assert [rates[1], rates[2], rates[3]] == pytest.approx([0, 0.005, 0.01])
  key = 'eval/tiny_events/encoder_head/recall@10/unseen'
  assert list(_metrics(finished, key)) == [4, 8, 12]
  # The first step, which waits for the input to start, is not timed.
  assert list(_metrics(finished, 'train/time/step_secs')) == list(range(2, 13))
  events = _metrics(finished, 'train/perf/events_per_sec')[5]
  rows = _metrics(finished, 'train/perf/rows_per_sec')[5]
  assert events == pytest.approx(rows * small_run.HISTORY_LENGTH)


def test_files(finished, tiny_dataset):
  assert (finished / 'DONE').exists()
  dataset = small_run.dataset(tiny_dataset)
  info = json.loads((finished / 'run.json').read_text())
  assert info['name'] == 'finished'
  assert info['split_fingerprint'] == dataset.fingerprint
  assert info['num_params'] == info['num_trainable'] > 0
  assert {'seed', 'hardware', 'command', 'started', 'wall_secs'} <= info.keys()
  spent = info['goodput']
  assert spent['sessions'] == 1 and spent['lost'] == spent['down'] == 0
  for bucket in ('start', 'steps', 'saving', 'evaluation'):
    assert spent[bucket] > 0
  assert checkpoints.Checkpoints(str(finished)).steps() == [8, 12]
  found = {path.name for path in (finished / 'eval' / 'tiny_events').iterdir()}
  assert found == {'12-validation.json', '12-validation.npz'}
  assert list((finished / 'tensorboard').iterdir())


def test_evaluation(finished, tiny_dataset):
  path = finished / 'eval' / 'tiny_events' / '12-validation.json'
  found = json.loads(path.read_text())
  dataset = small_run.dataset(tiny_dataset)
  assert found['num_examples'] == dataset.num_examples('validation') == 24
  assert found['split'] == 'validation'
  assert found['split_rule'] == 'leave_one_out'
  assert found['split_fingerprint'] == dataset.fingerprint
  assert (found['step'], found['seed']) == (12, 0)
  assert set(found['models']) == {'encoder_head', 'popularity', 'markov'}
  row = found['models']['encoder_head']
  assert {f'{m}/{p}' for p in ('all', 'unseen') for m in (
      'recall@1', 'recall@5', 'recall@10', 'ndcg@10', 'mrr@10'
  )} == row.keys() - {'answer_nats'}
  assert 0 < row.pop('answer_nats')['mean']
  for value in row.values():
    assert 0 <= value['mean'] <= 1 and value['stderr'] >= 0
  # A user's items are distinct here, so that removing them can only help.
  assert row['mrr@10/unseen']['mean'] >= row['mrr@10/all']['mean']
  example = found['examples'][0]
  assert example.keys() == {'user', 'history', 'question', 'answers', 'truth'}
  assert example['user'] == '1' and len(example['answers']) == 10
  user = fixtures.random_users()[0]
  titles = [f'Film {item} ({1950 + item})' for item in user.items]
  assert example['truth'] == titles[-2]
  assert example['history'] == titles[:-2][-12:]
  assert not {a['text'] for a in example['answers']} & set(titles[:-2])


def test_a_finished_run_has_nothing_to_do(finished, tiny_dataset, capsys):
  before = _files(finished)
  train_lib.train(**small_run.arguments(tiny_dataset, finished))
  assert 'nothing to do' in capsys.readouterr().out
  assert _files(finished) == before


def test_fewer_steps_than_it_has(finished, tiny_dataset):
  with pytest.raises(ValueError, match='at step 12, past NUM_STEPS=6'):
    train_lib.train(**small_run.arguments(tiny_dataset, finished, num_steps=6))


@pytest.mark.parametrize('stop', [3, 10, 12])
def test_a_stopped_run_goes_on_bit_by_bit(
    finished, tiny_dataset, tmp_path, monkeypatch, stop
):
  """Stopped before its first checkpoint, between two, and at the last step."""
  arguments = small_run.arguments(tiny_dataset, tmp_path / 'run')
  original, calls = trainer_lib.Trainer.device_batch, []

  def breaking(self, batch):
    calls.append(batch)
    if len(calls) == stop:
      raise KeyboardInterrupt
    return original(self, batch)

  monkeypatch.setattr(trainer_lib.Trainer, 'device_batch', breaking)
  with pytest.raises(KeyboardInterrupt):
    train_lib.train(**arguments)
  assert not (tmp_path / 'run' / 'DONE').exists()
  monkeypatch.undo()
  train_lib.train(**arguments)
  for key in ('train/loss', 'train/grad_norm', 'train/learning_rate'):
    assert _metrics(tmp_path / 'run', key) == _metrics(finished, key)
  key = 'eval/tiny_events/encoder_head/mrr@10/all'
  assert _metrics(tmp_path / 'run', key)[12] == _metrics(finished, key)[12]
  info = json.loads((tmp_path / 'run' / 'run.json').read_text())
  assert info['goodput']['sessions'] == 2
  assert info['goodput']['steps'] > 0 and info['goodput']['lost'] > 0


def test_stopped_before_the_last_evaluation(
    finished, tiny_dataset, tmp_path, monkeypatch
):
  arguments = small_run.arguments(tiny_dataset, tmp_path, num_steps=12)

  def broken(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(evaluator.RankingEvaluator, 'evaluate', broken)
  with pytest.raises(KeyboardInterrupt):
    train_lib.train(**arguments)
  monkeypatch.undo()
  train_lib.train(**arguments)
  assert (tmp_path / 'DONE').exists()
  name = 'eval/tiny_events/12-validation.json'
  assert (tmp_path / name).read_text() == (finished / name).read_text()
  assert _metrics(tmp_path, 'train/loss') == _metrics(finished, 'train/loss')


def test_killed_in_an_evaluation_and_after_the_last(
    finished, tiny_dataset, tmp_path, monkeypatch
):
  """The step is saved before; each evaluation is there once."""
  arguments = small_run.arguments(tiny_dataset, tmp_path, eval_every_steps=5)

  def broken(*args, **kwargs):
    raise KeyboardInterrupt

  for owner, name in (
      (evaluator.RankingEvaluator, 'evaluate'), (training_run, '_write_end')
  ):
    with monkeypatch.context() as context:
      context.setattr(owner, name, broken)
      with pytest.raises(KeyboardInterrupt):
        train_lib.train(**arguments)
    step = checkpoints.Checkpoints(str(tmp_path)).steps()[-1]
    assert step == (5 if name == 'evaluate' else 12)
  train_lib.train(**arguments)
  key = 'eval/tiny_events/encoder_head/mrr@10/all'
  text = (tmp_path / 'metrics.jsonl').read_text()
  rows = [row for row in map(json.loads, text.splitlines()) if key in row]
  assert [row['step'] for row in rows] == [5, 10, 12]
  assert rows[-1][key] == _metrics(finished, key)[12]


@pytest.fixture(name='one_device')
def _one_device(monkeypatch):
  monkeypatch.setattr(
      partitioning.MeshConfig,
      'make',
      lambda self, *unused: jax.make_mesh(
          (1, 1, 1),
          partitioning.MESH_AXES,
          axis_types=(jax.sharding.AxisType.Auto,) * 3,
          devices=jax.devices()[:1],
      ),
  )


@pytest.mark.usefixtures('one_device')
def test_one_device_equals_eight(finished, tiny_dataset, tmp_path):
  train_lib.train(
      **small_run.arguments(tiny_dataset, tmp_path, evaluators=())
  )
  found = _metrics(tmp_path, 'train/loss')
  wanted = _metrics(finished, 'train/loss')
  np.testing.assert_allclose(
      list(found.values()), list(wanted.values()), rtol=1e-5
  )


@pytest.mark.usefixtures('one_device')
def test_a_run_of_eight_devices_goes_on_with_one(
    finished, tiny_dataset, tmp_path
):
  """The parameters are the same; sums over devices are rounded otherwise."""
  shutil.copytree(finished, tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '12')
  (tmp_path / 'run' / 'DONE').unlink()
  train_lib.train(
      **small_run.arguments(tiny_dataset, tmp_path / 'run', evaluators=())
  )
  found = _metrics(tmp_path / 'run', 'train/loss')
  wanted = _metrics(finished, 'train/loss')
  assert list(found) == list(wanted)
  np.testing.assert_allclose(
      list(found.values()), list(wanted.values()), rtol=1e-6
  )


def test_init_from_a_run(finished, tiny_dataset, tmp_path):
  source = restore.InitFrom(path=str(finished), prefix='user_encoder')
  train_lib.train(
      **small_run.arguments(
          tiny_dataset,
          tmp_path,
          init_from=[source],
          evaluators=(),
      )
  )
  wanted = _metrics(finished, 'train/loss')
  assert _metrics(tmp_path, 'train/loss')[1] < wanted[1]


def test_dry_run(tiny_dataset, tmp_path, capsys):
  train_lib.train(
      **small_run.arguments(tiny_dataset, tmp_path / 'run', dry_run=True)
  )
  assert not (tmp_path / 'run').exists()
  lines = capsys.readouterr().out.splitlines()
  row = next(line for line in lines if 'projection/kernel' in line)
  assert '(24, 16)' in row and 'data' in row and 'yes' in row
  # Floats of 4 bytes in 8 parts.
  assert row.split()[-2] == str(24 * 16 * 4 // 8)
  text = '\n'.join(lines)
  for name in ('target_item', 'optimizer state', 'step: temporaries'):
    assert name in text


@pytest.mark.parametrize(
    ['changes', 'message'],
    [
        ({'num_steps': '12'}, "NUM_STEPS must be an integer.*not '12'"),
        ({'num_steps': 2}, 'NUM_STEPS=2 .*WARMUP_STEPS=2'),
        ({'batch_size': 0}, 'BATCH_SIZE must be an integer of at least 1'),
        ({'batch_size': 12}, 'BATCH_SIZE=12 is not divisible by 8'),
        ({'num_microbatches': 2}, r'by 8 \(replica x data\) x 2'),
        ({'log_every_steps': 0}, 'LOG_EVERY_STEPS must be'),
        ({'save_every_steps': 1.5}, 'SAVE_EVERY_STEPS must be'),
        ({'eval_every_steps': '4'}, 'EVAL_EVERY_STEPS must be'),
        ({'profile_steps': (3, 13)}, r'PROFILE_STEPS is \(3, 13\).*_STEPS=12'),
        ({'seed': '0'}, 'SEED must be'),
        ({'trainable': ('encoder',)}, r"TRAINABLE.*\['encoder'\] decide no"),
        ({'trainable': 'user_encoder'}, 'TRAINABLE must be a tuple'),
        ({'trainable': (1,)}, 'TRAINABLE must be a tuple'),
    ],
)
def test_refused(tiny_dataset, tmp_path, changes, message):
  arguments = small_run.arguments(tiny_dataset, tmp_path / 'run', **changes)
  with pytest.raises(ValueError, match=message):
    train_lib.train(**arguments)
  assert not (tmp_path / 'run').exists()


def _with_few_events(folder):
  users = [fixtures.User(str(u), [u + 1, u + 2]) for u in range(4)]
  return fixtures.write_dataset(folder, users)


def test_empty_splits(tiny_dataset, tmp_path):
  short = _with_few_events(tmp_path / 'short')
  arguments = small_run.arguments(tiny_dataset, tmp_path / 'run')
  dataset = pipeline.Dataset(
      data_dir=short, task='events', history_length=12,
      modalities=('item', 'genre'),
  )
  with pytest.raises(ValueError, match='train split .* is empty.*DATA_DIR'):
    train_lib.train(**{**arguments, 'dataset': dataset})
  evaluators = [evaluator.RankingEvaluator(dataset=dataset)]
  with pytest.raises(ValueError, match='validation split .* is empty'):
    train_lib.train(**{**arguments, 'evaluators': evaluators})
  assert not (tmp_path / 'run').exists()


def test_other_data_in_the_workdir(finished, tiny_dataset, tmp_path):
  other = fixtures.write_dataset(tmp_path / 'tiny', num_items=39)
  before = _files(finished)
  arguments = small_run.arguments(tiny_dataset, finished, num_steps=20)
  with pytest.raises(ValueError, match='step 12 .*catalogue.*DATA_DIR'):
    train_lib.train(**{**arguments, 'dataset': small_run.dataset(other)})
  assert _files(finished) == before


def test_a_step_that_is_not_finite_is_not_saved(
    tiny_dataset, tmp_path, monkeypatch
):
  original = trainer_lib.Trainer.compile_step

  def breaking(self, state, batch_spec):
    step = original(self, state, batch_spec)

    def run(state, batch):
      state, scalars = step(state, batch)
      return state, {**scalars, 'loss': scalars['loss'] / (8 - state.step)}

    return run

  monkeypatch.setattr(trainer_lib.Trainer, 'compile_step', breaking)
  with pytest.raises(FloatingPointError, match='at step 8; .*LEARNING_RATE'):
    train_lib.train(
        **small_run.arguments(tiny_dataset, tmp_path, log_every_steps=4)
    )
  assert checkpoints.Checkpoints(str(tmp_path)).steps() == [4]

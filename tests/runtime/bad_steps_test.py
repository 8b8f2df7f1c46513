"""A bad step leaves no trace; several send a run back, and at last end it."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_run
from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import train as train_lib
from user_llm import trainer as trainer_lib
from user_llm.objectives import next_event
from user_llm.runtime import bad_steps
from user_llm.runtime import preemption
from user_llm.runtime import spikes

pytestmark = pytest.mark.usefixtures('compilation_cache')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Breaking(next_event.NextEvent):
  """Its loss is bad in the steps whose items add up to one of some sums."""

  sums: tuple[int, ...]
  gradient_only: bool = False

  def loss(self, params, batch, rng):
    loss = super().loss(params, batch, rng)
    is_bad = jnp.isin(jnp.sum(batch['target_item']), jnp.array(self.sums))
    if not self.gradient_only:
      return loss._replace(total=jnp.where(is_bad, jnp.nan, 1) * loss.total)
    # sqrt has no slope at 0.
    x = jnp.sum(jax.tree.leaves(params)[0])
    zero = jnp.where(is_bad, x - jax.lax.stop_gradient(x), 1.0)
    return loss._replace(total=loss.total + jnp.sqrt(zero) * is_bad)


def _breaking(data_dir, steps, gradient_only=False):
  """Breaks in these steps, from 1."""
  batches = small_run.batches(data_dir, 12)
  sums = tuple(int(batches[step - 1]['target_item'].sum()) for step in steps)
  assert len({int(b['target_item'].sum()) for b in batches}) == 12
  base = small_run.objective(data_dir)
  return _Breaking(
      encoder=base.encoder, sums=sums, gradient_only=gradient_only
  )


@pytest.mark.parametrize('gradient_only', [False, True])
def test_a_bad_step_leaves_no_trace(tiny_dataset, gradient_only):
  """Bit by bit as if its batch had not been there, but for its number."""
  trainer = trainer_lib.Trainer(
      objective=_breaking(tiny_dataset, (3,), gradient_only),
      optimizer=optimizers.AdamW(learning_rate=0.01, warmup_steps=1).make(10),
      mesh=partitioning.MeshConfig(model=4).make(),
  )
  spec = small_run.spec(tiny_dataset)
  batches = [
      trainer.device_batch({key: batch[key] for key in spec})
      for batch in small_run.batches(tiny_dataset, 5)
  ]
  state = trainer.init_state(spec)
  step = trainer.compile_step(state, spec)
  skipped = []
  for batch in batches:
    before = jax.tree.map(np.array, (state.trainable, state.opt_state))
    state, scalars = step(state, batch)
    skipped.append(float(scalars['skipped']))
    after = jax.tree.map(np.array, (state.trainable, state.opt_state))
    equal = [
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))
    ]
    assert all(equal) == bool(skipped[-1])
  assert skipped == [0, 0, 1, 0, 0]
  assert int(state.step) == 5
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


def test_a_run_goes_on(tiny_dataset, tmp_path, capsys):
  train_lib.train(**small_run.arguments(
      tiny_dataset, tmp_path, evaluators=(),
      objective=_breaking(tiny_dataset, (4, 9, 10)),
  ))
  # 4 is a step that saves.
  assert checkpoints_lib.Checkpoints(str(tmp_path)).steps() == [8, 12]
  err = capsys.readouterr().err
  for number in (4, 9, 10):
    assert f'step {number} is skipped, it is not finite: loss nan' in err
  rows = [
      json.loads(line, parse_constant=pytest.fail)
      for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [row['train/skipped'] for row in rows] == [
      float(step in (4, 9, 10)) for step in range(1, 13)
  ]
  assert 'train/loss' not in rows[3] and 'train/loss' in rows[4]
  assert not (tmp_path / 'bad_steps').exists()


def test_too_many_in_a_row(tiny_dataset, tmp_path, capsys):
  arguments = small_run.arguments(
      tiny_dataset, tmp_path, evaluators=(), max_bad_steps=2, max_rollbacks=0,
      objective=_breaking(tiny_dataset, (3, 6, 7, 8)),
  )
  (tmp_path / 'config.gin').write_text('A = 1\n')
  with pytest.raises(
      FloatingPointError,
      match=r'Steps 6 to 7 were bad, .*not finite.*MAX_BAD_STEPS',
  ):
    train_lib.train(**arguments)
  assert checkpoints_lib.Checkpoints(str(tmp_path)).steps() == [4]
  bundle = tmp_path / 'bad_steps'
  text = (bundle / 'scalars.json').read_text()
  rows = json.loads(text, parse_constant=pytest.fail)
  assert [(row['step'], row['loss']) for row in rows] == [
      (6, 'nan'), (7, 'nan')
  ]
  assert (bundle / 'config.gin').read_text() == 'A = 1\n'
  batches = small_run.batches(tiny_dataset, 7)
  for step in (6, 7):
    with np.load(bundle / f'batch-{step}.npz') as found:
      for key, value in batches[step - 1].items():
        np.testing.assert_array_equal(found[key], value)


def _arguments(data_dir, folder, **changes):
  return small_run.arguments(
      data_dir, folder, evaluators=(), max_bad_steps=2,
      objective=_breaking(data_dir, (6, 7, 10)), **changes,
  )


def _params(folder, step=12):
  return checkpoints_lib.Checkpoints(str(folder)).load_params(step)


def _assert_same(found, wanted):
  assert found.keys() == wanted.keys()
  for path, value in wanted.items():
    np.testing.assert_array_equal(found[path], value)


def test_a_run_goes_back_and_leaves_the_data_out(
    tiny_dataset, tmp_path, capsys, monkeypatch
):
  """Back to 4, and on with the batches from 8 on, as if 5 to 7 were not there.
  """
  train_lib.train(**_arguments(tiny_dataset, tmp_path / 'run'))
  err = capsys.readouterr().err
  assert 'back to step 4, without the 3 batches since (1 of at most 2' in err
  assert err.count('step 7 is skipped') == 2
  rows = [
      json.loads(line)
      for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [row['step'] for row in rows] == list(range(1, 13))
  # Batch 10 is that of step 7 now.
  assert [r['step'] for r in rows if r['train/skipped']] == [7]

  batches = small_run.batches(tiny_dataset, 15)
  wanted = batches[:4] + batches[7:]
  dataset = small_run.dataset(tiny_dataset)
  monkeypatch.setattr(
      type(dataset),
      'train_batches',
      lambda self, start_step, **unused: iter(wanted[start_step:]),
  )
  train_lib.train(**_arguments(tiny_dataset, tmp_path / 'wanted'))
  _assert_same(_params(tmp_path / 'run'), _params(tmp_path / 'wanted'))


def test_a_run_that_went_back_resumes_with_the_same_data(
    tiny_dataset, tmp_path
):
  for num_steps in (8, 12):
    train_lib.train(
        **_arguments(tiny_dataset, tmp_path / 'run', num_steps=num_steps)
        | {'optimizer': _Constant()}
    )
  train_lib.train(
      **_arguments(tiny_dataset, tmp_path / 'once')
      | {'optimizer': _Constant()}
  )
  _assert_same(_params(tmp_path / 'run'), _params(tmp_path / 'once'))
  folder = tmp_path / 'run' / 'checkpoints'
  assert not list(folder.glob('rolled-back-*'))


class _Constant(optimizers.AdamW):
  """A schedule that does not depend on NUM_STEPS."""

  def __init__(self):
    super().__init__(learning_rate=0.01, warmup_steps=1)

  def schedule(self, num_steps):
    del num_steps
    return lambda step: jnp.full_like(step, 0.01, dtype=jnp.float32)


def test_checkpoints_of_the_bad_steps_are_set_aside(tiny_dataset, tmp_path):
  """Saved while steps were bad, they hold nothing wrong, but no way out."""
  train_lib.train(
      **_arguments(tiny_dataset, tmp_path, save_every_steps=3)
  )
  folder = tmp_path / 'checkpoints'
  assert (folder / 'rolled-back-6-0').is_dir()
  assert checkpoints_lib.Checkpoints(str(tmp_path)).steps() == [9, 12]


def test_all_that_is_kept_was_saved_among_bad_steps(tiny_dataset, tmp_path):
  """The first of it is as good as those that are gone: not back to the start.
  """
  train_lib.train(**small_run.arguments(
      tiny_dataset, tmp_path, evaluators=(), save_every_steps=1,
      max_bad_steps=3, objective=_breaking(tiny_dataset, (8, 9, 10)),
  ))
  (row,) = json.loads((tmp_path / 'rollbacks.json').read_text())
  assert (row['to_step'], row['num_batches']) == (8, 2)
  assert checkpoints_lib.Checkpoints(str(tmp_path)).steps() == [11, 12]


def test_killed_while_it_goes_back(tiny_dataset, tmp_path, monkeypatch):
  """Between setting checkpoints aside and noting it: it comes there again."""
  class Killed(Exception):
    pass

  def killed(*unused):
    raise Killed

  arguments = lambda name: _arguments(
      tiny_dataset, tmp_path / name, save_every_steps=3
  )
  with monkeypatch.context() as context:
    context.setattr(bad_steps.Rollbacks, 'add', killed)
    with pytest.raises(Killed):
      train_lib.train(**arguments('run'))
  train_lib.train(**arguments('run'))
  train_lib.train(**arguments('once'))
  _assert_same(_params(tmp_path / 'run'), _params(tmp_path / 'once'))


def test_a_signal_while_it_goes_back(tiny_dataset, tmp_path, monkeypatch):
  add = bad_steps.Rollbacks.add

  def signalled(*args):
    signal.raise_signal(signal.SIGTERM)
    add(*args)

  monkeypatch.setattr(bad_steps.Rollbacks, 'add', signalled)
  with pytest.raises(SystemExit) as stop:
    train_lib.train(**_arguments(tiny_dataset, tmp_path))
  assert stop.value.code == preemption.EXIT_CODE
  assert checkpoints_lib.Checkpoints(str(tmp_path)).steps() == [4, 5]


def test_it_goes_back_only_so_often(tiny_dataset, tmp_path):
  arguments = small_run.arguments(
      tiny_dataset, tmp_path, evaluators=(), max_bad_steps=2, max_rollbacks=1,
      objective=_breaking(tiny_dataset, (6, 7, 9, 10)),
  )
  with pytest.raises(FloatingPointError, match='Steps 6 to 7 were bad'):
    train_lib.train(**arguments)
  rows = json.loads((tmp_path / 'rollbacks.json').read_text())
  assert rows == [{
      'to_step': 4, 'first_bad_step': 6, 'last_bad_step': 7, 'num_batches': 3
  }]
  # Started again, it comes to the same end.
  with pytest.raises(FloatingPointError, match='Steps 6 to 7 were bad'):
    train_lib.train(**arguments)


def test_a_rollback_that_lies_ahead_is_forgotten(tmp_path):
  rollbacks = bad_steps.Rollbacks(str(tmp_path), 3)
  rollbacks.add(4, bad_steps.TooManyInARow('', 6, 7))
  rollbacks.add(8, bad_steps.TooManyInARow('', 9, 12))
  again = bad_steps.Rollbacks(str(tmp_path), 3)
  assert [again.num_skipped(step) for step in (9, 8, 5, 3)] == [7, 7, 3, 0]
  assert bad_steps.Rollbacks(str(tmp_path), 3).num_skipped(9) == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Leaping(next_event.NextEvent):
  """Its loss is a hundred times as large in the step of one sum of items."""

  sums: tuple[int, ...]

  def loss(self, params, batch, rng):
    loss = super().loss(params, batch, rng)
    leaps = jnp.isin(jnp.sum(batch['target_item']), jnp.array(self.sums))
    return loss._replace(total=jnp.where(leaps, 100.0, 1.0) * loss.total)


@pytest.mark.parametrize('threshold', [None, 20.0])
def test_a_spike_is_skipped(
    tiny_dataset, tmp_path, monkeypatch, capsys, threshold
):
  monkeypatch.setattr(spikes, 'WINDOW', 8)
  base = small_run.objective(tiny_dataset)
  tenth = small_run.batches(tiny_dataset, 10)[9]
  train_lib.train(**small_run.arguments(
      tiny_dataset, tmp_path, evaluators=(), spike_threshold=threshold,
      objective=_Leaping(
          encoder=base.encoder, sums=(int(tenth['target_item'].sum()),)
      ),
  ))
  told = 'step 10 is skipped, its loss is a spike' in capsys.readouterr().err
  assert told == (threshold is not None)

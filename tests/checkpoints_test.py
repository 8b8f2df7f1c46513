"""Saved and restored bit by bit, on any mesh; what does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fixtures
import small_run
from user_llm import checkpoint_files
from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import restore
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.runtime import lease

pytestmark = pytest.mark.usefixtures('compilation_cache')

_IDENTITY = {'catalogue': 'c0'}


def _trainer(data_dir, mesh=partitioning.MeshConfig(model=4), **fields):
  optimizer = optimizers.AdamW(learning_rate=0.01, warmup_steps=1)
  return trainer_lib.Trainer(
      objective=small_run.objective(data_dir),
      optimizer=optimizer.make(10),
      mesh=mesh.make(),
      **fields,
  )


def _restored(trainer, data_dir, folder, init_from=(), identity=None, **fields):
  return restore.restore_or_initialise(
      trainer,
      small_run.spec(data_dir),
      checkpoints_lib.Checkpoints(str(folder)),
      init_from,
      identity or _IDENTITY,
      **fields,
  )


def _flat(tree):
  return train_state.flatten(jax.device_get(tree))


def _assert_equal(found, wanted):
  found, wanted = jax.device_get((found, wanted))
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(name='trained', scope='module')
def _trained(tiny_dataset, tmp_path_factory):
  """A workdir with checkpoints of steps 2 and 3, of three; their states."""
  folder = tmp_path_factory.mktemp('trained')
  trainer = _trainer(tiny_dataset)
  spec = small_run.spec(tiny_dataset)
  state, identity = _restored(trainer, tiny_dataset, folder)
  step = trainer.compile_step(state, spec)
  checkpoints = checkpoints_lib.Checkpoints(str(folder))
  states = {}
  for batch in small_run.batches(tiny_dataset, 4):
    batch = trainer.device_batch({key: batch[key] for key in spec})
    # What is being written at this moment is donated to the next step.
    state, _ = step(state, batch)
    states[int(state.step)] = jax.tree.map(np.array, state)
    if int(state.step) < 4:
      checkpoints.save(state, identity)
  checkpoints.wait()
  return folder, states


def test_the_newest_two_are_kept(trained):
  assert checkpoints_lib.Checkpoints(str(trained[0])).steps() == [2, 3]


def test_restored_bit_by_bit(tiny_dataset, trained):
  folder, states = trained
  trainer = _trainer(tiny_dataset)
  state, identity = _restored(trainer, tiny_dataset, folder)
  assert identity == _IDENTITY
  assert int(state.step) == 3
  _assert_equal(state, states[3])


def test_restored_onto_another_mesh(tiny_dataset, trained):
  folder, states = trained
  trainer = _trainer(tiny_dataset, partitioning.MeshConfig(replica=2))
  state, _ = _restored(trainer, tiny_dataset, folder, step=2)
  _assert_equal(state, states[2])
  abstract = trainer.abstract_state(small_run.spec(tiny_dataset))
  for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(abstract)):
    assert mine.sharding.is_equivalent_to(theirs.sharding, mine.ndim)


def test_who_reads_takes_the_parameters_alone(trained, tiny_dataset):
  folder, states = trained
  trainer = _trainer(tiny_dataset)
  state, _ = _restored(trainer, tiny_dataset, folder, only_params=True)
  _assert_equal(state.trainable, states[3].trainable)
  for leaf in jax.tree.leaves((state.opt_state, state.recent_losses)):
    assert isinstance(leaf, jax.ShapeDtypeStruct)


def test_of_another_version(trained, tiny_dataset, monkeypatch):
  folder, states = trained
  rest = checkpoints_lib._rest  # pylint: disable=protected-access
  monkeypatch.setattr(
      checkpoints_lib, '_rest', lambda state: {**rest(state), 'new': 0}
  )
  trainer = _trainer(tiny_dataset)
  with pytest.raises(ValueError, match='and not new, .*: another version of'):
    _restored(trainer, tiny_dataset, folder)
  state, _ = _restored(trainer, tiny_dataset, folder, only_params=True)
  _assert_equal(state.trainable, states[3].trainable)


def test_looking_makes_no_folder(tmp_path):
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path / 'work'))
  assert checkpoints.steps() == []
  checkpoints.wait()
  assert not (tmp_path / 'work').exists()


def test_init_from(tiny_dataset, trained, tmp_path):
  """Everything under a prefix but what is new; the optimizer starts anew."""
  folder, states = trained
  trainer = _trainer(tiny_dataset, trainable=('!.*embeds', '.*'))
  source = restore.InitFrom(
      path=str(folder), prefix='user_encoder', new=('user_encoder/heads',)
  )
  with pytest.raises(ValueError, match='user_encoder/heads.* unexpected'):
    _restored(trainer, tiny_dataset, tmp_path, [source])
  source = restore.InitFrom(path=str(folder), prefix='user_encoder')
  state, identity = _restored(trainer, tiny_dataset, tmp_path, [source])
  merged = train_state.merge(state.trainable, state.frozen)
  _assert_equal(merged, states[3].trainable)
  assert int(state.step) == 0
  assert not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
  frozen = {
      path: value
      for path, value in _flat(states[3].trainable).items()
      if 'embeds' in path
  }
  assert identity == {
      **_IDENTITY, 'frozen': restore.digest(frozen)
  }


def test_frozen_parameters_are_rounded_and_still_the_same(
    tiny_dataset, trained, tmp_path
):
  """So that a run can go on, or be evaluated, where they are not rounded."""
  source = restore.InitFrom(
      path=str(trained[0]), prefix='user_encoder'
  )
  found = {}
  for dtype in (np.float32, jnp.bfloat16):
    trainer = _trainer(
        tiny_dataset, trainable=('!.*embeds', '.*'), frozen_dtype=dtype
    )
    found[dtype] = _restored(trainer, tiny_dataset, tmp_path, [source])
  (exact, identity), (rounded, same) = found.values()
  assert same == identity
  for path, value in _flat(rounded.frozen).items():
    assert value.dtype == jnp.bfloat16
    want = _flat(exact.frozen)[path].astype(jnp.bfloat16)
    np.testing.assert_array_equal(value, want)
  _assert_equal(rounded.trainable, exact.trainable)


def test_init_from_a_part(tiny_dataset, trained, tmp_path):
  folder, states = trained
  trainer = _trainer(tiny_dataset, seed=1)
  source = restore.InitFrom(
      path=str(folder), prefix='user_encoder/blocks_0'
  )
  state, _ = _restored(trainer, tiny_dataset, tmp_path, [source])
  old, new = _flat(states[3].trainable), _flat(state.trainable)
  for path, value in new.items():
    if path.startswith('user_encoder/blocks_0/'):
      np.testing.assert_array_equal(value, old[path])
    elif path.endswith('kernel'):
      assert np.any(value != old[path]), path


@pytest.mark.parametrize(
    ['fields', 'message'],
    [
        ({'path': 'nowhere'}, "INIT_FROM 'user_encoder': no checkpoint"),
        ({'prefix': 'encoder'}, "INIT_FROM 'encoder': .*parameters start with"),
        ({'prefix': 'user_encoder/'}, "INIT_FROM 'user_encoder/'"),
    ],
)
def test_init_from_errors(tmp_path, trained, fields, message):
  fields = {'path': str(trained[0]), 'prefix': 'user_encoder', **fields}
  fields['path'] = str(tmp_path / fields['path'])
  params = _flat(trained[1][3].trainable)
  with pytest.raises(ValueError, match=message):
    restore.InitFrom(**fields).load(params, _IDENTITY)


def test_init_from_missing_and_left_over_keys(trained):
  params = _flat(trained[1][3].trainable)
  source = restore.InitFrom(path=str(trained[0]), prefix='user_encoder')
  more = {**params, 'user_encoder/gate': np.zeros(1), 'other': np.zeros(1)}
  with pytest.raises(ValueError, match=r'user_encoder/gate +missing +\(1,\)'):
    source.load(more, _IDENTITY)
  source = restore.InitFrom(
      path=str(trained[0]), prefix='user_encoder', new=('.*gate',)
  )
  assert source.load(more, _IDENTITY).keys() == params.keys()
  fewer = {k: v for k, v in params.items() if 'heads_genre' not in k}
  with pytest.raises(ValueError, match=r'heads_genre/kernel +\(.*unexpected'):
    source.load({**fewer, 'user_encoder/gate': np.zeros(1)}, _IDENTITY)
  name = 'user_encoder/projection/kernel'
  other = {**more, name: np.zeros((25, 16))}
  with pytest.raises(ValueError, match=rf'{name} +\(24, 16\) +\(25, 16\)'):
    source.load(other, _IDENTITY)


def test_other_data(tiny_dataset, trained):
  mend = 'catalogue c0.* has c1: DATA_DIR must be'
  identity = {'catalogue': 'c1'}
  trainer = _trainer(tiny_dataset)
  with pytest.raises(ValueError, match=mend):
    _restored(trainer, tiny_dataset, trained[0], identity=identity)
  source = restore.InitFrom(path=str(trained[0]), prefix='user_encoder')
  with pytest.raises(ValueError, match=mend):
    source.load(_flat(trained[1][3].trainable), identity)


def test_other_events(tiny_dataset, trained, tmp_path, capsys):
  """They are for a run to go on with only if it is told so."""
  folder, states = trained
  trainer = _trainer(tiny_dataset)
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path))
  checkpoints.save(states[3], {**_IDENTITY, 'events': 'e0'})
  checkpoints.wait()
  other = {**_IDENTITY, 'events': 'e1'}
  with pytest.raises(ValueError, match='events e0.* e1: .*ALLOW_DATA_CHANGE'):
    _restored(trainer, tiny_dataset, tmp_path, identity=other)
  _, identity = _restored(
      trainer, tiny_dataset, tmp_path, identity=other, same_events=False
  )
  assert identity == other  # What is saved next says so.
  assert 'made with events e0; now they are e1' in capsys.readouterr().err
  # Other runs' parameters are of the items, not of the events.
  source = restore.InitFrom(path=str(tmp_path), prefix='user_encoder')
  source.load(_flat(states[3].trainable), other)


def test_another_split_rule(tiny_dataset, trained, tmp_path):
  """Other events or not: it may have trained on what is now held out."""
  states = trained[1]
  trainer = _trainer(tiny_dataset)
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path))
  checkpoints.save(states[3], {**_IDENTITY, 'events': 'e0', 'split_rule': 'a'})
  checkpoints.wait()
  source = restore.InitFrom(path=str(tmp_path), prefix='user_encoder')
  params = _flat(states[3].trainable)
  other = {**_IDENTITY, 'events': 'e1', 'split_rule': 'b'}
  mend = 'split_rule a.* has b: SPLIT_RULE must be'
  with pytest.raises(ValueError, match=mend):
    _restored(
        trainer, tiny_dataset, tmp_path, identity=other, same_events=False
    )
  with pytest.raises(ValueError, match=mend):
    source.load(params, other)
  source.load(params, {**other, 'split_rule': 'a'})


def test_another_catalogue_has_another_identity(tiny_dataset, tmp_path):
  other = fixtures.write_dataset(tmp_path / 'other', num_items=39)
  mine = small_run.dataset(tiny_dataset).identity
  assert mine['catalogue'] != small_run.dataset(other).identity['catalogue']


def test_a_step_that_is_not_there(tiny_dataset, trained):
  with pytest.raises(ValueError, match=r'No checkpoint of step 1.*\[2, 3\]'):
    _restored(_trainer(tiny_dataset), tiny_dataset, trained[0], step=1)


def test_what_does_not_fit_is_found_before_anything_is_computed(
    tiny_dataset, trained, monkeypatch
):
  def computes(*unused):
    raise AssertionError

  for owner, name in (
      (trainer_lib.Trainer, 'init_params'),
      (trainer_lib.Trainer, 'start_state'),
      (restore.InitFrom, 'load'),
      (restore, 'placed'),
  ):
    monkeypatch.setattr(owner, name, computes)
  source = restore.InitFrom(path=str(trained[0]), prefix='user_encoder')
  with pytest.raises(ValueError, match='catalogue c0'):
    _restored(
        _trainer(tiny_dataset), tiny_dataset, trained[0], [source],
        identity={'catalogue': 'c1'},
    )
  trainer = _trainer(tiny_dataset, trainable=('user_encoder/heads',))
  with pytest.raises(ValueError, match='does not fit MODEL'):
    _restored(trainer, tiny_dataset, trained[0], [source])


def test_a_source_that_is_gone(tiny_dataset, trained):
  """All that it gave is in the checkpoint now."""
  gone = restore.InitFrom(path='gone', prefix='user_encoder')
  state, _ = _restored(
      _trainer(tiny_dataset), tiny_dataset, trained[0], [gone]
  )
  assert int(state.step) == 3


def test_a_source_is_not_deleted_while_it_is_read(trained, monkeypatch):
  folder, states = trained
  pinned = []

  def load_params(self, step):
    path = self._folder(step)  # pylint: disable=protected-access
    pinned.append(lease.is_pinned(checkpoint_files.pin_file(path)))
    return original(self, step)

  original = checkpoints_lib.Checkpoints.load_params
  monkeypatch.setattr(checkpoints_lib.Checkpoints, 'load_params', load_params)
  source = restore.InitFrom(path=str(folder), prefix='user_encoder')
  source.load(train_state.flatten(states[3].trainable), _IDENTITY)
  assert pinned == [True]


def test_another_choice_of_what_trains(tiny_dataset, trained):
  trainer = _trainer(tiny_dataset, trainable=('user_encoder/heads',))
  with pytest.raises(ValueError, match='does not fit MODEL'):
    _restored(trainer, tiny_dataset, trained[0])


def test_digest():
  params = {'a': np.arange(3.0), 'b': np.ones(2)}
  same = {'b': np.ones(2), 'a': np.arange(3.0)}
  assert restore.digest(params) == restore.digest(same)
  same['a'][1] += 1e-12
  assert restore.digest(params) != restore.digest(same)

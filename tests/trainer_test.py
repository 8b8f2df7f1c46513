"""Equal losses on any mesh and in any number of parts; what is frozen stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_run
from user_llm import optimizers
from user_llm import partitioning
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.data import item_features
from user_llm.data import schema
from user_llm.models import dual_encoder
from user_llm.models import user_encoder
from user_llm.objectives import contrastive

pytestmark = pytest.mark.usefixtures('compilation_cache')

_STEPS = 4


def _one_device():
  return jax.make_mesh(
      (1, 1, 1),
      partitioning.MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
      devices=jax.devices()[:1],
  )


_MESHES = {
    'one': _one_device,
    'data': partitioning.MeshConfig(replica=2).make,
    'data_model': partitioning.MeshConfig(model=4).make,
}


def _next_event(data_dir, dropout_rate):
  return small_run.objective(data_dir, dropout_rate=dropout_rate)


def _late_fusion(data_dir, dropout_rate):
  return small_run.objective(
      data_dir, dropout_rate=dropout_rate, fusion=user_encoder.LateFusion()
  )


def _contrastive(data_dir, dropout_rate):
  """Negatives are the whole batch's, wherever they are."""
  return contrastive.Contrastive(
      model=dual_encoder.DualEncoderConfig(
          user_encoder=_next_event(data_dir, dropout_rate).encoder,
          features=item_features.load_item_features(
              data_dir=data_dir, split_rule=schema.LEAVE_ONE_OUT
          ),
      ),
      negatives_per_row=3,
  )


def _trainer(
    data_dir, mesh='one', dropout_rate=0.0, make=_next_event, **fields
):
  optimizer = optimizers.AdamW(
      learning_rate=0.01, warmup_steps=1, weight_decay=0.1
  )
  return trainer_lib.Trainer(
      objective=make(data_dir, dropout_rate),
      optimizer=optimizer.make(10),
      mesh=_MESHES[mesh](),
      **fields,
  )


def _run(trainer, data_dir):
  """Runs some steps; returns their scalars, the first and the last state."""
  dataset = small_run.dataset(data_dir)
  spec = trainer_lib.select_batch(
      dataset.batch_spec('train', 8), trainer.objective.batch_keys
  )
  state = trainer.init_state(spec)
  first = jax.device_get(state)
  step = trainer.compile_step(state, spec)
  scalars = []
  for batch in small_run.batches(data_dir, _STEPS):
    state, out = step(
        state, trainer.device_batch({key: batch[key] for key in spec})
    )
    scalars.append(jax.device_get(out))
  return scalars, first, state


@pytest.fixture(name='reference', scope='module')
def _reference(tiny_dataset):
  """By dropout rate, the run on one device."""

  @functools.cache
  def run(dropout_rate):
    return _run(_trainer(tiny_dataset, dropout_rate=dropout_rate), tiny_dataset)

  return run


def _assert_equal_runs(found, wanted):
  for mine, theirs in zip(found[0], wanted[0], strict=True):
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
      np.testing.assert_allclose(value, theirs[name], rtol=1e-5, err_msg=name)
  for i, tolerance in ((1, 1e-6), (2, 1e-4)):
    mine = train_state.flatten(jax.device_get(found[i].trainable))
    theirs = train_state.flatten(jax.device_get(wanted[i].trainable))
    for path, value in mine.items():
      np.testing.assert_allclose(
          value, theirs[path], rtol=tolerance, atol=tolerance / 10, err_msg=path
      )


@pytest.mark.parametrize('mesh', ['data', 'data_model'])
def test_meshes_agree(tiny_dataset, reference, mesh):
  trainer = _trainer(tiny_dataset, mesh, dropout_rate=0.2)
  found = _run(trainer, tiny_dataset)
  _assert_equal_runs(found, reference(0.2))
  # And the state still lies as it was laid out.
  abstract = trainer.abstract_state(small_run.spec(tiny_dataset))
  for mine, theirs in zip(
      jax.tree.leaves(found[2]), jax.tree.leaves(abstract), strict=True
  ):
    assert mine.sharding.is_equivalent_to(theirs.sharding, mine.ndim)
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)


@pytest.mark.parametrize('make', [_late_fusion, _contrastive])
def test_meshes_agree_on_other_objectives(tiny_dataset, make):
  found, wanted = (
      _run(_trainer(tiny_dataset, mesh, 0.2, make), tiny_dataset)
      for mesh in ('data_model', 'one')
  )
  _assert_equal_runs(found, wanted)


def test_the_state_is_sharded(tiny_dataset):
  trainer = _trainer(tiny_dataset, 'data_model')
  state = trainer.abstract_state(small_run.spec(tiny_dataset))
  up = state.trainable['user_encoder']['blocks_0']['mlp']['up']['kernel']
  assert up.shape == (16, 32)
  assert up.sharding.shard_shape(up.shape) == (8, 8)
  adam = state.opt_state[1]
  moment = adam.mu['user_encoder']['blocks_0']['mlp']['up']['kernel']
  assert moment.sharding == up.sharding


def test_microbatches(tiny_dataset, reference):
  trainer = _trainer(tiny_dataset, 'data_model', num_microbatches=4)
  _assert_equal_runs(_run(trainer, tiny_dataset), reference(0.0))


def test_scalars(tiny_dataset, reference):
  first = reference(0.0)[0][0]
  batch = small_run.batches(tiny_dataset, 1)[0]
  assert first['weight'] == np.sum(batch['target_item'] > 0)
  parts = [value for name, value in first.items() if name.startswith('loss_')]
  assert len(parts) == 2
  np.testing.assert_allclose(first['loss'], sum(parts), rtol=1e-6)
  assert first['grad_norm'] > 0


def test_dropout(reference):
  assert reference(0.2)[0][0]['loss'] != reference(0.0)[0][0]['loss']


def test_frozen_parameters(tiny_dataset):
  trainer = _trainer(
      tiny_dataset, trainable=('!.*heads', 'user_encoder/blocks')
  )
  _, first, last = _run(trainer, tiny_dataset)
  frozen = train_state.flatten(jax.device_get(last.frozen))
  trained = train_state.flatten(jax.device_get(last.trainable))
  assert all(path.startswith('user_encoder/blocks') for path in trained)
  assert 'user_encoder/embeds_item/table' in frozen
  for path, value in train_state.flatten(first.frozen).items():
    np.testing.assert_array_equal(frozen[path], value)
  for path, value in train_state.flatten(first.trainable).items():
    assert np.any(trained[path] != value), path
  memory = sum(
      x.size for x in jax.tree.leaves(last.opt_state) if np.ndim(x) > 0
  )
  assert memory == 2 * sum(x.size for x in trained.values())


def test_frozen_parameters_may_be_rounded(tiny_dataset, monkeypatch):
  fields = dict(trainable=('user_encoder/blocks',))
  exact, _, _ = _run(_trainer(tiny_dataset, **fields), tiny_dataset)
  trainer = _trainer(tiny_dataset, **fields, frozen_dtype=jnp.bfloat16)
  found, _, last = _run(trainer, tiny_dataset)
  table = last.frozen['user_encoder']['embeds_item']['table']
  assert table.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(last.trainable)} == {np.dtype('f4')}
  for mine, theirs in zip(found, exact, strict=True):
    assert mine['loss'] != theirs['loss']
    np.testing.assert_allclose(mine['loss'], theirs['loss'], rtol=1e-2)
  # By default as they are computed with: not on CPU, but on accelerators.
  for backend, dtype in (('cpu', np.float32), ('tpu', jnp.bfloat16)):
    monkeypatch.setattr(jax, 'default_backend', lambda b=backend: b)
    trainer = trainer_lib.Trainer(objective=None, optimizer=None, mesh=None)
    assert trainer.frozen_dtype == dtype


def test_select_batch():
  spec = {'a': np.zeros((2, 3), np.int32), 'b': np.zeros(2)}
  found = trainer_lib.select_batch(spec, ('a',))
  assert found == {'a': jax.ShapeDtypeStruct((2, 3), np.int32)}
  with pytest.raises(ValueError, match=r"reads \['c'\].*gives a, b.*TASK"):
    trainer_lib.select_batch(spec, ('a', 'c'))


def test_only_some_parameters_are_initialised(tiny_dataset):
  """To the values that they have among all, and in their place."""
  trainer = _trainer(tiny_dataset, mesh='data_model')
  spec = small_run.spec(tiny_dataset)
  everything = train_state.flatten(trainer.init_state(spec).trainable)
  paths = {path for path in everything if 'embeds' in path}
  some = trainer.init_params(spec, paths)
  assert some.keys() == paths and paths < everything.keys()
  for path, value in some.items():
    np.testing.assert_array_equal(value, everything[path])
    assert value.sharding == everything[path].sharding
  assert trainer.init_params(spec, ()) == {}

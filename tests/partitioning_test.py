"""The resolver is strict; state shardings follow the parameters."""

import dataclasses

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from user_llm import partitioning


@pytest.fixture(name='mesh', scope='module')
def _mesh():
  return partitioning.MeshConfig(data=2, model=4).make()


@pytest.mark.parametrize(
    ['names', 'shape', 'spec'],
    [
        (('embed', 'mlp'), (6, 8), ('data', 'model')),
        (('vocab', 'embed'), (128, 2), ('model', 'data')),
        (('norm',), (7,), (None,)),
        ((None, 'heads'), (3, 4), (None, 'model')),
        (('act_batch', 'act_embed'), (2, 3), ('data', None)),
        ((), (), ()),
    ],
)
def test_resolve(mesh, names, shape, spec):
  assert partitioning.resolve(names, shape, mesh) == PartitionSpec(*spec)


def test_resolve_over_two_axes():
  mesh = partitioning.MeshConfig(replica=2, data=4).make()
  spec = partitioning.resolve(('act_batch', 'act_mlp'), (8, 3), mesh)
  assert spec == PartitionSpec(('replica', 'data'), None)
  with pytest.raises(ValueError, match='not divisible by the 8 parts'):
    partitioning.resolve(('act_batch',), (4,), mesh)


@pytest.mark.parametrize(
    ['names', 'shape', 'message'],
    [
        (('embd',), (2,), "layer/kernel: no rule for logical axis 'embd'"),
        (('heads', 'mlp'), (4, 4), "uses mesh axis {'model'} twice"),
        (('mlp', 'embed'), (6, 2), r"'mlp' of shape \(6, 2\) is not divisible"),
        (('embed',), (2, 2), 'do not fit shape'),
    ],
)
def test_resolve_raises(mesh, names, shape, message):
  with pytest.raises(ValueError, match=message):
    partitioning.resolve(names, shape, mesh, 'layer/kernel')


def test_rows_of_a_batch_are_rounded_up():
  mesh = partitioning.MeshConfig(replica=2, data=2, model=2).make()
  found = [partitioning.batch_rows(rows, mesh) for rows in (1, 4, 5, 64)]
  assert found == [4, 4, 8, 64]
  with pytest.raises(ValueError, match='has 0 rows'):
    partitioning.batch_rows(0, mesh)


def test_a_misspelt_name_raises_on_one_device_too():
  mesh = jax.make_mesh(
      (1, 1, 1), partitioning.MESH_AXES, devices=jax.devices()[:1]
  )
  with pytest.raises(ValueError, match='no rule'):
    partitioning.resolve(('act_lenght',), (3,), mesh)


@pytest.mark.parametrize(
    ['sizes', 'shape'],
    [
        ({}, (1, 8, 1)),
        ({'model': 4}, (1, 2, 4)),
        ({'replica': 2, 'data': 2, 'model': 2}, (2, 2, 2)),
    ],
)
def test_mesh_sizes(sizes, shape):
  mesh = partitioning.MeshConfig(**sizes).make()
  assert tuple(mesh.shape[axis] for axis in mesh.axis_names) == shape


@pytest.mark.parametrize(
    ['sizes', 'message'],
    [
        ({'model': 3}, 'needs 6 devices and there are 8'),
        ({'data': 16}, 'needs 16 devices and there are 8'),
        ({'model': 16}, 'needs 16 devices'),
        ({'replica': 0}, 'MeshConfig.replica must be a positive integer'),
        ({'data': 0}, 'MeshConfig.data must be'),
        ({'model': '2'}, 'MeshConfig.model must be a positive integer'),
    ],
)
def test_mesh_sizes_that_do_not_fit(sizes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.MeshConfig(**sizes).make()


@dataclasses.dataclass(frozen=True)
class _Gpu:
  """A device of the second node where its number is 8 or more."""

  id: int
  platform: str = 'gpu'
  device_kind: str = 'NVIDIA H100 80GB HBM3'

  @property
  def slice_index(self):
    return self.id // 8


@pytest.mark.parametrize(
    ['sizes', 'shape', 'axis'],
    [
        ({'replica': 2}, (2, 8, 1), 0),
        ({'replica': 4, 'model': 2}, (4, 2, 2), 0),
        ({}, (1, 16, 1), 1),
        ({'model': 4}, (1, 4, 4), 1),
    ],
)
def test_between_nodes_is_an_outer_axis(sizes, shape, axis):
  gpus = [_Gpu(i) for i in range(16)]
  mesh = partitioning.MeshConfig(**sizes).make(gpus[::-1])
  assert mesh.devices.shape == shape
  first, second = np.split(mesh.devices, 2, axis=axis)
  assert {d.id for d in first.flat} == set(range(8))
  assert {d.id for d in second.flat} == set(range(8, 16))


def test_a_model_is_not_split_over_nodes():
  gpus = [_Gpu(i) for i in range(16)]
  with pytest.raises(ValueError, match='2 slices .* or nodes .* multiple'):
    partitioning.MeshConfig(model=16).make(gpus)


@pytest.mark.parametrize(['size', 'padded'], [(1, 128), (128, 128), (129, 256)])
def test_padded_size(size, padded):
  assert partitioning.padded_size(size) == padded


def _boxed():
  return {
      'embed': {'table': nn.LogicallyPartitioned(
          jnp.zeros((128, 4)), ('vocab', 'embed')
      )},
      'mlp': {
          'up': {'kernel': nn.LogicallyPartitioned(
              jnp.zeros((4, 8)), ('embed', 'mlp')
          )},
          'norm': {'scale': nn.LogicallyPartitioned(jnp.zeros(4), ('norm',))},
      },
  }


def test_param_and_state_shardings(mesh):
  boxed = _boxed()
  shardings = partitioning.param_shardings(boxed, mesh)
  assert shardings['embed']['table'].spec == PartitionSpec('model', 'data')
  assert shardings['mlp']['up']['kernel'].spec == PartitionSpec('data', 'model')
  assert shardings['mlp']['norm']['scale'].spec == PartitionSpec(None)
  params = partitioning.unbox(boxed)
  optimizer = optax.chain(optax.scale_by_adam(), optax.trace(0.9))
  state = optimizer.init(params)
  adam, trace = partitioning.state_shardings(state, params, shardings, mesh)
  assert adam.mu == adam.nu == trace.trace == shardings
  assert adam.count.spec == PartitionSpec()


def test_factored_moments_are_replicated(mesh):
  boxed = _boxed()
  params = partitioning.unbox(boxed)
  state = optax.scale_by_factored_rms(min_dim_size_to_factor=2).init(params)
  shardings = partitioning.state_shardings(
      state, params, partitioning.param_shardings(boxed, mesh), mesh
  )
  assert shardings.v_row['embed']['table'].spec == PartitionSpec()
  # What is not factored has its parameter's shape.
  assert shardings.v['mlp']['norm']['scale'].spec == PartitionSpec(None)


def test_a_parameter_without_names(mesh):
  with pytest.raises(ValueError, match='mlp/kernel has no .*layers.Dense'):
    partitioning.param_shardings({'mlp': {'kernel': jnp.zeros(2)}}, mesh)


def test_constrain(mesh):
  x = jnp.ones((4, 3, 8))
  assert partitioning.constrain(x, 'no', 'mesh', 'here') is x

  @jax.jit
  def act(x):
    return partitioning.constrain(x, 'act_batch', 'act_length', 'act_mlp')

  with jax.set_mesh(mesh):
    assert act(x).sharding.shard_shape(x.shape) == (2, 3, 2)
    with pytest.raises(ValueError, match='activation: dimension'):
      act(jnp.ones((3, 3, 8)))


def test_top_k_stays_on_its_device(mesh):
  x = jax.random.normal(jax.random.key(0), (4, 3, 50))
  want = jax.lax.top_k(x, 5)
  find = jax.jit(lambda x: partitioning.top_k(x, 5))
  with jax.set_mesh(mesh):
    x = jax.device_put(x, partitioning.batch_sharding(mesh))
    assert 'all-gather' not in find.lower(x).compile().as_text()
    found = find(x)
  for got in (found, partitioning.top_k(jax.device_get(x), 5)):
    assert all(map(jnp.array_equal, got, want))

"""Mesh, and the one table from logical names to mesh axes.

Parameters and activations have different logical names: `embed` of a weight is
sharded over `data` (FSDP), `act_embed` of an activation is not. The resolver
refuses what flax would drop in silence: unknown names, a mesh axis used twice,
dimensions that the mesh does not divide.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

MESH_AXES = ('replica', 'data', 'model')
_BATCH_AXES = ('replica', 'data')

# Logical name -> mesh axis (or axes, or None: not sharded).
AXIS_RULES: Mapping[str, str | tuple[str, ...] | None] = {
    # Parameters.
    'embed': 'data',
    'vocab': 'model',
    'mlp': 'model',
    'heads': 'model',
    'kv_heads': 'model',
    'head': None,
    'norm': None,
    'layers': None,
    'modalities': None,
    'features': None,
    'latents': None,
    'lora': None,
    'positions': None,
    # Activations.
    'act_batch': _BATCH_AXES,
    'act_length': None,
    'act_embed': None,
    'act_mlp': 'model',
    'act_heads': 'model',
    'act_kv_heads': 'model',
    'act_head': None,
    'act_vocab': 'model',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Sizes of the mesh axes; `data=-1` takes the devices that are left."""

  replica: int = 1
  data: int = -1
  model: int = 1

  def __post_init__(self):
    for name in MESH_AXES:
      size = getattr(self, name)
      is_rest = name == 'data' and size == -1
      if not is_rest and (not isinstance(size, int) or size < 1):
        raise ValueError(
            f'MeshConfig.{name} must be a positive integer, not {size!r}.'
        )

  def make(self, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh over devices, by default all of this job.

    Between slices of TPUs, and between nodes of GPUs, is `replica`, which sends
    least, if it is a multiple of their number, else `data`.

    Raises:
      ValueError: the sizes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    num_devices = len(devices)
    data = self.data
    if data == -1:
      data = max(num_devices // (self.replica * self.model), 1)
    sizes = (self.replica, data, self.model)
    if math.prod(sizes) != num_devices:
      raise ValueError(
          f'MeshConfig {dict(zip(MESH_AXES, sizes))} needs '
          f'{math.prod(sizes)} devices and there are {num_devices}: replica x '
          'data x model must be that; data=-1 takes what is left.'
      )
    # The default is Explicit, under which linen's modules do not work.
    axis_types = (jax.sharding.AxisType.Auto,) * len(sizes)
    num_slices = len({getattr(d, 'slice_index', 0) for d in devices})
    if num_slices == 1:
      return jax.make_mesh(
          sizes, MESH_AXES, devices=devices, axis_types=axis_types
      )
    inside, between = _between_slices(sizes, num_slices)
    return jax.sharding.Mesh(
        mesh_utils.create_hybrid_device_mesh(
            inside, between, devices, allow_split_physical_axes=True
        ),
        MESH_AXES,
        axis_types=axis_types,
    )


def _between_slices(
    sizes: tuple[int, int, int], num_slices: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
  """Sizes of the mesh axes within a slice, and between slices."""
  replica, data, model = sizes
  if replica % num_slices == 0:
    return (replica // num_slices, data, model), (num_slices, 1, 1)
  if data % num_slices == 0:
    return (replica, data // num_slices, model), (1, num_slices, 1)
  raise ValueError(
      f'MeshConfig {dict(zip(MESH_AXES, sizes))}: the devices are {num_slices} '
      'slices (of TPUs) or nodes (of GPUs), and replica or data must be a '
      'multiple of that.'
  )


def padded_size(size: int, multiple: int = 128) -> int:
  """`size` rounded up, so that any usual mesh axis divides a vocabulary."""
  return -(-size // multiple) * multiple


def resolve(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Any,
    what: str = 'array',
) -> PartitionSpec:
  """Mesh axes of an array's dimensions.

  Args:
    names: The logical name of each dimension; None: not sharded.
    shape: The array's shape, of the same rank.
    mesh: A mesh with the axes MESH_AXES, concrete or abstract.
    what: Named in the errors.

  Raises:
    ValueError: unknown name, other rank, an axis used twice, or a dimension
      that its mesh axes do not divide.
  """
  if len(names) != len(shape):
    raise ValueError(f'{what}: names {names} do not fit shape {tuple(shape)}.')
  used: set[str] = set()
  spec = []
  for name, size in zip(names, shape):
    if name is not None and name not in AXIS_RULES:
      raise ValueError(
          f'{what}: no rule for logical axis {name!r} in AXIS_RULES; it has '
          f'{", ".join(AXIS_RULES)}.'
      )
    rule = None if name is None else AXIS_RULES[name]
    axes = (rule,) if isinstance(rule, str) else tuple(rule or ())
    axes = tuple(a for a in axes if mesh.shape[a] > 1)
    if used.intersection(axes):
      raise ValueError(
          f'{what}: {names} uses mesh axis {used.intersection(axes)} twice.'
      )
    used.update(axes)
    parts = math.prod(mesh.shape[a] for a in axes)
    if size % parts:
      raise ValueError(
          f'{what}: dimension {name!r} of shape {tuple(shape)} is not '
          f'divisible by the {parts} parts of mesh axes {axes}; change the size or '
          'MeshConfig.'
      )
    spec.append(axes[0] if len(axes) == 1 else axes or None)
  return PartitionSpec(*spec)


def param(
    init: Callable[..., jax.Array], names: Sequence[str | None]
) -> Callable[..., Any]:
  """An initialiser whose parameter carries logical names."""
  return nn.with_logical_partitioning(init, tuple(names))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Shards an activation by logical names; nothing where no mesh is set."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = resolve(names, x.shape, mesh, 'activation')
  return jax.lax.with_sharding_constraint(x, spec)


def batch_parts(batch: int) -> int:
  """In how many parts the mesh that is set has a batch; 1 where none is.

  Raises:
    ValueError: they do not divide it.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  resolve(('act_batch',), (batch,), mesh, 'activation')
  return math.prod(mesh.shape[axis] for axis in _BATCH_AXES)


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`jax.lax.top_k` of [B, ...], a device its own rows of a batch.

  By itself XLA gathers all rows on every device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.lax.top_k(x, k)
  spec = PartitionSpec(_BATCH_AXES)
  return jax.shard_map(
      lambda rows: jax.lax.top_k(rows, k),
      mesh=mesh, in_specs=spec, out_specs=spec,
  )(x)


def batch_rows(rows: int, mesh: jax.sharding.Mesh) -> int:
  """`rows` rounded up to what the mesh can share among its devices."""
  if not isinstance(rows, int) or rows < 1:
    raise ValueError(f'A batch has {rows!r} rows; it must have 1 or more.')
  return padded_size(rows, math.prod(mesh.shape[a] for a in _BATCH_AXES))


def unbox(variables: Any) -> Any:
  """Plain arrays of a tree that `param` initialised."""
  return jax.tree.map(
      lambda x: x.value if isinstance(x, nn.LogicallyPartitioned) else x,
      variables,
      is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
  )


def param_shardings(boxed: Any, mesh: jax.sharding.Mesh) -> Any:
  """The sharding of each parameter of a (possibly abstract) boxed tree."""

  def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if not isinstance(leaf, nn.LogicallyPartitioned):
      raise ValueError(
          f'Parameter {name} has no logical names: use '
          'partitioning.param(init, names), or layers.Dense and layers.Embed; '
          "flax's own layers have none."
      )
    return NamedSharding(
        mesh, resolve(leaf.names, leaf.value.shape, mesh, name)
    )

  return jax.tree_util.tree_map_with_path(
      of, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over replicas and data; the rest of a batch is not sharded."""
  return NamedSharding(mesh, PartitionSpec(_BATCH_AXES))


def state_shardings(state: Any, params: Any, shardings: Any, mesh: Any) -> Any:
  """Shardings of an optimizer state: like the parameters it mirrors.

  A leaf whose path ends in a parameter's path and whose shape is that
  parameter's takes its sharding; all others (counts, factored moments) are
  replicated.
  """
  flat_params = flax.traverse_util.flatten_dict(params)
  flat_shardings = flax.traverse_util.flatten_dict(shardings)
  replicated = NamedSharding(mesh, PartitionSpec())

  def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    keys = tuple(k.key for k in path if isinstance(k, jax.tree_util.DictKey))
    for start in range(len(keys)):
      like = flat_params.get(keys[start:])
      if like is not None and like.shape == leaf.shape:
        return flat_shardings[keys[start:]]
    return replicated

  return jax.tree_util.tree_map_with_path(of, state)

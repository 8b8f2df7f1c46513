"""Batches of several processes: each host feeds its rows, all get the answers.

Arrays over the devices of all hosts can be neither put nor fetched by one of
them. With one process all of this is what it would be without this module.

Shapes: B rows of a batch, H hosts.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np

from user_llm import partitioning


class Share(NamedTuple):
  """Rows host * B / H .. (host + 1) * B / H - 1 of each batch."""

  host: int
  num_hosts: int


def share(mesh: jax.sharding.Mesh) -> Share:
  """The rows that this process feeds.

  Processes between which the mesh shards only the model feed the same rows, and
  count as one host.

  Raises:
    ValueError: the mesh lies across the processes so that there are no such
      shares.
  """
  parts, hosts = _parts_by_process(mesh)
  return Share(hosts.index(parts[jax.process_index()]), len(hosts))


def mine(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """This process's rows of a batch [B, ...] that every process has whole."""
  host, num_hosts = share(mesh)

  def rows(x: np.ndarray) -> np.ndarray:
    size = len(x) // num_hosts
    return x[host * size : (host + 1) * size]

  return jax.tree.map(rows, batch)


def to_devices(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """This process's rows [B / H, ...] as its part of arrays [B, ...]."""
  return jax.make_array_from_process_local_data(
      partitioning.batch_sharding(mesh), batch
  )


def to_hosts(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Arrays [B, ...] as numpy's in every process, host 0's rows first."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  # On a TPU pod a host's devices need not be neighbours on the mesh.
  order = np.concatenate(_parts_by_process(mesh)[1])

  def rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(order), -1, *x.shape[1:])[order].reshape(x.shape)

  return jax.tree.map(rows, multihost_utils.process_allgather(tree, tiled=True))


def run(
    function: Callable[[Any], Any], batch: Any, mesh: jax.sharding.Mesh
) -> Any:
  """What a compiled function makes of a batch, on all devices.

  Args:
    function: Of arrays [B, ...], to arrays [B, ...].
    batch: This process's rows [B / H, ...].
    mesh: All devices.

  Returns:
    The result's numpy arrays [B, ...], in every process.
  """
  with jax.set_mesh(mesh):
    out = function(to_devices(batch, mesh))
  return to_hosts(out, mesh)


def _parts_by_process(
    mesh: jax.sharding.Mesh,
) -> tuple[dict[int, tuple[int, ...]], list[tuple[int, ...]]]:
  """Which parts of a batch each process feeds, and each host.

  A part is what one row of the mesh's devices along `model` holds.
  """
  found: dict[int, set[int]] = collections.defaultdict(set)
  for part, devices in enumerate(mesh.devices.reshape(-1, mesh.shape['model'])):
    for device in devices:
      found[device.process_index].add(part)
  parts = {process: tuple(sorted(x)) for process, x in found.items()}
  hosts = sorted(set(parts.values()))
  num_parts = mesh.shape['replica'] * mesh.shape['data']
  if any(len(x) * len(hosts) != num_parts for x in hosts):
    raise ValueError(
        f'MeshConfig {dict(mesh.shape)} gives the processes parts of a batch '
        'that overlap or differ in size: let `model` divide the devices of a '
        'process, or be a multiple of them.'
    )
  return parts, hosts

"""What the hosts of a run tell each other: who they are, and who is slow."""

from collections.abc import Sequence
import functools
import hashlib
import socket

import jax
from jax.experimental import multihost_utils
import numpy as np

_NAME_BYTES = 64
# Lines of a difference that are shown.
_MAX_LINES = 3
# Digests of what all hosts were found to have alike, for `introduce`.
_alike: dict[str, str] = {}


def check_same(**texts: str) -> None:
  """Compares texts, such as the configuration, over all hosts.

  A process that is alone has nothing to compare.

  Args:
    **texts: By what they are; each host gives the same names.

  Raises:
    ValueError: on all hosts, if one has another text than process 0.
  """
  if _is_alone():
    return
  names = _gather(socket.gethostname().encode()[:_NAME_BYTES])
  for what, text in texts.items():
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    digests = [found.decode() for found in _gather(digest.encode())]
    others = [i for i, found in enumerate(digests) if found != digests[0]]
    if others:
      found = [text.decode() for text in _gather(text.encode())]
      who = ', '.join(f'{i} ({names[i].decode()})' for i in others)
      raise ValueError(
          f'The hosts do not have the same {what}: process(es) {who} beside '
          f'process 0 ({names[0].decode()}): '
          f'{_difference(found[0], found[others[0]], others[0])}. Start all '
          'with the same flags, files and data.'
      )
    _alike[what] = digest


def introduce(**texts: str) -> None:
  """Compares as `check_same` does, then prints a line on who this host is."""
  if _is_alone():
    return
  check_same(**texts)
  local = jax.local_devices()
  ids = ', '.join(str(device.id) for device in local)
  same = ', '.join(f'{what} {digest}' for what, digest in _alike.items())
  print(
      f'process {jax.process_index()} of {jax.process_count()} on '
      f'{socket.gethostname()}: device(s) {ids} of {jax.device_count()} x '
      f'{local[0].device_kind}; {same}, the same on all.',
      flush=True,
  )


def slowest(secs: float) -> dict[str, jax.Array]:
  """The most of what the hosts give, and who gave it; {} if there is but one.

  All hosts must call it at the same step. Nothing waits until it is read.

  Args:
    secs: Of this host.

  Returns:
    f32[] `slowest_host_secs` and i32[] `slowest_host`, a process's number.
  """
  if _is_alone():
    return {}
  sharding, most = _most()
  values = jax.make_array_from_callback(
      (jax.device_count(),), sharding, lambda _: np.array([secs], np.float32)
  )
  most_secs, process = most(values)
  return {'slowest_host_secs': most_secs, 'slowest_host': process}


def _is_alone() -> bool:
  # Asked in this order it finds no devices too early.
  return not jax.distributed.is_initialized() or jax.process_count() == 1


@functools.cache
def _most() -> tuple[jax.sharding.NamedSharding, jax.stages.Wrapped]:
  """Where the values are, one a device, and what finds the largest."""
  devices = jax.devices()
  mesh = jax.sharding.Mesh(np.array(devices), ('device',))
  spec = jax.sharding.PartitionSpec
  processes = np.array([device.process_index for device in devices], np.int32)

  def most(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    index = values.argmax()
    return values[index], jax.numpy.asarray(processes)[index]

  everywhere = jax.sharding.NamedSharding(mesh, spec())
  return (
      jax.sharding.NamedSharding(mesh, spec('device')),
      jax.jit(most, out_shardings=everywhere),
  )


def _gather(own: bytes) -> list[bytes]:
  """What each host gives, in the order of processes."""
  sizes = multihost_utils.process_allgather(np.array(len(own), np.int32))
  padded = np.frombuffer(own.ljust(sizes.max(), b'\0'), np.uint8)
  found = multihost_utils.process_allgather(padded)
  return [bytes(row[:size]) for row, size in zip(found, sizes.tolist())]


def _difference(first: str, other: str, process: int) -> str:
  """Lines that only one of two texts has."""
  first_lines, other_lines = first.splitlines(), other.splitlines()
  parts = []
  for who, lines, known in (
      (0, first_lines, other_lines), (process, other_lines, first_lines)
  ):
    only = [line.strip() for line in lines if line not in known]
    shown = '; '.join(only[:_MAX_LINES]) or 'nothing more'
    more = len(only) - _MAX_LINES
    parts.append(
        f'process {who} has `{shown}`' + (f' and {more} more' * (more > 0))
    )
  return ', '.join(parts)


def agreed(numbers: Sequence[int]) -> list[int]:
  """Process 0's numbers, in every process; all must ask."""
  if jax.process_count() == 1:
    return list(numbers)
  from_first = multihost_utils.broadcast_one_to_all
  size = int(from_first(np.int32(len(numbers))))
  is_first = jax.process_index() == 0
  values = np.array(numbers if is_first else [0] * size, np.int32)
  return from_first(values).tolist()

"""Joins the processes of a run that was started as several."""

from collections.abc import Mapping
import os

ADDRESS = 'JAX_COORDINATOR_ADDRESS'
NUM_PROCESSES = 'JAX_NUM_PROCESSES'
PROCESS_ID = 'JAX_PROCESS_ID'
_NAMES = (ADDRESS, NUM_PROCESSES, PROCESS_ID)
# Found by JAX itself: on SLURM, on Cloud TPU, and on TPU nodes of GKE.
AUTO = 'auto'


def initialize(environment: Mapping[str, str] = os.environ) -> bool:
  """Waits for the other processes, if the environment tells of any.

  It tells by JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by JAX_COORDINATOR_ADDRESS=auto. Must
  come before anything that asks JAX for its devices.

  Returns:
    Whether this is the process that writes: the first, or the only one.

  Raises:
    ValueError: a variable is missing or is no number.
  """
  given = {name: environment[name] for name in _NAMES if environment.get(name)}
  if not given:
    return True
  import jax  # pylint: disable=g-import-not-at-top

  if given == {ADDRESS: AUTO}:
    # JAX would read the variable as the address.
    os.environ.pop(ADDRESS)
    jax.distributed.initialize()
    return jax.process_index() == 0
  missing = [name for name in _NAMES if name not in given]
  if missing:
    raise ValueError(
        f'{", ".join(given)} is set and {", ".join(missing)} is not: set all '
        f'three, or {ADDRESS}={AUTO} alone.'
    )
  jax.distributed.initialize(
      given[ADDRESS],
      _integer(NUM_PROCESSES, given),
      _integer(PROCESS_ID, given),
      # Without this it still looks around for a cluster.
      cluster_detection_method='deactivate',
  )
  return jax.process_index() == 0


def check_alone(mode: str) -> None:
  """Raises ValueError in one of several processes: the mode is not for them."""
  import jax  # pylint: disable=g-import-not-at-top

  if jax.process_count() > 1:
    raise ValueError(
        f'`{mode}` is done by one process and here are {jax.process_count()}: '
        f'start it alone, without {", ".join(_NAMES)}.'
    )


def _integer(name: str, given: Mapping[str, str]) -> int:
  if not given[name].isdecimal():
    raise ValueError(f'{name}={given[name]!r} must be a number.')
  return int(given[name])

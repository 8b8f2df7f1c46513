"""Joins the processes of a run that was started as several."""

from collections.abc import Iterator, Mapping
import contextlib
import os
import socket
import sys
import threading

from user_llm.runtime import watchdog

ADDRESS = 'JAX_COORDINATOR_ADDRESS'
NUM_PROCESSES = 'JAX_NUM_PROCESSES'
PROCESS_ID = 'JAX_PROCESS_ID'
_NAMES = (ADDRESS, NUM_PROCESSES, PROCESS_ID)
# Found by JAX itself: on SLURM, on Cloud TPU, and on TPU nodes of GKE.
AUTO = 'auto'


def initialize(
    environment: Mapping[str, str] = os.environ,
    warn_secs: int = 120,
    timeout_secs: int = 300,
) -> bool:
  """Waits for the other processes, if the environment tells of any.

  It tells by JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by JAX_COORDINATOR_ADDRESS=auto,
  which is meant too by a SLURM step of several tasks and by several
  TPU_WORKER_HOSTNAMES. JAX_NUM_PROCESSES=1 by itself is a process alone
  wherever it runs. Must come before anything that asks JAX for its devices.

  Args:
    environment: Variables.
    warn_secs: After so long it says whom it waits for.
    timeout_secs: After so long it ends the process with `watchdog.EXIT_CODE`.

  Returns:
    Whether this is the process that writes: the first, or the only one.

  Raises:
    ValueError: a variable is missing or is no number.
  """
  given = {name: environment[name] for name in _NAMES if environment.get(name)}
  expected = _expected(environment)
  if not given and expected > 1:
    given = {ADDRESS: AUTO}
  if not given or given == {NUM_PROCESSES: '1'}:
    return True
  import jax  # pylint: disable=g-import-not-at-top

  # JAX's own end of waiting is an abort with a C++ trace: it must come later.
  timeout = {'initialization_timeout': timeout_secs + 60}
  if given == {ADDRESS: AUTO}:
    # JAX would read the variable as the address.
    os.environ.pop(ADDRESS, None)
    with _patience(given, expected, warn_secs, timeout_secs):
      jax.distributed.initialize(**timeout)
    return jax.process_index() == 0
  missing = [name for name in _NAMES if name not in given]
  if missing:
    raise ValueError(
        f'{", ".join(given)} is set and {", ".join(missing)} is not: set all '
        f'three, or {ADDRESS}={AUTO} alone.'
    )
  num_processes = _integer(NUM_PROCESSES, given)
  process_id = _integer(PROCESS_ID, given)
  with _patience(given, num_processes, warn_secs, timeout_secs):
    jax.distributed.initialize(
        given[ADDRESS],
        num_processes,
        process_id,
        # Without this it still looks around for a cluster.
        cluster_detection_method='deactivate',
        **timeout,
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


def _expected(environment: Mapping[str, str]) -> int:
  """How many processes a cluster that JAX knows says there are; 0: none does.

  Of SLURM the step counts, not the job: a batch script is no task.
  """
  tasks = environment.get('SLURM_STEP_NUM_TASKS', '')
  hosts = environment.get('TPU_WORKER_HOSTNAMES', '')
  return int(tasks) if tasks.isdecimal() else len(hosts.split(',')) * bool(hosts)


def _integer(name: str, given: Mapping[str, str]) -> int:
  if not given[name].isdecimal():
    raise ValueError(f'{name}={given[name]!r} must be a number.')
  return int(given[name])


@contextlib.contextmanager
def _patience(
    given: Mapping[str, str],
    expected: int,
    warn_secs: int,
    timeout_secs: int,
) -> Iterator[None]:
  """Warns while the others do not come, and at last ends the process.

  From a thread: JAX waits inside one call, and does not say who has arrived.
  """
  arrived = threading.Event()

  def watch() -> None:
    if arrived.wait(warn_secs):
      return
    text = _waiting(given, expected, warn_secs)
    print(f'warning: {text}', file=sys.stderr, flush=True)
    if arrived.wait(timeout_secs - warn_secs):
      return
    text = _waiting(given, expected, timeout_secs)
    print(f'error: {text}', file=sys.stderr, flush=True)
    os._exit(watchdog.EXIT_CODE)  # The main thread cannot be reached.

  threading.Thread(target=watch, daemon=True).start()
  try:
    yield
  finally:
    arrived.set()


def _waiting(given: Mapping[str, str], expected: int, secs: int) -> str:
  """Who waits for whom, as far as it can be known."""
  if PROCESS_ID not in given:
    who = f'all {expected} processes' if expected else 'all processes'
    return (
        f'not {who} have arrived in {secs} s: was it started on every worker?'
    )
  process, address = given[PROCESS_ID], given[ADDRESS]
  who = f'process {process} of {expected} has waited {secs} s'
  if process != '0' and not _answers(address):
    return (
        f'{who} for process 0, and nothing answers at {address} ({ADDRESS}): '
        'was it started there, and does a firewall let others in?'
    )
  return (
      f'{who} at {address}, and not all others have arrived: was it started on '
      f'one worker only? Each needs a {PROCESS_ID} of its own.'
  )


def _answers(address: str) -> bool:
  host, _, port = address.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
  except (OSError, ValueError):
    return False
  return True

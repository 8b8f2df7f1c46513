"""Runs a command that ends with who started it: python -m launch.guard COMMAND.

Whoever starts it holds the other end of its standard input. When that closes,
for whatever reason, the command is told to save and end (SIGTERM), and killed
if it takes too long. Linux tells it too when this process is killed.
"""

from collections.abc import Sequence
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

from launch import exit_codes

GRACE_SECS = 60.0
_POLL_SECS = 0.05
_PR_SET_PDEATHSIG = 1  # Of Linux, <sys/prctl.h>.


def is_alone() -> bool:
  """Whether the starter has closed its end of the pipe, or is gone."""
  readable, _, _ = select.select([sys.stdin], [], [], 0)
  return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def signal_group(pid: int, number: int) -> None:
  """To a process that leads a group, and all of that, if it is ours."""
  try:
    os.killpg(pid, number)
  except (ProcessLookupError, PermissionError):
    pass


def lone_environment() -> dict[str, str]:
  """For a process that is a job of its own.

  Its starter may be one of many tasks of a SLURM step, which would make a
  trainer wait for the others: see `user_llm.runtime.distributed`.
  """
  others = ('JAX_COORDINATOR_ADDRESS', 'JAX_PROCESS_ID')
  mine = {k: v for k, v in os.environ.items() if k not in others}
  return {**mine, 'JAX_NUM_PROCESSES': '1'}


def ignore_signals() -> None:
  """Only the starter decides; what a whole job is sent comes here too."""
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)


def _end_with_us() -> None:
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the command's exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  ignore_signals()
  process = subprocess.Popen(
      argv,
      stdin=subprocess.DEVNULL,
      start_new_session=True,
      close_fds=False,  # A lock of the starter's is held until the end.
      preexec_fn=_end_with_us if sys.platform == 'linux' else None,
  )
  kill_at = float('inf')
  while process.poll() is None:
    now = time.monotonic()
    if kill_at == float('inf') and is_alone():
      signal_group(process.pid, signal.SIGTERM)
      kill_at = now + GRACE_SECS
    if now >= kill_at:
      signal_group(process.pid, signal.SIGKILL)
    time.sleep(_POLL_SECS)
  # What the command has started and left behind.
  signal_group(process.pid, signal.SIGKILL)
  return exit_codes.of_process(process.returncode)


if __name__ == '__main__':
  sys.exit(main())

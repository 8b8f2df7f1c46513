"""What an exit code means, and whether the job is started again."""

from collections.abc import Sequence

DONE = 0
USER_ERROR = 2
PREEMPTED = 42
HUNG = 43
NOT_FINITE = 44
NO_PROGRESS = 45
IN_USE = 46
UNSAVED = 47
# A job that saves nothing new is restarted this often.
MAX_RESTARTS_WITHOUT_PROGRESS = 3

_MEANINGS = {
    DONE: 'done',
    1: 'an error in the program; see its traceback',
    USER_ERROR: 'a mistake in the configuration or the data; see its message',
    PREEMPTED: 'preempted after saving a checkpoint',
    HUNG: 'no step for too long',
    NOT_FINITE: 'the loss is not finite',
    NO_PROGRESS: (
        f'no new checkpoint in {MAX_RESTARTS_WITHOUT_PROGRESS} restarts'
    ),
    IN_USE: 'another process trains in the workdir; see the message',
    UNSAVED: 'a checkpoint could not be saved; see the message',
}


def is_retried(code: int) -> bool:
  """Whether the same job may succeed if it is started again.

  From 128 on it was ended by a signal: the machine's fault, or memory.
  """
  return code in (PREEMPTED, HUNG, IN_USE, UNSAVED) or code >= 128


RETRIED = tuple(code for code in range(1, 256) if is_retried(code))


def of_job(codes: Sequence[int]) -> int:
  """The code of a job whose ranks failed with `codes`, the first one first.

  One rank's mistake counts more than the aborts of those that waited for it.
  """
  final = [code for code in codes if code and not is_retried(code)]
  failed = [code for code in codes if code]
  return (final or failed or [DONE])[0]


def of_process(returncode: int) -> int:
  """As a shell has it: 128 + the signal's number, not minus that number."""
  return 128 - returncode if returncode < 0 else returncode


def describe(code: int) -> str:
  """'exit code 42: preempted after saving a checkpoint'."""
  meaning = _MEANINGS.get(code)
  if meaning is None and code >= 128:
    meaning = f'ended by signal {code - 128}'
  return f'exit code {code}' + (f': {meaning}' if meaning else '')

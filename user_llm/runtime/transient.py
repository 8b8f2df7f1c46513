"""Input and output that fails for a moment, as on network file systems."""

import errno
import sys

import tenacity

# The next try may succeed; others, such as a missing file or a full disk, are
# told at once.
_ERRNOS = frozenset({
    errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO, errno.ENOLINK,
})
# As TensorFlow names them; EIO is unknown to it.
_TENSORFLOW = ('UnavailableError', 'DeadlineExceededError', 'UnknownError')
_ATTEMPTS = 8
_MAX_SECS = 10.0


def is_transient(error: BaseException) -> bool:
  """Whether the same may succeed a moment later."""
  if isinstance(error, OSError):
    return error.errno in _ERRNOS
  kind = type(error)
  return kind.__module__.startswith('tensorflow.') and (
      kind.__name__ in _TENSORFLOW
  )


def _tell(state: tenacity.RetryCallState) -> None:
  print(
      f'warning: {state.outcome.exception()}; tried again in '
      f'{state.next_action.sleep:.1f} s '
      f'({state.attempt_number} of {_ATTEMPTS - 1}).',
      file=sys.stderr, flush=True,
  )


# A decorator of functions that can be called again: waits longer and longer, up
# to 10 s, with jitter, so that a thousand hosts do not come back at once.
retried = tenacity.retry(
    retry=tenacity.retry_if_exception(is_transient),
    wait=tenacity.wait_random_exponential(multiplier=0.25, max=_MAX_SECS),
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    before_sleep=_tell,
    reraise=True,
)

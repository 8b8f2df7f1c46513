"""Tells the user's mistakes from bugs of ours."""

import dis
import errno
import re
import traceback

# A path that the user named, such as --output, cannot be used.
_PATH_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# As little can be done there: full, read-only, or without what is asked of it.
_PATH_ERRNOS = (
    errno.EDQUOT, errno.ENOLCK, errno.ENOSPC, errno.ENOTSUP, errno.EROFS
)


def is_user_error(error: Exception) -> bool:
  """Whether our own code found the user's input wrong.

  That is a ValueError of a `raise` statement outside the installed packages: a
  ValueError that numpy or JAX raised needs its stack trace. JAX removes its own
  frames, so that the statement, not only the file, has to be looked at.
  """
  if isinstance(error, OSError):
    # gin's copy of an error has no `errno`.
    number = re.match(r'\[Errno (\d+)\]', str(error))
    is_of_path = number is not None and int(number[1]) in _PATH_ERRNOS
    return isinstance(error, _PATH_ERRORS) or is_of_path
  if not isinstance(error, ValueError):
    return False
  last = error.__traceback__
  while last.tb_next:
    last = last.tb_next
  code = last.tb_frame.f_code
  is_raise = code.co_code[last.tb_lasti] == dis.opmap['RAISE_VARARGS']
  is_library = re.search(
      r'/(site|dist)-packages/(?!user_llm/)|/lib/python[0-9.]+/(?!site-)',
      code.co_filename,
  )
  return is_raise and not is_library


def is_out_of_memory(error: Exception) -> bool:
  """Whether a device or the host had too little memory, as XLA tells it."""
  return isinstance(error, MemoryError) or (
      'RESOURCE_EXHAUSTED' in str(error) or 'Out of memory' in str(error)
  )


def message(error: Exception) -> str:
  """The error's text without what gin adds about the call."""
  text = str(error).split('\n  In call to configurable', 1)[0]
  return text.strip() or ''.join(traceback.format_exception_only(error))

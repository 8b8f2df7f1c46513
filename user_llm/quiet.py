"""Keeps what TensorFlow's libraries print about themselves from the user."""

from collections.abc import Iterator
import contextlib
import os
import sys
import tempfile

from user_llm import user_errors


@contextlib.contextmanager
def imports() -> Iterator[None]:
  """Holds back what TensorFlow's libraries print while they are loaded.

  `TF_CPP_MIN_LOG_LEVEL` is for what they print later; no setting of theirs
  silences this. If the import fails it is shown after all.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  with tempfile.TemporaryFile() as held:
    sys.stderr.flush()
    stderr_fd = os.dup(2)
    os.dup2(held.fileno(), 2)
    try:
      yield
    except Exception as error:
      if not user_errors.is_user_error(error):
        held.seek(0)
        os.write(stderr_fd, held.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(stderr_fd, 2)
      os.close(stderr_fd)

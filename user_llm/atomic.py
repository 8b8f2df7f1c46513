"""Files that are there whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import socket
from typing import BinaryIO


@contextlib.contextmanager
def write(path: str | pathlib.Path) -> Iterator[BinaryIO]:
  """A file that is at `path` when all is written, and else nowhere.

  Raises:
    ValueError: `path` is a directory.
    OSError: it cannot be written, which is known before anything is.
  """
  target = pathlib.Path(path)
  if target.is_dir() or str(path).endswith('/'):
    raise ValueError(f'{path} is a directory; name a file.')
  target.parent.mkdir(parents=True, exist_ok=True)
  # Two processes, of two hosts even, may write the same file.
  partial = target.with_name(
      f'.{target.name}.{socket.gethostname()}-{os.getpid()}.partial'
  )
  try:
    with partial.open('wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())  # Else a power cut leaves an empty file.
    os.replace(partial, target)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: str | pathlib.Path, text: str) -> None:
  """As `write`, of a text in UTF-8."""
  with write(path) as file:
    file.write(text.encode())

"""One trainer a workdir; readers pin the checkpoint that they read.

Both are locks of the operating system on files (`flock`): whoever dies,
however, holds them no longer. Network file systems carry them between machines
if they have locks (NFS from version 4 on); object stores have none.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import socket
from typing import IO

LOCK_FILE = '.lock'
# Of a process whose workdir another one has: later it may be free.
EXIT_CODE = 46


class InUseError(ValueError):
  """Another process trains in the workdir."""

  exit_code = EXIT_CODE


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path) -> Iterator[None]:
  """Holds a workdir, which is made if need be; what is left empty goes again.

  Raises:
    InUseError: another process holds it: the message says which.
    ValueError: the file system has no locks.
    OSError: nothing can be written there.
  """
  made = [p for p in (workdir, *workdir.parents) if not p.exists()]
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / LOCK_FILE
  file = _locked(path)
  if file is None:
    raise InUseError(
        f'--workdir={workdir} is in use by {_holder(path)}: wait for it, stop '
        'it, or give another --workdir.'
    )
  with file:
    file.truncate(0)
    file.write(json.dumps({'host': socket.gethostname(), 'pid': os.getpid()}))
    file.flush()
    try:
      yield
    finally:
      path.unlink(missing_ok=True)
      for directory in made:
        if not directory.is_dir() or any(directory.iterdir()):
          break
        directory.rmdir()


def _locked(path: pathlib.Path) -> IO[str] | None:
  """The file, open and locked; None if another process has it."""
  while True:
    file = path.open('a+', encoding='utf-8')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.close()
      return None
    except OSError as error:
      file.close()
      raise ValueError(
          f'{path} cannot be locked ({error.strerror}): its file system has no '
          'locks, which keep two trainings apart. Mount it with locks, or give '
          'another --workdir.'
      ) from error
    # Whoever had it may have deleted it before we had the lock.
    if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
      return file
    file.close()


def _holder(path: pathlib.Path) -> str:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
    return f'process {found["pid"]} on {found["host"]}'
  except (OSError, ValueError, KeyError, TypeError):
    return 'another process'


@contextlib.contextmanager
def pinned(path: pathlib.Path) -> Iterator[None]:
  """Keeps a file, such as a checkpoint's, from being deleted by `is_pinned`.

  A reader that cannot open it for locking goes on without.
  """
  try:
    file = path.open('rb')
  except OSError:
    yield
    return
  with file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_SH)
    yield


def is_pinned(path: pathlib.Path) -> bool:
  """Whether a reader has the file `pinned`."""
  try:
    file = path.open('r+b')
  except OSError:
    return False
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
    except OSError:
      return False
  return False

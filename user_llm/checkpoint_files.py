"""Whether a checkpoint's files are those that were written.

Orbax restores a flipped bit in silence. So each step's folder has, written last,
a manifest with the size and the SHA-256 of every file.
"""

from collections.abc import Sequence
import hashlib
import json
import pathlib
import shutil
from typing import Any

from user_llm import atomic
from user_llm.runtime import lease
from user_llm.runtime import transient

MANIFEST = 'manifest.json'
# Of every step that Orbax has finished.
_PARTS = ('_CHECKPOINT_METADATA', 'metadata', 'params', 'rest')
# What a step takes beside its arrays: names, shapes, manifest.
_SPARE_BYTES = 1 << 22
_CHUNK_BYTES = 1 << 22


def is_whole(folder: pathlib.Path) -> bool:
  """Whether a folder looks like a finished step: not a stranger's, not empty."""
  return all((folder / name).exists() for name in _PARTS)


def pin_file(folder: pathlib.Path) -> pathlib.Path:
  """Who reads a step holds a lock on this file of it, see `lease`."""
  return folder / _PARTS[0]


class PinnedSteps:
  """Orbax's policy that keeps the steps in a folder that somebody reads."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def should_preserve(
      self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """For each checkpoint, whether it stays."""
    del context
    return [
        lease.is_pinned(pin_file(self._folder / str(checkpoint.step)))
        for checkpoint in checkpoints
    ]


@transient.retried
def seal(folder: pathlib.Path) -> None:
  """Writes the manifest of a finished step, whole or not at all."""
  text = json.dumps({'files': _files(folder)}, indent=1) + '\n'
  atomic.write_text(folder / MANIFEST, text)


def is_sealed(folder: pathlib.Path) -> bool:
  return (folder / MANIFEST).is_file()


def damages(folder: pathlib.Path) -> list[str]:
  """What is not as it was written; of a step without a manifest nothing.

  Such a step was finished by Orbax, and then killed, or is of an older version.
  """
  if not is_sealed(folder):
    return []
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    wanted = {
        name: (entry['bytes'], entry['sha256'])
        for name, entry in manifest['files'].items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    return [f'{MANIFEST} cannot be read ({error})']
  found = []
  for name, (size, digest) in wanted.items():
    path = folder / name
    if not path.is_file():
      found.append(f'{name} is missing')
    elif path.stat().st_size != size:
      found.append(f'{name} has {path.stat().st_size:,} bytes, not {size:,}')
    elif _sha256(path) != digest:
      found.append(f'{name} has other bytes than were written')
  return found


def set_aside(folder: pathlib.Path, why: str) -> pathlib.Path:
  """Renames a folder, so that nobody takes it for a step; deletes nothing.

  Example: '12' -> 'damaged-12-0'.
  """
  number = 0
  while True:
    target = folder.with_name(f'{why}-{folder.name}-{number}')
    if not target.exists():
      return folder.rename(target)
    number += 1


def missing_room(folder: pathlib.Path, array_bytes: int) -> str:
  """Why a folder's disk cannot hold another step; '' if it can."""
  needed = array_bytes + _SPARE_BYTES
  free = shutil.disk_usage(folder).free
  if free >= needed:
    return ''
  return (
      f'it takes {needed / 2**20:,.0f} MiB and {folder} has '
      f'{free / 2**20:,.0f} MiB free: make room'
  )


def num_bytes(folder: pathlib.Path) -> int:
  """All files together."""
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


def _files(folder: pathlib.Path) -> dict[str, dict[str, int | str]]:
  return {
      path.relative_to(folder).as_posix(): {
          'bytes': path.stat().st_size, 'sha256': _sha256(path)
      }
      for path in sorted(folder.rglob('*'))
      if path.is_file()
      and path.name != MANIFEST
      and not path.name.startswith(f'.{MANIFEST}.')  # Of one that was killed.
  }


@transient.retried
def _sha256(path: pathlib.Path) -> str:
  sha = hashlib.sha256()
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK_BYTES):
      sha.update(chunk)
  return sha.hexdigest()

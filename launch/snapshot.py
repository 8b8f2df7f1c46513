"""The code that a job runs, as an archive that is always the same bytes.

It holds the files that git tracks or would track, as they are now, so that a
change that is not committed is in it too.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import tarfile

_MAX_BYTES = 50_000_000
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """A tar archive; `name` is the start of its SHA-256."""

  name: str
  data: bytes

  def unpack(self, folder: pathlib.Path) -> pathlib.Path:
    """Unpacks into `folder/NAME`, whole or not at all; returns that."""
    target = folder / self.name
    if target.is_dir():
      return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'.{self.name}.{os.getpid()}'
    with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
      archive.extractall(part, filter='data')
    try:
      part.rename(target)
    except OSError:  # Another process was quicker.
      shutil.rmtree(part)
    return target


def take(root: pathlib.Path) -> Snapshot:
  """Of the checkout at `root`; raises ValueError if it cannot be taken."""
  result = subprocess.run(
      ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
      cwd=root,
      capture_output=True,
      check=False,
  )
  if result.returncode:
    raise ValueError(
        f'{root} is no git checkout, of which a job takes its code: '
        f'{result.stderr.decode().strip()}'
    )
  names = sorted(set(filter(None, result.stdout.decode().split('\0'))))
  paths = [p for p in (root / name for name in names) if p.is_file()]
  sizes = {path: path.stat().st_size for path in paths}
  if sum(sizes.values()) > _MAX_BYTES:
    largest = max(sizes, key=sizes.get)
    raise ValueError(
        f'The checkout has {sum(sizes.values()) / 1e6:.0f} MB of code, more '
        f'than {_MAX_BYTES / 1e6:.0f} MB; the largest file is {largest}. Put '
        'data and results into .gitignore.'
    )
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode='w', format=tarfile.PAX_FORMAT) as tar:
    for path in paths:
      info = tarfile.TarInfo(path.relative_to(root).as_posix())
      info.size = sizes[path]
      info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
      with path.open('rb') as file:
        tar.addfile(info, file)
  name = hashlib.sha256(data.getvalue()).hexdigest()[:_DIGITS]
  return Snapshot(name, data.getvalue())

"""Where a preparation by Beam keeps what is done, for the case that it dies."""

from collections.abc import Callable, Iterator, Mapping
import io
import json
import os
import pathlib
import shutil
from typing import Any, BinaryIO
import uuid

from apache_beam.io import filesystems
import polars as pl
import pyarrow.parquet as pq

_DONE_FILE = 'done.json'
_IDENTITY_FILE = 'preparation.json'
_FileSystems = filesystems.FileSystems


class WorkDirectory:
  """A directory of stages that this machine and all workers see.

  It may be on any file system that Beam knows, such as gs://bucket/directory.
  """

  def __init__(self, path: str, identity: Mapping[str, Any]):
    """Opens it, or makes it.

    Args:
      path: Where.
      identity: Of what is prepared; of another one, nothing can be used.

    Raises:
      ValueError: It is of another preparation, or holds something else.
    """
    self._path = path if '://' in path else os.path.abspath(path)
    own = self.path(_IDENTITY_FILE)
    if not _FileSystems.exists(own):
      (found,) = _FileSystems.match([self.path('*')])
      if found.metadata_list:
        raise ValueError(
            f'--work_dir {path} holds other files; give an empty directory.'
        )
      _make(self._path)
      publish(own, _json(identity))
    elif json.loads(read(own)) != json.loads(json.dumps(identity)):
      raise ValueError(
          f'--work_dir {path} holds what another preparation left; give '
          'another directory, or delete it.'
      )

  def path(self, *names: str) -> str:
    """Of a file in it."""
    return _FileSystems.join(self._path, *names)

  @property
  def is_local(self) -> bool:
    """Whether it can be used like any directory of this machine."""
    return '://' not in self._path

  def stage(
      self, name: str, build: Callable[[str], Mapping[str, Any]]
  ) -> Mapping[str, Any]:
    """Builds a directory, unless an earlier attempt has finished it.

    Args:
      name: The directory's.
      build: Fills the directory that it is given; what it returns is kept as
        JSON.

    Returns:
      What `build` returned, now or then.
    """
    directory = self.path(name)
    done = self.path(name, _DONE_FILE)
    if not _FileSystems.exists(done):
      if _FileSystems.exists(directory):
        _FileSystems.delete([directory])
      _make(directory)
      publish(done, _json(build(directory)))
    return json.loads(read(done))

  def delete(self) -> None:
    _FileSystems.delete([self._path])


def publish(path: str, source: BinaryIO) -> None:
  """Writes a file that is there as a whole or not at all."""
  # Two workers may do the same work; each writes a file of its own.
  own = f'{path}.{uuid.uuid4().hex}'
  with _FileSystems.create(own) as target:
    shutil.copyfileobj(source, target)
  _FileSystems.rename([own], [path])


def fetch(path: str, target: pathlib.Path) -> None:
  with _FileSystems.open(path) as source, target.open('wb') as handle:
    shutil.copyfileobj(source, handle)


def read(path: str) -> bytes:
  with _FileSystems.open(path) as handle:
    return handle.read()


def num_rows(pattern: str) -> int:
  """Rows of the Parquet files whose paths match."""
  return sum(file.metadata.num_rows for file in _parquet_files(pattern))


def read_columns(pattern: str) -> pl.DataFrame:
  """All rows of the Parquet files whose paths match, of which there is one."""
  return pl.concat(
      pl.from_arrow(file.read()) for file in _parquet_files(pattern)
  )


def _parquet_files(pattern: str) -> Iterator[pq.ParquetFile]:
  (found,) = _FileSystems.match([pattern])
  for metadata in found.metadata_list:
    with _FileSystems.open(metadata.path) as handle:
      yield pq.ParquetFile(handle)


def _make(directory: str) -> None:
  if not _FileSystems.exists(directory):
    _FileSystems.mkdirs(directory)


def _json(value: Mapping[str, Any]) -> BinaryIO:
  return io.BytesIO(json.dumps(value).encode())

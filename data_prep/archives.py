"""Unpacks zip and tar files that may be made to do harm.

Only plain files come out, only under the target, and not more than the caps
allow: a link, a device, a path out of the target or a bomb stops it all.
"""

from collections.abc import Collection, Iterator
import contextlib
import dataclasses
import pathlib
import stat
import tarfile
import zipfile
import zlib

from data_prep import progress

_COPY_BYTES = 1 << 20
# What small archives may always hold: text can be packed very well.
_LEAST_BOMB_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What an archive may hold.

  Attributes:
    max_bytes: Of all its files together, unpacked.
    max_ratio: Of that to the archive's own size. Text rarely passes 30; a bomb
      has 1,000 or more.
    max_files: And directories.
  """

  max_bytes: int = 200 << 30
  max_ratio: float = 200
  max_files: int = 10_000


@dataclasses.dataclass(frozen=True)
class _Member:
  info: zipfile.ZipInfo | tarfile.TarInfo
  name: str
  num_bytes: int
  is_directory: bool
  is_plain: bool


def list_files(path: pathlib.Path, *, limits: Limits = Limits()) -> list[str]:
  """Names of the files in an archive that is safe to unpack.

  Args:
    path: A zip, or a tar that may be packed by gzip, bzip2 or xz.
    limits: What it may hold.

  Returns:
    The names, with '/' between directories.

  Raises:
    ValueError: It is no archive, damaged, or unsafe.
  """
  with _open(path) as archive, _told(f'{path} cannot be listed'):
    members = list(_safe_members(archive, path, limits))
  return [member.name for member in members if not member.is_directory]


def extract(
    path: pathlib.Path,
    directory: pathlib.Path,
    *,
    names: Collection[str] | None = None,
    limits: Limits = Limits(),
) -> None:
  """Unpacks files of an archive, after all of it has been checked.

  Args:
    path: See `list_files`.
    directory: Where to; it exists.
    names: Which files; all by default.
    limits: What the archive may hold.

  Raises:
    ValueError: As `list_files`; or a file is damaged, or there already.
  """
  with _open(path) as archive:
    with _told(f'{path} cannot be listed'):
      members = list(_safe_members(archive, path, limits))
    for member in members:
      if member.is_directory or names is not None and member.name not in names:
        continue
      target = directory / member.name
      target.parent.mkdir(parents=True, exist_ok=True)
      with _told(f'{path} cannot be unpacked at {member.name!r}'):
        _copy(archive, member, target)


_Archive = zipfile.ZipFile | tarfile.TarFile


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[_Archive]:
  with path.open('rb') as handle:
    is_zip = handle.read(2) == b'PK'
  with _told(f'{path} is no whole zip or tar'):
    archive = zipfile.ZipFile(path) if is_zip else tarfile.open(path)
  with archive:
    yield archive


@contextlib.contextmanager
def _told(fault: str) -> Iterator[None]:
  try:
    yield
  # RuntimeError: encrypted, or of an unknown compression.
  except (
      zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError
  ) as error:
    raise ValueError(
        f'{fault} ({error}); it may be truncated or damaged: fetch it again.'
    ) from error


def _members(archive: _Archive) -> Iterator[_Member]:
  if isinstance(archive, zipfile.ZipFile):
    for info in archive.infolist():
      # Zips made on Windows have no type.
      kind = stat.S_IFMT(info.external_attr >> 16)
      is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
      name, num_bytes = info.filename, info.file_size
      yield _Member(info, name, num_bytes, info.is_dir(), is_plain)
  else:
    for info in archive:
      is_plain = info.isreg() or info.isdir()
      yield _Member(info, info.name, info.size, info.isdir(), is_plain)


def _safe_members(
    archive: _Archive, path: pathlib.Path, limits: Limits
) -> Iterator[_Member]:
  allowed_bytes = min(
      limits.max_bytes,
      max(_LEAST_BOMB_BYTES, limits.max_ratio * path.stat().st_size),
  )
  names = set()
  num_bytes = 0
  # A tar's headers lie between its files: at a bomb's one this stops.
  for member in _members(archive):
    num_bytes += member.num_bytes
    fault = None
    if not member.is_plain:
      fault = 'is a link or a device'
    elif _points_outside(member.name):
      fault = 'points outside of it'
    elif member.name in names:
      fault = 'is there twice'
    elif len(names) >= limits.max_files:
      fault = f'is one file too many (more than {limits.max_files:,})'
    elif num_bytes > allowed_bytes:
      fault = (
          f'makes it {num_bytes:,} bytes of {path.stat().st_size:,} packed '
          f'ones, more than the {allowed_bytes:,.0f} allowed'
      )
    if fault:
      raise ValueError(
          f'{path} has a member {member.name!r} that {fault}; such an archive '
          'is not unpacked.'
      )
    names.add(member.name)
    yield member


def _points_outside(name: str) -> bool:
  path = pathlib.PurePosixPath(name.replace('\\', '/'))
  return (
      path.is_absolute()
      or not path.parts
      or '..' in path.parts
      or ':' in path.parts[0]
      or '\0' in name
  )


def _copy(archive: _Archive, member: _Member, target: pathlib.Path) -> None:
  opened = (
      archive.open(member.info)
      if isinstance(archive, zipfile.ZipFile)
      else archive.extractfile(member.info)
  )
  with (
      opened as packed,
      # Not over a file, or through a link, that is there.
      target.open('xb') as unpacked,
      progress.stage(
          f'unpack {target.name}', total=member.num_bytes, unit='B'
      ) as stage,
  ):
    while block := packed.read(_COPY_BYTES):
      unpacked.write(block)
      stage.advance(len(block))

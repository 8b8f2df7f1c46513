"""Finds a known set of files in a directory or in a zip."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
import tempfile
import zipfile
import zlib

from data_prep import progress

_COPY_BYTES = 4 << 20
_SHOWN_FILES = 12


@contextlib.contextmanager
def open_source(
    path: str,
    layouts: Mapping[str, Sequence[str]],
    *,
    scratch: pathlib.Path,
) -> Iterator[tuple[str, str, dict[str, pathlib.Path], frozenset[str]]]:
  """Finds which layout a directory or zip has.

  The files may lie at its top or in one directory in it.

  Args:
    path: A directory or a zip of one.
    layouts: Layout name to the files it needs.
    scratch: Where a zip's files are unpacked to, for as long as this is open.

  Yields:
    The layout, the name of the directory that holds the files (or of the zip),
    each needed file's path, and the names of all files beside them.

  Raises:
    ValueError: Nothing there, no known layout, several, or a bad zip.
  """
  source = pathlib.Path(path)
  if source.is_dir():
    names = [
        str(p.relative_to(source))
        for p in sorted([*source.glob('*'), *source.glob('*/*')])
        if p.is_file()
    ]
    layout, folder = _find(names, layouts, source)
    root = source / folder
    paths = {name: root / name for name in layouts[layout]}
    yield layout, root.resolve().name, paths, _beside(names, folder)
  elif source.is_file():
    with _open_zip(source) as archive:
      names = _safe_names(archive, source)
      layout, folder = _find(names, layouts, source)
      with tempfile.TemporaryDirectory(
          prefix='.unpack-', dir=scratch
      ) as unpacked:
        paths = {}
        for name in layouts[layout]:
          paths[name] = pathlib.Path(unpacked) / name
          _extract(archive, source, _join(folder, name), paths[name])
        yield layout, folder or source.stem, paths, _beside(names, folder)
  else:
    raise ValueError(
        f'--input {source} does not exist; give a directory or a zip of it.'
    )


def _join(folder: str, name: str) -> str:
  return f'{folder}/{name}' if folder else name


def _beside(names: Sequence[str], folder: str) -> frozenset[str]:
  paths = map(pathlib.PurePosixPath, names)
  return frozenset(
      p.name for p in paths if p.parent == pathlib.PurePosixPath(folder)
  )


def _find(
    names: Sequence[str],
    layouts: Mapping[str, Sequence[str]],
    source: pathlib.Path,
) -> tuple[str, str]:
  """The one (layout, folder) whose files are all among `names`."""
  known = set(names)
  folders = [''] + sorted({n.split('/')[0] for n in names if n.count('/') == 1})
  candidates = [
      (layout, folder)
      for folder in folders
      for layout, files in layouts.items()
      if all(_join(folder, file) in known for file in files)
  ]
  if len(candidates) == 1:
    return candidates[0]
  if candidates:
    told = ', '.join(
        f'{layout} in {folder or "."}' for layout, folder in candidates
    )
    raise ValueError(
        f'{source} holds several datasets ({told}); give the directory of one.'
    )
  for folder in folders:
    for layout, files in layouts.items():
      missing = [f for f in files if _join(folder, f) not in known]
      # One that has its first file is that layout with something missing.
      if _join(folder, files[0]) in known:
        raise ValueError(
            f'{source / folder} has {files[0]}, as the {layout} layout, but '
            f'{", ".join(missing)} is missing.'
        )
  looked_for = '; '.join(
      f'{layout}: {", ".join(files)}' for layout, files in layouts.items()
  )
  found = ', '.join(names[:_SHOWN_FILES]) or 'nothing'
  more = f' and {len(names) - _SHOWN_FILES} more'
  raise ValueError(
      f'{source} has no known layout. Looked for, at its top and one directory '
      f'down: {looked_for}. Found: {found}'
      f'{more if len(names) > _SHOWN_FILES else ""}.'
  )


def _open_zip(source: pathlib.Path) -> zipfile.ZipFile:
  try:
    return zipfile.ZipFile(source)
  except zipfile.BadZipFile as error:
    raise ValueError(
        f'--input {source} is no whole zip ({error}); it may be truncated: '
        'fetch it again.'
    ) from error


def _safe_names(
    archive: zipfile.ZipFile, source: pathlib.Path
) -> list[str]:
  names = [info.filename for info in archive.infolist() if not info.is_dir()]
  for name in names:
    path = pathlib.PurePosixPath(name.replace('\\', '/'))
    if path.is_absolute() or '..' in path.parts or ':' in path.parts[0]:
      raise ValueError(
          f'--input {source} has a member {name!r} that points outside of it; '
          'such a zip is not read.'
      )
  return names


def _extract(
    archive: zipfile.ZipFile,
    source: pathlib.Path,
    member: str,
    target: pathlib.Path,
) -> None:
  try:
    with (
        archive.open(member) as packed,
        target.open('wb') as unpacked,
        progress.stage(
            f'unpack {target.name}',
            total=archive.getinfo(member).file_size,
            unit='B',
        ) as stage,
    ):
      while block := packed.read(_COPY_BYTES):
        unpacked.write(block)
        stage.advance(len(block))
  # RuntimeError: encrypted, or of an unknown compression.
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    raise ValueError(
        f'--input {source} cannot be unpacked at {member!r} ({error}); it may '
        'be corrupt: fetch it again.'
    ) from error

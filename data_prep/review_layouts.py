"""How lines of reviews and of metadata may look, and which file has which."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Annotated, Any

import msgspec

from data_prep import json_lines
from data_prep import raw

_SUFFIXES = ('.json', '.jsonl', '.json.gz', '.jsonl.gz')
_PROBED_BYTES = 1 << 18

# Types of the layouts' fields; what does not fit is the reason of a reject.
Id = Annotated[str, msgspec.Meta(min_length=1)]
Stars = Annotated[float, msgspec.Meta(ge=1, le=5)]
# Up to the year 2100: milliseconds for seconds shall not pass.
Secs = Annotated[int, msgspec.Meta(ge=0, lt=4_102_444_800)]
Millisecs = Annotated[int, msgspec.Meta(ge=0, lt=4_102_444_800_000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How a file's lines look.

  Attributes:
    name: For the manifest and messages.
    kind: 'events', or 'items' if lines describe them.
    keys: Fields that tell it from the layouts after it.
    row_type: What a line is decoded to; checks it and drops what is not used.
    columns: Makes columns of decoded rows. Of events: user (as upstream has
      it), item, timestamp, rating and the texts; of items: item, title, labels.
    ticks_per_sec: Of events' timestamps.
  """

  name: str
  kind: raw.Kind
  keys: frozenset[str]
  row_type: type[msgspec.Struct]
  columns: Callable[[Sequence[Any]], Mapping[str, list[Any]]]
  ticks_per_sec: int = 1


def labels(names: Iterable[str]) -> list[str]:
  """Names as labels: one line each, none empty or twice, none with a '|'."""
  clean = (' '.join(name.replace('|', '/').split()) for name in names)
  return list(dict.fromkeys(filter(None, clean)))


def find_files(inputs: Sequence[str]) -> list[pathlib.Path]:
  """The files in the order given; those of a directory by name."""
  files = []
  for given in map(pathlib.Path, inputs):
    if given.is_dir():
      inside = [
          path
          for path in sorted(given.iterdir())
          if path.name.endswith(_SUFFIXES) and path.name[0] not in '._'
      ]
      if not inside:
        raise ValueError(
            f'--input {given} holds no file in {", ".join(_SUFFIXES)}.'
        )
      files += inside
    elif given.is_file():
      files.append(given)
    else:
      raise ValueError(
          f'--input {given} does not exist; give files, or directories of them.'
      )
  names = collections.Counter(path.name for path in files)
  twice = [name for name, count in names.items() if count > 1]
  if twice:
    raise ValueError(
        f'--input has {twice[0]} more than once; the manifest and the rejects '
        'know files by their names: give it once, or rename one.'
    )
  return files


def detect(path: pathlib.Path, layouts: Sequence[Layout]) -> Layout:
  """The first layout whose fields the file's first rows have."""
  keys = sorted(frozenset().union(*(layout.keys for layout in layouts)))
  probe = msgspec.defstruct('Probe', [(k, Any, msgspec.UNSET) for k in keys])
  blocks = json_lines.read_blocks(path, probe, block_bytes=_PROBED_BYTES)
  rows = next(blocks).rows
  blocks.close()
  found = {
      key
      for row in rows
      for key in keys
      if getattr(row, key) is not msgspec.UNSET
  }
  for layout in layouts:
    if layout.keys <= found:
      return layout
  known = '; '.join(
      f'{layout.name}: {", ".join(sorted(layout.keys))}' for layout in layouts
  )
  what = (
      f'has of these fields only {", ".join(sorted(found)) or "none"}'
      if rows
      else 'has no JSON object in its first lines'
  )
  raise ValueError(f'{path} {what}. Looked for: {known}.')

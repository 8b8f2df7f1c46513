"""The TOML file that tells which column of a table is what.

    name = "reads"
    item_noun = "article"              # 'item' if absent

    [events]
    files = ["reads-*.csv"]            # beside this file; CSV, Parquet, JSONL
    user = "visitor"                   # the column of the users' ids
    item = "article"
    time = "read_at"
    time_unit = "ms"                   # s (if absent), ms, us, ns, or a format
                                       # as "%Y-%m-%d %H:%M:%S"
    rating = "stars"                   # optional

    [events.features.device]           # optional, as many as there are
    kind = "category"
    [events.features.seconds]
    kind = "number"                    # put into buckets, about equally full
    buckets = 8
    column = "Time on page"            # 'seconds' if absent
    [events.features.comment]
    kind = "text"

    [items]                            # optional; else ids are the titles
    files = ["articles.jsonl"]
    item = "id"
    title = "headline"
    labels = "topics"                  # optional: lists, or "Politics;Sports"
    label_separator = ";"
    label_name = "category"            # or "genre"

CSV has a header, and `delimiter` (',' if absent); `quoting = false` is for
files written without quotes around cells. Text is UTF-8.
"""

import pathlib
import tomllib
import typing
from typing import Annotated, Any, Literal

import msgspec

TICKS_PER_SEC = {'s': 1, 'ms': 10**3, 'us': 10**6, 'ns': 10**9}
# What these names stand for in events, records and batches is another thing.
_TAKEN_NAMES = frozenset((
    *('seq', 'user', 'item', 'timestamp', 'rating', 'genre', 'category'),
    *('mask', 'positions', 'segment_ids', 'example_id', 'history_end'),
    *('label', 'label_item', 'seen_item', 'answers', 'prompts', 'loss_weights'),
    *('num_prompt_events', 'prompt_tokens', 'input_tokens'),
))
_TAKEN_PREFIX = 'target_'
_Kind = Literal['category', 'number', 'text']
_LabelName = Literal['category', 'genre']
# A part of msgspec's message, and what it leaves open.
_MEANT = {
    '.kind`': f'must be one of {", ".join(typing.get_args(_Kind))}',
    '.label_name`': f'must be one of {", ".join(typing.get_args(_LabelName))}',
    ' regex ': 'must be lower case letters, digits and _, a letter first',
}

_Column = Annotated[str, msgspec.Meta(min_length=1)]
_Name = Annotated[str, msgspec.Meta(pattern='^[a-z][a-z0-9_]*$')]


class _Section(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
  pass


class Feature(_Section):
  """A feature of events beside item, time and rating."""

  kind: _Kind
  column: _Column | None = None
  buckets: Annotated[int, msgspec.Meta(ge=2)] = 10


class Events(_Section):
  """Files of events; attributes name their columns."""

  files: Annotated[list[str], msgspec.Meta(min_length=1)]
  user: _Column
  item: _Column
  time: _Column
  time_unit: str = 's'
  rating: _Column | None = None
  features: dict[_Name, Feature] = {}
  delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ','
  quoting: bool = True

  def columns(self) -> dict[str, str]:
    """Key of the description to column."""
    columns = {'user': self.user, 'item': self.item, 'time': self.time}
    if self.rating is not None:
      columns['rating'] = self.rating
    for name, feature in self.features.items():
      columns[f'features.{name}'] = feature.column or name
    return columns


class Items(_Section):
  """Files of items; attributes name their columns."""

  files: Annotated[list[str], msgspec.Meta(min_length=1)]
  item: _Column
  title: _Column
  labels: _Column | None = None
  label_separator: Annotated[str, msgspec.Meta(min_length=1)] = '|'
  label_name: _LabelName = 'category'
  delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ','
  quoting: bool = True

  def columns(self) -> dict[str, str]:
    """Key of the description to column."""
    columns = {'item': self.item, 'title': self.title}
    return columns if self.labels is None else columns | {'labels': self.labels}


class Description(_Section):
  """The whole file."""

  name: _Name
  events: Events
  item_noun: _Column = 'item'
  items: Items | None = None


def load(path: pathlib.Path) -> Description:
  """Reads and checks a description; a ValueError tells what to mend."""
  if not path.is_file():
    raise ValueError(
        f'--description {path} is no file; it must be a TOML file, as '
        'data_prep/table_description.py explains.'
    )
  try:
    raw = tomllib.loads(path.read_text(encoding='utf-8-sig'))
    description = msgspec.convert(raw, Description)
  except msgspec.ValidationError as error:
    raise ValueError(
        f'--description {path}: {_named(str(error), raw)}. '
        'data_prep/table_description.py explains the keys.'
    ) from error
  # RecursionError: nested too deeply.
  except (ValueError, RecursionError) as error:
    raise ValueError(f'--description {path} is no TOML: {error}.') from error
  events = description.events
  taken = [name for name in events.features if is_taken(name)]
  if taken:
    key = f'features.{min(taken)}'
    raise ValueError(
        f'--description {path}: [events.{key}] has a name that is taken; '
        f'choose another and say column = "{events.columns()[key]}" there.'
    )
  if events.time_unit not in TICKS_PER_SEC and '%' not in events.time_unit:
    raise ValueError(
        f'--description {path}: time_unit = "{events.time_unit}" in [events] '
        f'is none of {", ".join(TICKS_PER_SEC)} and no format as '
        '"%Y-%m-%d %H:%M:%S".'
    )
  return description


def is_taken(name: str) -> bool:
  """Whether no feature may have that name."""
  return name in _TAKEN_NAMES or name.startswith(_TAKEN_PREFIX)


def _named(message: str, raw: dict[str, Any]) -> str:
  """The message with what msgspec leaves out: choices, a feature's name."""
  for part, meant in _MEANT.items():
    if part in message:
      message += f' ({meant})'
  if 'features[...]' not in message:
    return message
  for name, feature in raw['events']['features'].items():
    try:
      msgspec.convert(feature, Feature)
    except msgspec.ValidationError:
      return message.replace('[...]', f'.{name}')
  return message

"""What a reader gives to the engine: Parquet files and what was put aside."""

import collections
from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, Literal

import polars as pl

# Events of one user at one time keep this order; a line never needs 40 bits.
_LINE_BITS = 40
_SHOWN_A_REASON = 1000
_SHOWN_CHARACTERS = 200
_SHOWN_IN_ERRORS = 5

Kind = Literal['events', 'items']

EVENT_COLUMNS = {
    'seq': pl.Int64,
    'user': pl.String,
    'item': pl.String,
    'timestamp': pl.Int64,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawModality:
  """A further feature of events, beside item, its labels and the rating.

  Attributes:
    name: The column: String, or Float32 if it is put into buckets.
    num_buckets: Quantile buckets of a number; None for a category.
  """

  name: str
  num_buckets: int | None = None


class Rejects:
  """Rows that were put aside: all are counted, the first ones are shown."""

  def __init__(self):
    self._counts: collections.Counter[tuple[Kind, str, str]] = (
        collections.Counter()
    )
    self._shown: list[dict[str, Any]] = []

  def add(
      self,
      kind: Kind,
      *,
      file: str,
      line: int,
      reason: str,
      row: str | None = None,
  ) -> None:
    """Puts one row aside.

    Args:
      kind: Whether it would have been an event or an item's description.
      file: The file's name, without its directory.
      line: From 1, as an editor counts them.
      reason: A few words, the same for all rows of that fault.
      row: What it holds; None where rows have private ids.
    """
    self._counts[kind, file, reason] += 1
    if self._counts[kind, file, reason] <= _SHOWN_A_REASON:
      shown = {'file': file, 'line': line, 'reason': reason}
      if row is not None:
        shown['row'] = row[:_SHOWN_CHARACTERS]
      self._shown.append(shown)

  def to_json(self) -> dict[str, Any]:
    """For `from_json`."""
    counts = [[*key, count] for key, count in self._counts.items()]
    return {'counts': counts, 'shown': self._shown}

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'Rejects':
    """Those that `to_json` gave."""
    rejects = cls()
    rejects._counts.update(
        {tuple(key): count for *key, count in fields['counts']}
    )
    rejects._shown += fields['shown']
    return rejects

  def merge(self, other: 'Rejects') -> None:
    """Adds those of other files."""
    self._counts.update(other._counts)
    self._shown += other._shown

  def check(
      self,
      kind: Kind,
      *,
      file: str,
      num_rows: int,
      max_reject_fraction: float,
      mends: Sequence[tuple[str, str]] = (),
  ) -> None:
    """Raises a ValueError if too many of a file's rows were put aside.

    Args:
      kind: Of the file's rows.
      file: Its name.
      num_rows: Good and bad.
      max_reject_fraction: How many may be bad.
      mends: (What a reason has, what may mend it beside the file's rows).
    """
    counts = collections.Counter({
        reason: count
        for (of, where, reason), count in self._counts.items()
        if (of, where) == (kind, file)
    })
    total = sum(counts.values())
    if total <= max_reject_fraction * num_rows:
      return
    reasons = counts.most_common(_SHOWN_IN_ERRORS)
    told = '; '.join(self._told(file, *reason) for reason in reasons)
    mends = ''.join(
        f', {mend}'
        for part, mend in mends
        if any(part in reason for reason, _ in reasons)
    )
    raise ValueError(
        f'{file}: {total:,} of {num_rows:,} rows are bad, more than '
        f'--max_reject_fraction {max_reject_fraction:g} allows. {told}. Mend '
        f'the file{mends} or raise --max_reject_fraction.'
    )

  def _told(self, file: str, reason: str, count: int) -> str:
    """The first lines of a reason, and what the first one holds."""
    shown = [
        r for r in self._shown if (r['file'], r['reason']) == (file, reason)
    ][:_SHOWN_IN_ERRORS]
    lines = ', '.join(str(r['line']) for r in shown)
    more = f' and {count - len(shown):,} more' if count > len(shown) else ''
    row = f': {shown[0]["row"][:80]!r}' if 'row' in shown[0] else ''
    return f'{file}:{lines}{more}: {reason}{row}'

  def counts(self, kind: Kind) -> dict[str, int]:
    """How many rows of that kind each reason has, exactly."""
    counts = collections.Counter()
    for (of, _, reason), count in self._counts.items():
      if of == kind:
        counts[reason] += count
    return dict(sorted(counts.items()))

  def shown(self) -> Iterator[Mapping[str, Any]]:
    """The first rows of each file and reason, in the order they came."""
    yield from self._shown


class EventParts:
  """Writes the events as `part-00000.parquet`, ..., a file a block."""

  def __init__(self, directory: pathlib.Path):
    directory.mkdir()
    self._directory = directory
    self._num_parts = 0
    self._last_seq = -1
    self.num_events = 0

  def write(self, block: pl.DataFrame) -> None:
    """Writes a block, all of whose `seq` are after those of the last one."""
    if block.is_empty():
      return
    for name, dtype in EVENT_COLUMNS.items():
      assert block.schema[name] == dtype, (name, block.schema)
    assert block['seq'].is_sorted() and block['seq'][0] > self._last_seq
    self._last_seq = block['seq'][-1]
    path = self._directory / f'part-{self._num_parts:05d}.parquet'
    # Read once and thrown away: more compression costs more than it saves.
    block.write_parquet(path, compression='zstd', compression_level=1)
    self._num_parts += 1
    self.num_events += len(block)


def first_seq(file_index: int) -> int:
  """What is added to a file's line numbers to get `seq`."""
  return file_index << _LINE_BITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawDataset:
  """One source, parsed.

  Attributes:
    name: The dataset's name; a prefix of its tasks' names.
    events: A directory of what `EventParts` wrote: `EVENT_COLUMNS`, and as the
      source has them `rating` (Float32, not null), a column each of
      `modalities` (String or Float32) and of `texts` (String; '' or null for
      none). `seq` is unique: the file's number and the line's.
    items: A Parquet file of one row an item: item (String), title (String)
      and, if `label_name` is set, labels (String, joined by '|', '' for none).
      Items without events are left out later; events' items that are not here
      get their id as title and no labels.
    rejects: What was put aside.
    num_event_rows: Rows of events read, good and bad.
    num_item_rows: Rows of items' descriptions read, good and bad.
    sources: sha256 and bytes of each file read, by its name.
    item_noun: See `schema.EventSchema`.
    ticks_per_sec: Of `timestamp`. Records have whole seconds, but events are
      told apart and sorted by what the source knows.
    has_times: Whether `timestamp` is a time; else it only tells the order.
    label_name: What the items' labels are: 'genre' or 'category'.
    modalities: Further features.
    texts: Names of the text columns.
    user_key_id: Of the key that hashed the users; None if nothing did.
    extra_files: Further files of the dataset: name to text.
  """

  name: str
  events: pathlib.Path
  items: pathlib.Path
  rejects: Rejects
  num_event_rows: int
  num_item_rows: int
  sources: Mapping[str, Mapping[str, str | int]]
  item_noun: str = 'item'
  ticks_per_sec: int = 1
  has_times: bool = True
  label_name: str | None = None
  modalities: tuple[RawModality, ...] = ()
  texts: tuple[str, ...] = ()
  user_key_id: str | None = None
  extra_files: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def to_json(self) -> dict[str, Any]:
    """For `from_json`, all but the files."""
    fields = {
        field.name: getattr(self, field.name)
        for field in dataclasses.fields(self)
    }
    return fields | {
        'events': str(self.events),
        'items': str(self.items),
        'rejects': self.rejects.to_json(),
        'modalities': [dataclasses.asdict(m) for m in self.modalities],
        'sources': dict(self.sources),
        'extra_files': dict(self.extra_files),
    }

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> 'RawDataset':
    """What `to_json` gave, there and back through JSON."""
    return cls(**{
        **fields,
        'events': pathlib.Path(fields['events']),
        'items': pathlib.Path(fields['items']),
        'rejects': Rejects.from_json(fields['rejects']),
        'modalities': tuple(RawModality(**m) for m in fields['modalities']),
        'texts': tuple(fields['texts']),
    })

  @property
  def parse_step(self) -> dict[str, Any]:
    """What parsing dropped, as the first step of the cleaning."""
    rejected = sum(self.rejects.counts('events').values())
    return {
        'step': 'parse', 'events': self.num_event_rows, 'dropped': rejected
    }

  @property
  def categories(self) -> list[str]:
    """The events' further columns of strings that are ids."""
    return [m.name for m in self.modalities if not m.num_buckets]

  def numbers(self, columns: Collection[str]) -> dict[str, int | None]:
    """Which of the events' columns are numbers, and their buckets."""
    rating = {'rating': None} if 'rating' in columns else {}
    return rating | {
        m.name: m.num_buckets for m in self.modalities if m.num_buckets
    }

"""What a prepared dataset holds: modalities, catalogue, split rules.

With `manifest` the only file that `data_prep` shares with the library. A
prepared dataset is a directory that `tfds.builder_from_directory` opens, with
one record a user, and beside it `schema.json`, `catalogue.jsonl` and
`manifest.json`.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from user_llm.runtime import transient

# Raised when files change so that older readers or datasets no longer fit.
FORMAT_VERSION = 2
SCHEMA_FILE = 'schema.json'
CATALOGUE_FILE = 'catalogue.jsonl'
MANIFEST_FILE = 'manifest.json'

_AGAIN = 'Copy the dataset again, or prepare it again: `python -m data_prep`.'

# Record keys that are not modalities.
USER_KEY = 'user'
TIMESTAMP_KEY = 'timestamp'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
  """One feature of an event, an integer id in [1, size); 0 is padding.

  Attributes:
    name: The record's and (as `user_<name>`) the batch's key.
    size: Number of ids, padding included.
    values: `values[i - 1]` is what id i stands for; None for the items, whose
      values are in the catalogue.
    separator: If set, a value is a set of labels joined by it: 'Comedy|Drama',
      or '' for none.
  """

  name: str
  size: int
  values: tuple[str, ...] | None = None
  separator: str | None = None

  def __post_init__(self):
    if not isinstance(self.size, int) or self.size < 2:
      raise ValueError(
          f'Modality {self.name!r} has size {self.size!r}; it needs padding '
          'and at least one value. Is the dataset empty?'
      )
    if self.values is not None and len(self.values) != self.size - 1:
      raise ValueError(
          f'Modality {self.name!r} has size {self.size} and '
          f'{len(self.values)} values; size must be values + 1 (padding).'
      )

  def labels(self) -> tuple[tuple[str, ...], ...]:
    """The labels of each value, in id order: (('Comedy', 'Drama'), ...)."""
    if self.values is None:
      raise ValueError(f'Modality {self.name!r} has no values of its own.')
    if self.separator is None:
      return tuple((v,) for v in self.values)
    # ''.split would give one empty label.
    return tuple(
        tuple(v.split(self.separator)) if v else () for v in self.values
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventSchema:
  """What one dataset's events have.

  Attributes:
    name: The dataset's name.
    modalities: The integer features; the first is always 'item'.
    texts: Names of the features that are a free text an event, '' where an
      event has none: ('summary', 'review').
    item_noun: What an item is called in a prompt: 'film', 'product', 'place'.
  """

  name: str
  modalities: tuple[Modality, ...]
  texts: tuple[str, ...] = ()
  item_noun: str = 'item'

  def __post_init__(self):
    if not self.modalities or self.modalities[0].name != 'item':
      raise ValueError(
          f"Schema {self.name!r}: the first modality must be 'item', found "
          f'{[m.name for m in self.modalities]}.'
      )

  def __getitem__(self, name: str) -> Modality:
    for modality in self.modalities:
      if modality.name == name:
        return modality
    raise ValueError(
        f'Dataset {self.name!r} has no modality {name!r}; it has '
        f'{", ".join(m.name for m in self.modalities)}.'
    )

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.modalities)

  @property
  def label_modality(self) -> Modality | None:
    """The genre or category: the modality whose values are sets of labels."""
    labelled = [m for m in self.modalities if m.separator is not None]
    return labelled[0] if labelled else None

  def select(self, names: Sequence[str]) -> 'EventSchema':
    """The same dataset seen through some of its modalities."""
    return dataclasses.replace(
        self, modalities=tuple(self[name] for name in names)
    )

  def to_json(self) -> str:
    fields = {'format_version': FORMAT_VERSION, **dataclasses.asdict(self)}
    return json.dumps(fields, indent=1, sort_keys=True) + '\n'


def load_schema(
    *, data_dir: str, modalities: Sequence[str] | None = None
) -> EventSchema:
  """Reads `schema.json` of a prepared dataset, or some of its modalities."""
  path = pathlib.Path(data_dir) / SCHEMA_FILE
  if not path.is_file():
    raise ValueError(
        f'{path} does not exist: DATA_DIR must be a dataset that '
        '`python -m data_prep ... --output DIR` has written.'
    )
  raw = read_json(path)
  if (found := raw.get('format_version', 1)) != FORMAT_VERSION:
    raise ValueError(
        f'{path} has format version {found}; this code reads version '
        f'{FORMAT_VERSION}. Prepare the dataset again: `python -m data_prep`.'
    )
  try:
    schema = _schema(raw)
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged ({error!r}). {_AGAIN}') from None
  return schema if modalities is None else schema.select(modalities)


def _schema(raw: dict[str, Any]) -> EventSchema:
  return EventSchema(
      name=raw['name'],
      texts=tuple(raw['texts']),
      item_noun=raw['item_noun'],
      modalities=tuple(
          Modality(
              name=m['name'],
              size=m['size'],
              values=None if m['values'] is None else tuple(m['values']),
              separator=m['separator'],
          )
          for m in raw['modalities']
      ),
  )


@transient.retried
def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object; raises ValueError, naming the file, if it is none."""
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged ({error}). {_AGAIN}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object. {_AGAIN}')
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogueItem:
  """One line of `catalogue.jsonl`; line i (from 1) describes item id i."""

  id: int
  source_id: str  # The id upstream gives it.
  title: str
  labels: tuple[str, ...]  # Genres or categories.
  count: int  # Events with this item, before histories were cut to a length.


@transient.retried
def load_catalogue(data_dir: str) -> tuple[CatalogueItem, ...]:
  """Reads the catalogue; `catalogue[i - 1]` is the item of id i."""
  path = pathlib.Path(data_dir) / CATALOGUE_FILE
  try:
    with path.open(encoding='utf-8') as lines:
      items = tuple(
          CatalogueItem(**{**raw, 'labels': tuple(raw['labels'])})
          for raw in map(json.loads, lines)
      )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is damaged ({error!r}). {_AGAIN}') from None
  if [item.id for item in items] != list(range(1, len(items) + 1)):
    raise ValueError(f'{path}: the ids must be 1, 2, 3, ... line by line.')
  return items


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
  """Which events of a user are labels of which split.

  An example is (user, label event); the events before it (the last
  `max_history` of them) are the history. The last event of a user is the test
  label, the one before it the validation label, the rest train.

  All positions are global: user u owns the events offsets[u] ..
  offsets[u + 1] - 1, oldest first.

  Attributes:
    name: Printed beside every metric.
    min_history: Events that a history must have; users who cannot give a test
      and a validation example with as many are dropped.
    max_history: Events that a history may have; None for no bound.
  """

  name: str
  min_history: int = 1
  max_history: int | None = None

  @property
  def min_events(self) -> int:
    """Fewest events of a user who has a test label."""
    return self.min_history + 2

  def held_out(
      self, offsets: np.ndarray, timestamps: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Each user's label events that are not for training.

    Args:
      offsets: int64[U + 1].
      timestamps: int64[E].

    Returns:
      int64[U] validation and int64[U] test label, -1 where a user has none.
    """
    del timestamps
    kept = np.diff(offsets) >= self.min_events
    last = offsets[1:] - 1
    return np.where(kept, last - 1, -1), np.where(kept, last, -1)

  def train_stops(
      self, offsets: np.ndarray, timestamps: np.ndarray
  ) -> np.ndarray:
    """int64[U]: one past each user's last event that may be trained on."""
    validation, _ = self.held_out(offsets, timestamps)
    return np.where(validation < 0, offsets[:-1], validation)

  def label_bounds(
      self, offsets: np.ndarray, timestamps: np.ndarray, split: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Each user's label events in one split.

    Args:
      offsets: int64[U + 1].
      timestamps: int64[E].
      split: 'train|validation|test'.

    Returns:
      int64[U] first and int64[U] one past the last; equal where a user has
      none.
    """
    starts = offsets[:-1]
    if split == 'train':
      stops = self.train_stops(offsets, timestamps)
      return np.minimum(starts + self.min_history, stops), stops
    if split not in ('validation', 'test'):
      raise ValueError(f"Split {split!r} is none of 'train|validation|test'.")
    validation, test = self.held_out(offsets, timestamps)
    labels = test if split == 'test' else validation
    first = np.where(labels < 0, starts, labels)
    return first, first + (labels >= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalTimeRule(SplitRule):
  """Splits by two moments that hold for all users, so that none leaks.

  The moments are quantiles of all events' timestamps. Events before the first
  moment train; a user's first event from the first to before the second is the
  validation label, the first from the second on the test label, each if the
  history before it is long enough.

  Attributes:
    quantiles: Of the timestamps; the least timestamp that is not below.
  """

  quantiles: tuple[float, float] = (0.8, 0.9)

  @property
  def min_events(self) -> int:
    return self.min_history + 1

  def cutoffs(self, timestamps: np.ndarray) -> tuple[int, int]:
    """The first timestamps that are validation's and test's."""
    first, second = np.quantile(timestamps, self.quantiles, method='higher')
    return int(first), int(second)

  def held_out(
      self, offsets: np.ndarray, timestamps: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    first, second = self.cutoffs(timestamps)
    validation = _first_from(offsets, timestamps, first)
    test = _first_from(offsets, timestamps, second)
    # An event from the second moment on is the first from either.
    validation = np.where(validation == test, offsets[1:], validation)
    earliest = offsets[:-1] + self.min_history
    validation, test = (
        np.where((labels >= earliest) & (labels < offsets[1:]), labels, -1)
        for labels in (validation, test)
    )
    return validation, test

  def train_stops(
      self, offsets: np.ndarray, timestamps: np.ndarray
  ) -> np.ndarray:
    return _first_from(offsets, timestamps, self.cutoffs(timestamps)[0])


def _first_from(
    offsets: np.ndarray, timestamps: np.ndarray, moment: int
) -> np.ndarray:
  """int64[U]: each user's first event at or after a moment; or its stop."""
  before = np.concatenate([[0], np.cumsum(timestamps < moment)])
  return offsets[:-1] + before[offsets[1:]] - before[offsets[:-1]]


LEAVE_ONE_OUT = SplitRule(name='leave_one_out')
# arXiv 2402.13598: 50 events, the next one as label. In training exactly so
# only with one target a row: the P targets of a row share its 50 events, and
# the first sees 51 - P.
PAPER_WINDOWS = SplitRule(name='paper_windows', min_history=50, max_history=50)
GLOBAL_TIME = GlobalTimeRule(name='global_time')
SPLIT_RULES = {
    rule.name: rule for rule in (LEAVE_ONE_OUT, PAPER_WINDOWS, GLOBAL_TIME)
}


def split_rule(*, name: str) -> SplitRule:
  """The rule of that name; raises ValueError where there is none."""
  if name not in SPLIT_RULES:
    raise ValueError(
        f'SPLIT_RULE={name!r} is none of {", ".join(SPLIT_RULES)}.'
    )
  return SPLIT_RULES[name]


def held_out_items(
    rule: SplitRule,
    offsets: np.ndarray,
    timestamps: np.ndarray,
    items: np.ndarray,
    source_ids: Sequence[str],
) -> Iterator[tuple[str, str]]:
  """What `split_fingerprint` takes: each kept user's held-out items.

  Args:
    rule: The split rule.
    offsets: int64[U + 1].
    timestamps: int64[E].
    items: int32[E] item ids.
    source_ids: `source_ids[i - 1]` is upstream's id of item i.

  Yields:
    Upstream's ids of the validation and of the test item, '-' for none, of
    each user who has one.
  """
  validation, test = rule.held_out(offsets, timestamps)
  kept = np.maximum(validation, test) >= 0
  pairs = (np.where(p < 0, 0, items[p])[kept] for p in (validation, test))
  for pair in zip(*(ids.tolist() for ids in pairs)):
    yield tuple(source_ids[i - 1] if i else '-' for i in pair)


def split_fingerprint(held_out: Iterable[tuple[str, str]]) -> str:
  """Identifies a split by its held-out events, whatever users are called.

  Args:
    held_out: (validation item, test item) of each user that the split rule
      keeps, as upstream's ids, '-' for none; in any order.

  Returns:
    16 hex digits of a SHA-256.
  """
  digest = hashlib.sha256()
  for line in sorted(f'{first}\t{second}\n' for first, second in held_out):
    digest.update(line.encode())
  return digest.hexdigest()[:16]

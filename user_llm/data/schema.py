"""What a prepared dataset holds: modalities, catalogue, split rules.

This file is the only one that `data_prep` shares with the library. A prepared
dataset is a directory that `tfds.builder_from_directory` opens, with one
record a user, and beside it `schema.json`, `catalogue.jsonl`, `manifest.json`.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

SCHEMA_FILE = 'schema.json'
CATALOGUE_FILE = 'catalogue.jsonl'
MANIFEST_FILE = 'manifest.json'

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
    separator: If set, a value is a set of labels joined by it: 'Comedy|Drama'.
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
    return tuple(tuple(v.split(self.separator)) for v in self.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventSchema:
  """The modalities of one dataset's events; the first is always 'item'."""

  name: str
  modalities: tuple[Modality, ...]

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
    return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + '\n'


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
  raw: dict[str, Any] = json.loads(path.read_text())
  schema = EventSchema(
      name=raw['name'],
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
  return schema if modalities is None else schema.select(modalities)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogueItem:
  """One line of `catalogue.jsonl`; line i (from 1) describes item id i."""

  id: int
  source_id: str  # The id upstream gives it.
  title: str
  labels: tuple[str, ...]  # Genres or categories.
  count: int  # Events of the prepared dataset that have this item.


def load_catalogue(data_dir: str) -> tuple[CatalogueItem, ...]:
  """Reads the catalogue; `catalogue[i - 1]` is the item of id i."""
  path = pathlib.Path(data_dir) / CATALOGUE_FILE
  with path.open(encoding='utf-8') as lines:
    items = tuple(
        CatalogueItem(**{**raw, 'labels': tuple(raw['labels'])})
        for raw in map(json.loads, lines)
    )
  if [item.id for item in items] != list(range(1, len(items) + 1)):
    raise ValueError(f'{path}: the ids must be 1, 2, 3, ... line by line.')
  return items


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
  """Which events of a user are labels of which split.

  An example is (user, end): event `end` is the label and the events before it
  (the last `max_history` of them) are the history. The last event of a user is
  the test label, the one before it the validation label, the rest train.

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
    return self.min_history + 2

  def ends(self, num_events: int, split: str) -> range:
    """Label positions of one user's events in 'train|validation|test'."""
    if num_events < self.min_events:
      return range(0)
    if split == 'test':
      return range(num_events - 1, num_events)
    if split == 'validation':
      return range(num_events - 2, num_events - 1)
    if split == 'train':
      return range(self.min_history, num_events - 2)
    raise ValueError(f"Split {split!r} is none of 'train|validation|test'.")


LEAVE_ONE_OUT = SplitRule(name='leave_one_out')
# arXiv 2402.13598: 50 events, the next one as label.
PAPER_WINDOWS = SplitRule(name='paper_windows', min_history=50, max_history=50)
SPLIT_RULES = {rule.name: rule for rule in (LEAVE_ONE_OUT, PAPER_WINDOWS)}


def split_rule(*, name: str) -> SplitRule:
  """The rule of that name; raises ValueError where there is none."""
  if name not in SPLIT_RULES:
    raise ValueError(
        f'SPLIT_RULE={name!r} is none of {", ".join(SPLIT_RULES)}.'
    )
  return SPLIT_RULES[name]


def split_fingerprint(held_out: Iterable[tuple[str, str, str]]) -> str:
  """Identifies a split by its held-out events.

  Args:
    held_out: (user, validation item, test item) of each user that the split
      rule keeps, all as upstream's ids, in the order of the records.

  Returns:
    16 hex digits of a SHA-256.
  """
  digest = hashlib.sha256()
  for user, validation_item, test_item in held_out:
    digest.update(f'{user}\t{validation_item}\t{test_item}\n'.encode())
  return digest.hexdigest()[:16]

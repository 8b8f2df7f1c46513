"""A prepared dataset's events, read once and held as flat arrays.

All users' events lie behind one another: user u owns the events
offsets[u] .. offsets[u + 1] - 1, oldest first. Windows are cut from these
arrays when a batch is read; nothing is stored per example.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from user_llm.data import feature_converters
from user_llm.data import manifest as manifest_lib
from user_llm.data import schema as schema_lib
from user_llm.runtime import transient

# TensorFlow only feeds; the accelerator's memory belongs to JAX.
tf.config.set_visible_devices([], 'GPU')

_PARSE_BATCH = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EventLog:
  """Every event of a prepared dataset.

  Attributes:
    data_dir: Where it was read from.
    schema: Its modalities.
    catalogue: Its items; `catalogue[i - 1]` has id i.
    users: Upstream's user ids, in the order of the records.
    offsets: int64[U + 1]. User u owns events offsets[u] .. offsets[u + 1] - 1.
    values: int32[E] for each modality.
    timestamps: int64[E].
    has_times: Whether those are times; else they only tell the order.
  """

  data_dir: str
  schema: schema_lib.EventSchema
  catalogue: tuple[schema_lib.CatalogueItem, ...]
  users: list[str]
  offsets: np.ndarray
  values: Mapping[str, np.ndarray]
  timestamps: np.ndarray
  has_times: bool = True

  @property
  def lengths(self) -> np.ndarray:
    """int64[U], events of each user."""
    return np.diff(self.offsets)

  def label_bounds(
      self, rule: schema_lib.SplitRule, split: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Each user's label events in one split, as global event positions.

    Args:
      rule: The split rule.
      split: 'train|validation|test'.

    Returns:
      int64[U] first and int64[U] one past the last; equal where a user has
      none.
    """
    self._check_rule(rule)
    return rule.label_bounds(self.offsets, self.timestamps, split)

  def train_stops(self, rule: schema_lib.SplitRule) -> np.ndarray:
    """int64[U]: one past each user's last event that may be trained on."""
    self._check_rule(rule)
    return rule.train_stops(self.offsets, self.timestamps)

  def split_fingerprint(self, rule: schema_lib.SplitRule) -> str:
    """Identifies the held-out events of `rule`; the manifest has the same."""
    self._check_rule(rule)
    return schema_lib.split_fingerprint(
        schema_lib.held_out_items(
            rule,
            self.offsets,
            self.timestamps,
            self.values['item'],
            [item.source_id for item in self.catalogue],
        )
    )

  def _check_rule(self, rule: schema_lib.SplitRule) -> None:
    if isinstance(rule, schema_lib.GlobalTimeRule) and not self.has_times:
      raise ValueError(
          f'SPLIT_RULE {rule.name!r} splits by time, and {self.schema.name!r} '
          'has no times, only the order of events. Choose another, as '
          f'{schema_lib.LEAVE_ONE_OUT.name!r}.'
      )

  def check_counts(self, rule: schema_lib.SplitRule) -> None:
    """Checks that there are as many label events as the manifest says.

    Raises:
      ValueError: There are not. A rule that the manifest does not know passes.
    """
    manifest = manifest_lib.load(self.data_dir)
    want = manifest['splits'].get(rule.name, {})
    for split in {'train', 'validation', 'test'} & want.keys():
      first, stop = self.label_bounds(rule, split)
      found = int((stop - first).sum())
      if found != want[split]:
        raise ValueError(
            f'{self.data_dir}: the rule {rule.name!r} gives {found} {split} '
            f'examples; {schema_lib.MANIFEST_FILE} says {want[split]}. Prepare '
            'the dataset again.'
        )

  def texts(self, name: str) -> np.ndarray:
    """Reads a free text of every event, once a process.

    Args:
      name: One of `schema.texts`.

    Returns:
      object[E] of UTF-8 `bytes`, b'' where an event has none.
    """
    if name not in self.schema.texts:
      raise ValueError(
          f'Dataset {self.schema.name!r} has no text {name!r}; it has '
          f'{", ".join(self.schema.texts) or "none"}. REVIEW_TEXT and '
          'PROMPT_FIELDS name texts.'
      )
    return _load_texts(self.data_dir, name)


def _shards(root: str, manifest: Mapping[str, Any]) -> list[str]:
  names = manifest_lib.record_files(manifest)
  return [str(pathlib.Path(root) / name) for name in names]


@contextlib.contextmanager
def _readable(paths: Sequence[str]) -> Iterator[None]:
  """Names the record file that TensorFlow finds damaged."""
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    path = next((path for path in paths if _is_damaged(path)), paths[0])
    raise ValueError(
        f'Record file {path} (or a later one) is damaged: its size is right, '
        f'and its bytes are not ({error.message}). Copy the dataset again; '
        '`python -m data_prep verify DIR` names every damaged file.'
    ) from None


def _is_damaged(path: str) -> bool:
  try:
    for _ in tf.data.TFRecordDataset(path):
      pass
  except tf.errors.DataLossError:
    return True
  return False


@transient.retried
def _parse(
    paths: list[str], names: tuple[str, ...]
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
  """Reads the record files in order; parses a batch of records at a time."""
  features = {name: tf.io.RaggedFeature(tf.int64) for name in names}
  features[schema_lib.USER_KEY] = tf.io.FixedLenFeature((), tf.string)
  batches = (
      tf.data.TFRecordDataset(paths)
      .batch(_PARSE_BATCH)
      .map(lambda batch: tf.io.parse_example(batch, features))
  )
  users: list[str] = []
  lengths = []
  parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
  for batch in batches:
    user_ids = batch[schema_lib.USER_KEY].numpy()
    users.extend(user_id.decode() for user_id in user_ids)
    row_lengths = batch['item'].row_lengths().numpy()
    lengths.append(row_lengths)
    for name in names:
      if not np.array_equal(batch[name].row_lengths().numpy(), row_lengths):
        raise ValueError(
            f'A record of {paths[0]} (or a later shard) has {name!r} and '
            "'item' of different lengths. Prepare the dataset again."
        )
      dtype = np.int64 if name == schema_lib.TIMESTAMP_KEY else np.int32
      parts[name].append(batch[name].flat_values.numpy().astype(dtype))
  offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
  return users, offsets, {k: np.concatenate(v) for k, v in parts.items()}


def load_events(data_dir: str) -> EventLog:
  """Reads a prepared dataset; once a process, later calls share the arrays.

  Args:
    data_dir: A directory that `python -m data_prep ... --output` has written.

  Returns:
    Its events.

  Raises:
    ValueError: The directory, a file or a part of one is missing, the records
      are not as many as the manifest says, or a feature's name is taken.
  """
  return _load_events(str(pathlib.Path(data_dir).resolve()))


@functools.lru_cache(maxsize=4)
def _load_events(data_dir: str) -> EventLog:
  schema = schema_lib.load_schema(data_dir=data_dir)
  feature_converters.check_names(schema)
  manifest = manifest_lib.load(data_dir)
  manifest_lib.check_files(data_dir, manifest)
  names = schema.names + (schema_lib.TIMESTAMP_KEY,)
  paths = _shards(data_dir, manifest)
  with _readable(paths):
    users, offsets, values = _parse(paths, names)
  counts = manifest['counts']
  if (len(users), int(offsets[-1])) != (counts['users'], counts['events']):
    raise ValueError(
        f'{data_dir} holds {len(users)} users and {offsets[-1]} events; its '
        f'{schema_lib.MANIFEST_FILE} says {counts["users"]} and '
        f'{counts["events"]}. Prepare the dataset again.'
    )
  for modality in schema.modalities:
    ids = values[modality.name]
    if ids.min() < 1 or ids.max() >= modality.size:
      raise ValueError(
          f'{data_dir}: ids of {modality.name!r} are in {ids.min()}..'
          f'{ids.max()}; {schema_lib.SCHEMA_FILE} says 1..{modality.size - 1}.'
      )
  return EventLog(
      data_dir=data_dir,
      schema=schema,
      catalogue=schema_lib.load_catalogue(data_dir),
      users=users,
      offsets=offsets,
      timestamps=values.pop(schema_lib.TIMESTAMP_KEY),
      # What was prepared before there was the key has it not.
      has_times=manifest.get('has_times', True),
      values=values,
  )


@functools.lru_cache(maxsize=4)
def _load_texts(data_dir: str, name: str) -> np.ndarray:
  features = {name: tf.io.RaggedFeature(tf.string)}
  paths = _shards(data_dir, manifest_lib.load(data_dir))
  batches = (
      tf.data.TFRecordDataset(paths)
      .batch(_PARSE_BATCH)
      .map(lambda batch: tf.io.parse_example(batch, features)[name].flat_values)
  )
  with _readable(paths):
    texts = transient.retried(
        lambda: np.concatenate([batch.numpy() for batch in batches])
    )()
  num_events = int(_load_events(data_dir).offsets[-1])
  if len(texts) != num_events:
    raise ValueError(
        f'{data_dir} holds {len(texts)} texts {name!r} for {num_events} '
        'events. Prepare the dataset again.'
    )
  return texts

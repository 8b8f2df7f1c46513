"""Writes small prepared datasets directly, without `data_prep`."""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from user_llm.data import schema as schema_lib

GENRES = (
    'Action', 'Action|Comedy', 'Comedy', 'Comedy|Drama', 'Drama', 'Horror',
    'Horror|Sci-Fi', 'Sci-Fi',
)
RATINGS = ('1', '2', '3', '4', '5')
TEXTS = ('summary', 'review')


def text_of(name: str, item: int) -> str:
  """The text of any event with that item; every fifth item has none."""
  if item % 5 == 0:
    return ''
  if name == 'summary':
    return f'Good film {item}'
  return f'I have seen film {item} and liked it'


@dataclasses.dataclass(frozen=True)
class User:
  """One record: the ids of each event's item; the rest follows from them."""

  name: str
  items: Sequence[int]


def random_users(
    num_users: int = 24, num_items: int = 40, seed: int = 0
) -> list[User]:
  """Users with 3 to 30 distinct items each."""
  rng = np.random.default_rng(seed)
  return [
      User(
          name=str(u + 1),
          items=rng.permutation(num_items)[: rng.integers(3, 31)] + 1,
      )
      for u in range(num_users)
  ]


def label_positions(
    num_events: int, split: str, min_history: int = 1
) -> range:
  """Leave-one-out in plain Python: label positions of one user's events."""
  if num_events < min_history + 2:
    return range(0)
  return {
      'train': range(min_history, num_events - 2),
      'validation': range(num_events - 2, num_events - 1),
      'test': range(num_events - 1, num_events),
  }[split]


def _features() -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict({
      'user': tfds.features.Text(),
      'item': tfds.features.Sequence(np.int32),
      'genre': tfds.features.Sequence(np.int32),
      'rating': tfds.features.Sequence(np.int32),
      'timestamp': tfds.features.Sequence(np.int64),
      **{name: tfds.features.Sequence(tfds.features.Text()) for name in TEXTS},
  })


def _write_records(
    root: pathlib.Path, name: str, records: list[dict], num_shards: int
) -> None:
  features = _features()
  parts = np.array_split(np.arange(len(records)), num_shards)
  for shard, part in enumerate(parts):
    path = root / f'{name}-train.tfrecord-{shard:05d}-of-{num_shards:05d}'
    with tf.io.TFRecordWriter(str(path)) as writer:
      for i in part:
        encoded = features.encode_example(records[i])
        writer.write(features.serialize_example(encoded))
  tfds.folder_dataset.write_metadata(
      data_dir=str(root),
      features=features,
      split_infos=[
          tfds.core.SplitInfo(
              name='train', shard_lengths=[len(p) for p in parts], num_bytes=0
          )
      ],
      filename_template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
  )


def _splits(users: list[User]) -> dict:
  offsets = np.cumsum([0] + [len(u.items) for u in users])
  timestamps = np.concatenate([60 * np.arange(len(u.items)) for u in users])
  items = np.concatenate([u.items for u in users])
  source_ids = [f's{i}' for i in range(1, int(items.max()) + 1)]
  splits = {}
  for rule in schema_lib.SPLIT_RULES.values():
    held_out = list(
        schema_lib.held_out_items(rule, offsets, timestamps, items, source_ids)
    )
    splits[rule.name] = {
        'fingerprint': schema_lib.split_fingerprint(held_out),
        'users': len(held_out),
    }
    for split in ('train', 'validation', 'test'):
      first, stop = rule.label_bounds(offsets, timestamps, split)
      splits[rule.name][split] = int((stop - first).sum())
  return splits


def write_dataset(
    root: pathlib.Path,
    users: list[User] | None = None,
    *,
    num_items: int = 40,
    name: str = 'tiny',
    num_shards: int = 2,
) -> str:
  """Writes a prepared dataset: item, genre, rating and two texts an event.

  Args:
    root: Directory to make.
    users: Defaults to 24 random ones.
    num_items: Catalogue size; item i has title 'Film <i> (<year>)', source id
      's<i>' and genre value (i - 1) % 8 + 1.
    name: The dataset's name.
    num_shards: Record files.

  Returns:
    `root` as a string.
  """
  root.mkdir(parents=True)
  users = random_users(num_items=num_items) if users is None else users
  genre_of = np.arange(num_items + 1) - 1
  genre_of = genre_of % len(GENRES) + 1
  rows = []
  for user in users:
    items = np.asarray(user.items, np.int32)
    rows.append({
        'user': user.name,
        'item': items,
        'genre': genre_of[items].astype(np.int32),
        'rating': (items * 7 % 5 + 1).astype(np.int32),
        'timestamp': np.arange(len(items), dtype=np.int64) * 60,
        **{name: [text_of(name, i) for i in user.items] for name in TEXTS},
    })
  _write_records(root, name, rows, num_shards)
  schema = schema_lib.EventSchema(
      name=name,
      modalities=(
          schema_lib.Modality(name='item', size=num_items + 1),
          schema_lib.Modality(
              name='genre', size=len(GENRES) + 1, values=GENRES, separator='|'
          ),
          schema_lib.Modality(name='rating', size=6, values=RATINGS),
      ),
      texts=TEXTS,
      item_noun='film',
  )
  (root / schema_lib.SCHEMA_FILE).write_text(schema.to_json())
  counts = np.bincount(
      np.concatenate([u.items for u in users]), minlength=num_items + 1
  )
  with (root / schema_lib.CATALOGUE_FILE).open('w') as out:
    for i in range(1, num_items + 1):
      line = {
          'id': i,
          'source_id': f's{i}',
          'title': f'Film {i} ({1950 + i})',
          'labels': GENRES[genre_of[i] - 1].split('|'),
          'count': int(counts[i]),
      }
      out.write(json.dumps(line) + '\n')
  _write_manifest(root, {
      'name': name,
      'format_version': schema_lib.FORMAT_VERSION,
      'counts': {
          'users': len(users), 'items': num_items, 'events': int(counts.sum())
      },
      'splits': _splits(users),
  })
  return str(root)


def _write_manifest(root: pathlib.Path, sections: dict) -> None:
  files = {
      path.name: {
          'bytes': path.stat().st_size,
          'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
      }
      for path in sorted(root.iterdir())
      if path.name != schema_lib.MANIFEST_FILE
  }
  (root / schema_lib.MANIFEST_FILE).write_text(
      json.dumps({**sections, 'files': files}, indent=1)
  )


def change_schema(
    root: pathlib.Path, change: Callable[[dict], dict]
) -> None:
  """Makes another, whole dataset: `change` gives new values of fields."""
  path = root / schema_lib.SCHEMA_FILE
  raw = json.loads(path.read_text())
  path.write_text(json.dumps(raw | change(raw)))
  manifest = json.loads((root / schema_lib.MANIFEST_FILE).read_text())
  _write_manifest(root, manifest)

"""Takes users out of a prepared dataset, as if they had never been sorted in.

Their records go; what was counted over all users (catalogue, vocabularies,
cleaning steps) stays. Record files without any of them are not touched.
"""

from collections.abc import Collection, Iterator
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from data_prep import encoding
from data_prep import outputs
from data_prep import privacy
from data_prep import progress
from data_prep import splits
from data_prep import tallies
from data_prep import writing
from user_llm.data import manifest as manifest_lib
from user_llm.data import schema

_UNCHANGED = ('catalogue counts', 'cleaning', 'data card', 'ids')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kept:
  """What is left: of each shard its users, of all users their events."""

  shard_sizes: list[int]
  histories: encoding.Histories
  num_bytes: int

  @property
  def num_users(self) -> int:
    return sum(self.shard_sizes)

  @property
  def num_events(self) -> int:
    return int(self.histories.offsets[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgotten:
  """How much was taken out."""

  users: int
  events: int
  shards: int


def read_users(
    path: str, manifest: dict[str, Any], user_key: privacy.UserKey | None
) -> frozenset[str]:
  """The records' names of the users of a file, one raw id a line.

  Raises:
    ValueError: The key is not the one that the dataset was prepared with.
  """
  prepared_with = manifest['user_key_id']
  given = user_key and user_key.id
  if given != prepared_with:
    raise ValueError(
        f'{manifest["name"]} was prepared with {_key_name(prepared_with)}, '
        f'but {_key_name(given)} is given: its users have other names. Give '
        'the right --user_key_file.'
    )
  # Some editors start a file with a mark, which is no part of the first id.
  lines = pathlib.Path(path).read_text(encoding='utf-8-sig').splitlines()
  users = filter(None, map(str.strip, lines))
  return frozenset(users if user_key is None else map(user_key.hash, users))


def _key_name(key_id: str | None) -> str:
  return 'no key' if key_id is None else f'the key {key_id}'


def load_manifest(dataset: pathlib.Path) -> dict[str, Any]:
  """The manifest of a dataset that this code can change."""
  schema.load_schema(data_dir=str(dataset))
  return manifest_lib.load(str(dataset))


def forget(dataset: pathlib.Path, users: Collection[str]) -> Forgotten:
  """Takes users out; the dataset is replaced at the end, or not at all.

  Args:
    dataset: A prepared dataset.
    users: As its records name them.

  Returns:
    How much was there.

  Raises:
    ValueError: Nobody would be left.
  """
  manifest = load_manifest(dataset)
  event_schema = schema.load_schema(data_dir=str(dataset))
  shards = _shards(dataset, manifest)
  tf = writing.load_tensorflow()
  with progress.stage('read records') as stage:
    kept, touched = _read(tf, shards, users)
    stage.rows = kept.num_events
  counts = manifest['counts']
  forgotten = Forgotten(
      users=counts['users'] - kept.num_users,
      events=counts['events'] - kept.num_events,
      shards=len(touched),
  )
  if not touched:
    return forgotten
  if not kept.num_users:
    raise ValueError(
        f'all users of {dataset} are to be forgotten: delete the directory.'
    )
  counts |= {'users': kept.num_users, 'events': kept.num_events}
  has_times = manifest.get('has_times', True)
  manifest['splits'] = splits.describe_splits(
      [kept.histories],
      [item.source_id for item in schema.load_catalogue(str(dataset))],
      has_times=has_times,
  )
  days = tallies.tally_days(kept.histories.columns[schema.TIMESTAMP_KEY])
  manifest['times'] = tallies.span(days) if has_times else None
  manifest['forgotten'].append({
      'users': forgotten.users,
      'events': forgotten.events,
      'unchanged': _UNCHANGED,
  })
  with outputs.output_directory(str(dataset), overwrite=True) as directory:
    rewritten = {path.name for path in touched}
    rewritten |= {
        'dataset_info.json',
        'features.json',
        schema.MANIFEST_FILE,
        writing.REJECTS_FILE,
    }
    for path in dataset.iterdir():
      if path.name not in rewritten:
        _link(path, directory / path.name)
    for path in touched:
      _write_others(tf, path, directory / path.name, users)
    writing.write_dataset_info(
        directory, event_schema, kept.shard_sizes, kept.num_bytes
    )
    _write_rejects(dataset, directory)
    del manifest['files'], manifest['format_version']
    writing.write_manifest(directory, **manifest)
  return forgotten


def _write_others(
    tf: Any, source: pathlib.Path, target: pathlib.Path, users: Collection[str]
) -> None:
  with tf.io.TFRecordWriter(str(target)) as writer:
    for record, example in _records(tf, source):
      if _user(example) not in users:
        writer.write(record)


def _shards(
    dataset: pathlib.Path, manifest: dict[str, Any]
) -> list[pathlib.Path]:
  names = manifest_lib.record_files(manifest)
  damages = manifest_lib.differences(str(dataset), manifest, names)
  if damages:
    raise ValueError(manifest_lib.damage_text(str(dataset), damages))
  return [dataset / name for name in names]


def _records(tf: Any, path: pathlib.Path) -> Iterator[tuple[bytes, Any]]:
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    yield record, tf.train.Example.FromString(record)


def _user(example: Any) -> str:
  return example.features.feature[schema.USER_KEY].bytes_list.value[0].decode()


def _read(
    tf: Any, shards: list[pathlib.Path], users: Collection[str]
) -> tuple[_Kept, list[pathlib.Path]]:
  """What the users leave behind, and the files that hold any of them."""
  sizes, touched = [], []
  columns: dict[str, list[np.ndarray]] = {'item': [], schema.TIMESTAMP_KEY: []}
  num_bytes = 0
  for path in shards:
    size = num_records = 0
    for record, example in _records(tf, path):
      num_records += 1
      if _user(example) in users:
        continue
      size += 1
      num_bytes += len(record)
      for name, parts in columns.items():
        values = example.features.feature[name].int64_list.value
        parts.append(np.array(values, np.int64))
    sizes.append(size)
    if size < num_records:
      touched.append(path)
  histories = encoding.Histories(
      offsets=np.cumsum([0, *map(len, columns['item'])]),
      columns={
          name: np.concatenate([np.zeros(0, np.int64), *parts])
          for name, parts in columns.items()
      },
  )
  kept = _Kept(shard_sizes=sizes, histories=histories, num_bytes=num_bytes)
  return kept, touched


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
  try:
    os.link(source, target)
  except OSError:  # Not every file system has links.
    shutil.copy2(source, target)


def _write_rejects(dataset: pathlib.Path, directory: pathlib.Path) -> None:
  """Without the rows, which may show users where ids are not hashed."""
  with (
      (dataset / writing.REJECTS_FILE).open(encoding='utf-8') as old,
      (directory / writing.REJECTS_FILE).open('w', encoding='utf-8') as new,
  ):
    for line in old:
      reject = json.loads(line)
      reject.pop('row', None)
      new.write(json.dumps(reject, ensure_ascii=False) + '\n')

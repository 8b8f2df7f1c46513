"""Writes the files of a prepared dataset."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import typing
from typing import Any

import numpy as np

from data_prep import progress
from user_llm.data import schema

if typing.TYPE_CHECKING:
  from data_prep import common

REJECTS_FILE = 'rejects.jsonl'
_VERSION = '1.0.0'
_EVENTS_PER_SHARD = 2_000_000


def write_records(
    encoded: 'common.EncodedDataset', directory: pathlib.Path
) -> None:
  """Writes one record a user, as a dataset that TFDS opens."""
  # Here, since only writing needs TensorFlow, and it takes seconds to load.
  with progress.stage('load TensorFlow'), _quiet_stderr():
    import tensorflow as tf
    import tensorflow_datasets as tfds

  num_users = len(encoded.users)
  num_events = int(encoded.offsets[-1])
  num_shards = min(num_users, -(-num_events // _EVENTS_PER_SHARD))
  bounds = [num_users * i // num_shards for i in range(num_shards + 1)]
  name = encoded.schema.name
  num_bytes = 0
  with progress.stage(
      'write records', total=num_users, unit='users'
  ) as stage:
    for shard in range(num_shards):
      path = directory / (
          f'{name}-train.tfrecord-{shard:05d}-of-{num_shards:05d}'
      )
      with tf.io.TFRecordWriter(str(path)) as writer:
        for user in range(bounds[shard], bounds[shard + 1]):
          record = _record(tf, encoded, user)
          writer.write(record)
          num_bytes += len(record)
          stage.advance(1)
    stage.rows = num_events
  split = tfds.core.SplitInfo(
      name='train',
      shard_lengths=np.diff(bounds).tolist(),
      num_bytes=num_bytes,
      filename_template=tfds.core.ShardedFileTemplate(
          data_dir=directory,
          dataset_name=name,
          split='train',
          filetype_suffix='tfrecord',
      ),
  )
  tfds.folder_dataset.write_metadata(
      data_dir=directory,
      features=_features(tfds, encoded.schema),
      split_infos=[split],
      version=_VERSION,
      check_data=False,
      description=f'{name}: one record a user, written by data_prep.',
  )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Drops the banner that TensorFlow's C++ writes as it is loaded."""
  sys.stderr.flush()
  kept = os.dup(2)
  try:
    with open(os.devnull, 'wb') as nowhere:
      os.dup2(nowhere.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


def _features(tfds: Any, event_schema: schema.EventSchema) -> Any:
  return tfds.features.FeaturesDict({
      schema.USER_KEY: tfds.features.Text(),
      **{
          name: tfds.features.Sequence(tfds.features.Scalar(np.int32))
          for name in event_schema.names
      },
      schema.TIMESTAMP_KEY: tfds.features.Sequence(
          tfds.features.Scalar(np.int64)
      ),
  })


def _record(tf: Any, encoded: 'common.EncodedDataset', user: int) -> bytes:
  # `features.serialize_example` gives the same fields at 30 times the cost.
  events = slice(encoded.offsets[user], encoded.offsets[user + 1])
  feature = {
      name: tf.train.Feature(
          int64_list=tf.train.Int64List(value=column[events].tolist())
      )
      for name, column in encoded.columns.items()
  }
  feature[schema.USER_KEY] = tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[encoded.users[user].encode()])
  )
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString(deterministic=True)


def write_texts(
    encoded: 'common.EncodedDataset',
    directory: pathlib.Path,
    extra_files: Mapping[str, str],
) -> None:
  """Writes the schema, the catalogue and what else the source brings."""
  catalogue = ''.join(
      json.dumps(dataclasses.asdict(item), ensure_ascii=False) + '\n'
      for item in encoded.catalogue
  )
  files = {
      schema.SCHEMA_FILE: encoded.schema.to_json(),
      schema.CATALOGUE_FILE: catalogue,
      **extra_files,
  }
  for name, text in files.items():
    (directory / name).write_text(text, encoding='utf-8', newline='\n')


def write_manifest(
    directory: pathlib.Path, **sections: Any
) -> dict[str, Any]:
  """Writes the manifest over the files that are there, and returns it."""
  with progress.stage('checksums'):
    files = {
        path.name: {
            'sha256': sha256_of(path),
            'bytes': path.stat().st_size,
        }
        for path in sorted(directory.iterdir())
    }
  manifest = {
      'format_version': schema.FORMAT_VERSION, **sections, 'files': files
  }
  text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
  (directory / schema.MANIFEST_FILE).write_text(
      text + '\n', encoding='utf-8', newline='\n'
  )
  return manifest


def sha256_of(path: pathlib.Path) -> str:
  with path.open('rb') as handle:
    return hashlib.file_digest(handle, 'sha256').hexdigest()

"""Writes the files of a prepared dataset."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import itertools
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
import polars as pl

from data_prep import encoding
from data_prep import progress
from data_prep import raw as raw_lib
from user_llm.data import manifest as manifest_lib
from user_llm.data import schema

REJECTS_FILE = 'rejects.jsonl'
_VERSION = '1.0.0'

Features = Mapping[str, Sequence[int] | Sequence[str]]


def write_records(
    encoded: encoding.EncodedDataset,
    text_batches: Iterable[Mapping[str, Sequence[str]]],
    directory: pathlib.Path,
) -> None:
  """Writes one record a user, as a dataset that TFDS opens.

  Args:
    encoded: The dataset.
    text_batches: The texts of its events in their order, a number of events at
      a time; none if it has no texts.
    directory: Where to write.
  """
  tf = load_tensorflow()
  users = _users(encoded, text_batches)
  paths = shard_paths(directory, encoded.schema.name, len(encoded.shard_sizes))
  sizes = encoded.shard_sizes.tolist()
  with progress.stage(
      'write records', total=len(encoded.users), unit='users'
  ) as stage:
    num_bytes = 0
    for path, size in zip(paths, sizes):
      shard = itertools.islice(users, size)
      num_bytes += write_shard(tf, str(path), shard, on_user=stage.advance)
    stage.rows = int(encoded.offsets[-1])
  write_dataset_info(directory, encoded.schema, sizes, num_bytes)


def _users(
    encoded: encoding.EncodedDataset,
    text_batches: Iterable[Mapping[str, Sequence[str]]],
) -> Iterator[tuple[str, Features]]:
  """Each user, and what the record of the user holds."""
  names = encoded.schema.texts
  texts = itertools.chain.from_iterable(
      zip(*(batch[name] for name in names)) for batch in text_batches
  )
  offsets = encoded.offsets.tolist()
  for user, start, stop in zip(encoded.users, offsets, offsets[1:]):
    features: dict[str, Sequence[int] | Sequence[str]] = {
        name: column[start:stop].tolist()
        for name, column in encoded.columns.items()
    }
    own = itertools.islice(texts, stop - start)
    features.update(zip(names, zip(*own)))
    yield user, features


def write_shard(
    tf: Any,
    path: str,
    users: Iterable[tuple[str, Features]],
    on_user: Callable[[int], None] = lambda count: None,
) -> int:
  """Writes one record file.

  Args:
    tf: TensorFlow.
    path: Where.
    users: Each user, and the values of the user's events: of one event each
      in every list, which are as long as each other.
    on_user: Called with 1 after each.

  Returns:
    The bytes of the records.
  """
  num_bytes = 0
  with tf.io.TFRecordWriter(path) as writer:
    for user, features in users:
      record = _serialise(tf, user, features)
      writer.write(record)
      num_bytes += len(record)
      on_user(1)
  return num_bytes


def load_tensorflow() -> Any:
  """TensorFlow; here, since it takes seconds and only records need it."""
  # Its notes are on its own buffers and threads.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')
  with progress.stage('load TensorFlow'), _quiet_stderr():
    import tensorflow as tf
    import tensorflow_datasets as _

    # It would take the GPU's memory, and complain where there is none.
    tf.config.set_visible_devices([], 'GPU')
  return tf


def shard_paths(
    directory: pathlib.Path, name: str, num_shards: int
) -> list[pathlib.Path]:
  """The record files, in the order of the shards."""
  return [
      directory / f'{name}-train.tfrecord-{shard:05d}-of-{num_shards:05d}'
      for shard in range(num_shards)
  ]


def write_dataset_info(
    directory: pathlib.Path,
    event_schema: schema.EventSchema,
    shard_sizes: Sequence[int],
    num_bytes: int,
) -> None:
  """Writes what TFDS reads: the features, and the records of each shard."""
  import tensorflow_datasets as tfds

  split = tfds.core.SplitInfo(
      name='train',
      shard_lengths=list(shard_sizes),
      num_bytes=num_bytes,
      filename_template=tfds.core.ShardedFileTemplate(
          data_dir=directory,
          dataset_name=event_schema.name,
          split='train',
          filetype_suffix='tfrecord',
      ),
  )
  tfds.folder_dataset.write_metadata(
      data_dir=directory,
      features=_features(tfds, event_schema),
      split_infos=[split],
      version=_VERSION,
      check_data=False,
      description=(
          f'{event_schema.name}: one record a user, written by data_prep.'
      ),
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
  features = tfds.features
  return features.FeaturesDict({
      schema.USER_KEY: features.Text(),
      **{
          name: features.Sequence(features.Scalar(np.int32))
          for name in event_schema.names
      },
      **{
          name: features.Sequence(features.Text())
          for name in event_schema.texts
      },
      schema.TIMESTAMP_KEY: features.Sequence(features.Scalar(np.int64)),
  })


def _serialise(tf: Any, user: str, features: Features) -> bytes:
  # tfds' `features.serialize_example` gives the same at 30 times the cost.
  lists = {
      name: _bytes_feature(tf, values)
      if isinstance(values[0], str)
      else tf.train.Feature(int64_list=tf.train.Int64List(value=values))
      for name, values in features.items()
  }
  lists[schema.USER_KEY] = _bytes_feature(tf, [user])
  example = tf.train.Example(features=tf.train.Features(feature=lists))
  return example.SerializeToString(deterministic=True)


def _bytes_feature(tf: Any, texts: Sequence[str]) -> Any:
  encoded = [text.encode() for text in texts]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


def write_files(
    raw: raw_lib.RawDataset,
    event_schema: schema.EventSchema,
    catalogue: pl.DataFrame,
    directory: pathlib.Path,
) -> None:
  """Writes the schema, the catalogue, the rejects and the source's own."""
  for name, text in {
      schema.SCHEMA_FILE: event_schema.to_json(),
      **raw.extra_files,
  }.items():
    (directory / name).write_text(text, encoding='utf-8', newline='\n')
  catalogue.drop('is_described').with_columns(
      # An empty text has no labels, not an empty one.
      pl.col('labels').str.split('|').list.filter(pl.element() != '')
  ).write_ndjson(directory / schema.CATALOGUE_FILE)
  with (directory / REJECTS_FILE).open('w', encoding='utf-8') as handle:
    for reject in raw.rejects.shown():
      handle.write(json.dumps(reject, ensure_ascii=False) + '\n')


def write_manifest(
    directory: pathlib.Path, **sections: Any
) -> dict[str, Any]:
  """Writes the manifest over the files that are there, and returns it."""
  with progress.stage('checksums'):
    files = {
        path.name: {
            'sha256': manifest_lib.sha256_of(path),
            'bytes': path.stat().st_size,
        }
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != schema.MANIFEST_FILE
    }
  manifest = {
      'format_version': schema.FORMAT_VERSION, **sections, 'files': files
  }
  text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
  (directory / schema.MANIFEST_FILE).write_text(
      text + '\n', encoding='utf-8', newline='\n'
  )
  return manifest

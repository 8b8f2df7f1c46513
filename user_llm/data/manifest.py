"""A prepared dataset's manifest, and whether its files are those it lists.

With `schema` the only file that `data_prep` shares with the library.
"""

from collections.abc import Collection, Sequence
import hashlib
import pathlib
from typing import Any

from user_llm.data import schema as schema_lib
from user_llm.runtime import transient

# What TFDS reads beside the records.
_TFDS_FILES = ('dataset_info.json', 'features.json')
_SHOWN = 20
_MEND = (
    'Copy the dataset again, or prepare it again: `python -m data_prep`. '
    '`python -m data_prep verify DIR` reads every byte.'
)


def load(data_dir: str) -> dict[str, Any]:
  """Reads `manifest.json`.

  Raises:
    ValueError: There is none, or it is none.
  """
  path = pathlib.Path(data_dir) / schema_lib.MANIFEST_FILE
  if not path.is_file():
    raise ValueError(
        f'{path} does not exist: the preparation did not finish. Run '
        '`python -m data_prep` again.'
    )
  manifest = schema_lib.read_json(path)
  for key in ('counts', 'files', 'splits'):
    if not isinstance(manifest.get(key), dict):
      raise ValueError(f'{path} has no {key!r}: it is damaged. {_MEND}')
  for name, entry in manifest['files'].items():
    is_whole = isinstance(entry, dict) and isinstance(entry.get('sha256'), str)
    if not is_whole or type(entry.get('bytes')) is not int:
      raise ValueError(f'{path}, files, {name!r}: it is damaged. {_MEND}')
  return manifest


def record_files(manifest: dict[str, Any]) -> list[str]:
  """Names of the record files, in the order of the shards."""
  return sorted(name for name in manifest['files'] if '.tfrecord-' in name)


def records_digest(manifest: dict[str, Any]) -> str:
  """16 hex digits of a SHA-256: which events, in which order."""
  sha = hashlib.sha256()
  for name in record_files(manifest):
    sha.update(f'{manifest["files"][name]["sha256"]}\n'.encode())
  return sha.hexdigest()[:16]


def check_files(data_dir: str, manifest: dict[str, Any]) -> None:
  """Checks what a run reads: all sizes, and the digests of all but records.

  A flipped byte of a record file is found when the record is read, or before
  by `python -m data_prep verify`.

  Raises:
    ValueError: Names every file that is not what the manifest says.
  """
  described = [schema_lib.SCHEMA_FILE, schema_lib.CATALOGUE_FILE, *_TFDS_FILES]
  damages = differences(data_dir, manifest, record_files(manifest))
  damages += differences(data_dir, manifest, described, digests=True)
  if damages:
    raise ValueError(damage_text(data_dir, damages))


def damage_text(data_dir: str, damages: Sequence[str]) -> str:
  """What to tell of a dataset's damages."""
  shown = list(damages[:_SHOWN])
  if len(damages) > _SHOWN:
    shown.append(f'and {len(damages) - _SHOWN:,} more')
  return (
      f'{data_dir} is not what its {schema_lib.MANIFEST_FILE} says:\n  '
      + '\n  '.join(shown) + f'\n{_MEND}'
  )


def differences(
    data_dir: str,
    manifest: dict[str, Any],
    names: Collection[str],
    *,
    digests: bool = False,
) -> list[str]:
  """A line for each of some files that is not what the manifest says.

  Args:
    data_dir: The prepared dataset.
    manifest: Of `load`.
    names: Which files.
    digests: Whether to read them whole; else only their sizes are compared.
  """
  return [
      f'{name} {fault}'
      for name in names
      if (fault := _fault(pathlib.Path(data_dir) / name, manifest, digests))
  ]


def _fault(path: pathlib.Path, manifest: dict[str, Any], digests: bool) -> str:
  want = manifest['files'].get(path.name)
  if want is None:
    return 'is not listed'
  if not path.is_file():
    return 'is missing'
  num_bytes = path.stat().st_size
  if num_bytes != want['bytes']:
    return f'has {num_bytes:,} bytes, not {want["bytes"]:,}'
  if digests and (found := sha256_of(path)) != want['sha256']:
    return f'has the SHA-256 {found[:16]}..., not {want["sha256"][:16]}...'
  return ''


@transient.retried
def sha256_of(path: pathlib.Path) -> str:
  """64 hex digits."""
  with path.open('rb') as handle:
    return hashlib.file_digest(handle, 'sha256').hexdigest()

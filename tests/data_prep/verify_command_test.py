"""Tests of `python -m data_prep verify`: every byte of every file counts."""

import json
import shutil

from data_prep import __main__ as command
import pytest


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
  return shutil.copytree(tiny_dataset, tmp_path / 'copy')


def _names(dataset):
  return sorted(json.loads((dataset / 'manifest.json').read_text())['files'])


def test_a_whole_dataset(dataset, capsys):
  assert command.main(['verify', str(dataset)]) == 0
  out = capsys.readouterr().out
  assert f'{len(_names(dataset))} files of' in out and '24 users' in out


def test_a_flipped_bit_in_any_file(dataset, capsys):
  names = _names(dataset)
  assert len(names) == 6
  for name in names:
    path = dataset / name
    before = path.read_bytes()
    for position in (0, len(before) // 3, len(before) - 1):
      changed = bytearray(before)
      changed[position] ^= 1
      path.write_bytes(changed)
      assert command.main(['verify', str(dataset)]) == 2
      error = capsys.readouterr().err
      assert f'{name} has the SHA-256' in error
      assert 'prepare it again' in error
    path.write_bytes(before)


def test_all_damages_are_named(dataset, capsys):
  first, second, *_ = [n for n in _names(dataset) if 'tfrecord' in n]
  (dataset / first).unlink()
  (dataset / second).write_bytes(b'')
  shutil.copy(dataset / 'schema.json', dataset / 'x-train.tfrecord-1-of-2')
  assert command.main(['verify', str(dataset)]) == 2
  error = capsys.readouterr().err
  assert f'{first} is missing' in error
  assert f'{second} has 0 bytes' in error
  assert 'x-train.tfrecord-1-of-2 is not listed' in error


@pytest.mark.parametrize(
    'files', [3, {'a': 3}, {'a': {'bytes': '3', 'sha256': ''}}]
)
def test_a_damaged_manifest(files, dataset, capsys):
  path = dataset / 'manifest.json'
  path.write_text(json.dumps({'counts': {}, 'splits': {}, 'files': files}))
  assert command.main(['verify', str(dataset)]) == 2
  assert 'damaged' in capsys.readouterr().err


def test_no_dataset(tmp_path, capsys):
  assert command.main(['verify', str(tmp_path)]) == 2
  assert 'manifest.json does not exist' in capsys.readouterr().err

"""Tests of the archive of the code."""

import subprocess

import pytest

from launch import snapshot


@pytest.fixture(name='checkout')
def _checkout(tmp_path):
  root = tmp_path / 'checkout'
  (root / 'sub').mkdir(parents=True)
  (root / 'a.py').write_text('1')
  (root / 'sub' / 'ü b.py').write_text('2')
  (root / 'run.sh').write_text('#!/bin/sh\n')
  (root / 'run.sh').chmod(0o755)
  (root / '.gitignore').write_text('/data/\n')
  (root / 'data').mkdir()
  (root / 'data' / 'large').write_text('3')
  subprocess.run(['git', 'init', '--quiet'], cwd=root, check=True)
  subprocess.run(['git', 'add', 'a.py'], cwd=root, check=True)
  return root


def test_holds_what_git_would_take(checkout, tmp_path):
  (checkout / 'a.py').write_text('changed')
  target = snapshot.take(checkout).unpack(tmp_path / 'code')
  files = {
      p.relative_to(target).as_posix() for p in target.rglob('*') if p.is_file()
  }
  assert files == {'.gitignore', 'a.py', 'run.sh', 'sub/ü b.py'}
  assert (target / 'a.py').read_text() == 'changed'
  assert (target / 'run.sh').stat().st_mode & 0o111


def test_equal_code_is_equal_bytes(checkout, tmp_path):
  first = snapshot.take(checkout)
  (checkout / 'a.py').touch()
  assert snapshot.take(checkout) == first
  assert first.unpack(tmp_path / 'c') == first.unpack(tmp_path / 'c')
  (checkout / 'a.py').write_text('4')
  assert snapshot.take(checkout).name != first.name


def test_too_large(checkout, monkeypatch):
  monkeypatch.setattr(snapshot, '_MAX_BYTES', 5)
  with pytest.raises(ValueError, match=r'largest file is .*(run.sh|ignore)'):
    snapshot.take(checkout)


def test_no_checkout(tmp_path):
  with pytest.raises(ValueError, match='is no git checkout'):
    snapshot.take(tmp_path)

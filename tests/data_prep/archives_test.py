"""Tests of unpacking, with archives made to do harm."""

import io
import stat
import tarfile
import zipfile

from data_prep import archives
import pytest

FILES = {'a.txt': b'one', 'd/b.txt': b'two' * 1000, 'd/e/c': b''}


def _tar(path, files, packing='w:gz', **fields):
  """Makes a tar; `fields` are those of each member's header."""
  with tarfile.open(path, packing) as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      for field, value in fields.items():
        setattr(info, field, value)
      archive.addfile(info, io.BytesIO(data))
  return path


def _zip(path, files, mode=0):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, data in files.items():
      info = zipfile.ZipInfo(name)
      info.external_attr = mode << 16
      archive.writestr(info, data, zipfile.ZIP_DEFLATED)
  return path


MAKE = {'x.zip': _zip, 'x.tar.gz': _tar}


@pytest.fixture
def target(tmp_path):
  (tmp_path / 'target').mkdir()
  return tmp_path / 'target'


def _unpacked(target):
  return {
      str(p.relative_to(target)): p.read_bytes()
      for p in target.rglob('*')
      if p.is_file()
  }


@pytest.mark.parametrize('packing', ['w', 'w:gz', 'w:bz2', 'w:xz', 'zip'])
def test_unpacks(packing, target, tmp_path):
  path = tmp_path / 'x'
  if packing == 'zip':
    _zip(path, {'d/': b'', **FILES}, stat.S_IFREG | 0o4777)
  else:
    _tar(path, FILES, packing, mode=0o4777, uid=0)
  assert archives.list_files(path) == list(FILES)
  archives.extract(path, target, names=['d/b.txt'])
  assert _unpacked(target) == {'d/b.txt': FILES['d/b.txt']}
  # What is there is never written over.
  with pytest.raises(FileExistsError):
    archives.extract(path, target)
  (target / 'd' / 'b.txt').unlink()
  (target / 'a.txt').unlink(missing_ok=True)
  archives.extract(path, target)
  assert _unpacked(target) == FILES
  for file in target.rglob('*'):
    assert not file.stat().st_mode & stat.S_ISUID


def _check_refused(path, target, message, **options):
  for refuse in (
      lambda: archives.list_files(path, **options),
      lambda: archives.extract(path, target, **options),
  ):
    with pytest.raises(ValueError, match=message) as error:
      refuse()
    assert str(path) in str(error.value)
  assert not list(target.iterdir())
  assert sorted(p.name for p in target.parent.iterdir()) == [
      'target', path.name
  ]


@pytest.mark.parametrize('kind', MAKE)
@pytest.mark.parametrize(
    'name',
    ['../x', 'a/../../x', '/tmp/x', 'C:\\x', '..\\x', '\\x', 'a/..'],
)
def test_paths_outside(kind, name, target, tmp_path):
  # After a good file, which must not come out either.
  path = MAKE[kind](tmp_path / kind, {'good': b'1', name: b'2'})
  _check_refused(path, target, 'points outside')


@pytest.mark.parametrize('kind', ['SYM', 'LNK', 'FIFO', 'CHR', 'BLK'])
def test_tar_of_a_link_or_device(kind, target, tmp_path):
  kind = getattr(tarfile, f'{kind}TYPE')
  path = _tar(tmp_path / 'x.tar', {'l': b''}, 'w', type=kind, linkname='/etc')
  _check_refused(path, target, "'l' that is a link or a device")


def test_zip_of_a_link(target, tmp_path):
  path = _zip(tmp_path / 'x.zip', {'l': b'/etc'}, stat.S_IFLNK | 0o777)
  _check_refused(path, target, "'l' that is a link or a device")


def test_a_link_that_is_there_is_not_followed(target, tmp_path):
  path = _zip(tmp_path / 'x.zip', {'l': b'harm'})
  (target / 'l').symlink_to(tmp_path / 'outside')
  with pytest.raises(FileExistsError):
    archives.extract(path, target)
  assert not (tmp_path / 'outside').exists()


@pytest.mark.parametrize('kind', MAKE)
def test_bombs(kind, target, tmp_path, monkeypatch):
  path = MAKE[kind](tmp_path / kind, {'a': bytes(3 << 20), 'b': bytes(3 << 20)})
  for limits in (
      archives.Limits(max_bytes=5 << 20),
      archives.Limits(max_files=1),
  ):
    _check_refused(path, target, "'b' that (makes it|is one)", limits=limits)
  monkeypatch.setattr(archives, '_LEAST_BOMB_BYTES', 1000)
  _check_refused(path, target, r"'a' that makes it 3,145,728 bytes of [1-9]")
  archives.extract(path, target, limits=archives.Limits(max_ratio=2000))
  assert len(_unpacked(target)) == 2


def test_zip_that_lies_about_its_size(target, tmp_path):
  path = _zip(tmp_path / 'x.zip', {'a': bytes(1 << 20)})
  data = path.read_bytes()
  size = (1 << 20).to_bytes(4, 'little')
  assert data.count(size) == 2
  path.write_bytes(data.replace(size, (10).to_bytes(4, 'little')))
  with pytest.raises(ValueError, match="cannot be unpacked at 'a'"):
    archives.extract(path, target)
  assert all(len(data) <= 10 for data in _unpacked(target).values())


def test_twice(target, tmp_path):
  path = tmp_path / 'x.tar'
  with tarfile.open(path, 'w') as archive:
    for _ in range(2):
      archive.addfile(tarfile.TarInfo('a'))
  _check_refused(path, target, "'a' that is there twice")


@pytest.mark.parametrize('kind', MAKE)
def test_damage(kind, target, tmp_path):
  path = MAKE[kind](tmp_path / kind, FILES)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  _check_refused(path, target, '(no whole zip or tar|cannot be listed).*trunca')
  path.write_bytes(b'<html>moved</html>')
  _check_refused(path, target, 'no whole zip or tar')

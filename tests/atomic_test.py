"""Files that are written whole or not at all."""

import pytest

from user_llm import atomic


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'new' / 'out'
  with atomic.write(str(path)) as file:
    file.write(b'all')
    assert not path.exists()
  assert path.read_bytes() == b'all'
  with pytest.raises(KeyError):
    with atomic.write(path) as file:
      file.write(b'half')
      raise KeyError
  assert path.read_bytes() == b'all'
  assert [p.name for p in path.parent.iterdir()] == ['out']


@pytest.mark.parametrize('name', ['there', 'there/', 'new/'])
def test_a_directory_is_refused_before_anything_is_written(tmp_path, name):
  (tmp_path / 'there').mkdir()
  with pytest.raises(ValueError, match=f'{name} is a directory; name a file'):
    with atomic.write(f'{tmp_path}/{name}'):
      pytest.fail('Nothing is to be computed.')
  assert [p.name for p in tmp_path.iterdir()] == ['there']

"""Tests of the directory that appears whole or not at all."""

from data_prep import outputs
import pytest


def test_appears_at_the_end(tmp_path):
  target = tmp_path / 'new' / 'out'
  with outputs.output_directory(str(target)) as directory:
    (directory / 'a').write_text('1')
    assert not target.exists()
  assert (target / 'a').read_text() == '1'
  assert [p.name for p in target.parent.iterdir()] == ['out']


def test_failure_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError):
    with outputs.output_directory(str(tmp_path / 'out')) as directory:
      (directory / 'a').write_text('1')
      raise RuntimeError
  assert not list(tmp_path.iterdir())


def test_refuses_what_is_there(tmp_path):
  target = tmp_path / 'out'
  target.mkdir()
  (target / 'manifest.json').write_text('old')
  with pytest.raises(ValueError, match='--overwrite'):
    with outputs.output_directory(str(target)):
      pass
  with pytest.raises(RuntimeError):
    with outputs.output_directory(str(target), overwrite=True):
      raise RuntimeError
  assert (target / 'manifest.json').read_text() == 'old'
  with outputs.output_directory(str(target), overwrite=True) as directory:
    (directory / 'b').write_text('2')
  assert [p.name for p in target.iterdir()] == ['b']
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_overwrites_only_datasets(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(ValueError, match='manifest.json'):
    with outputs.output_directory(str(tmp_path), overwrite=True):
      pass
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='not a directory'):
    with outputs.output_directory(str(tmp_path / 'file'), overwrite=True):
      pass
  assert (tmp_path / 'thesis.tex').exists()

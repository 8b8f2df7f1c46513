"""Damage to a checkpoint's files is found, told and stepped over."""

import json
import shutil

import numpy as np
import pytest

import small_run
from user_llm import atomic
from user_llm import checkpoint_files
from user_llm import checkpoints as checkpoints_lib
from user_llm import evaluate as evaluate_lib
from user_llm import restore
from user_llm import train as train_lib

pytestmark = pytest.mark.usefixtures('compilation_cache')


@pytest.fixture(name='finished', scope='module')
def _finished(tiny_dataset, tmp_path_factory):
  """A run of 12 steps, with checkpoints of 8 and 12."""
  folder = tmp_path_factory.mktemp('runs') / 'finished'
  train_lib.train(**small_run.arguments(tiny_dataset, folder, evaluators=()))
  return folder


@pytest.fixture(name='run')
def _run(finished, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(finished, folder)
  (folder / 'DONE').unlink()
  return folder


def _params(folder):
  return checkpoints_lib.Checkpoints(str(folder)).load_params(12)


def _largest(folder):
  """The file with most of the parameters."""
  files = (p for p in (folder / 'params').rglob('*') if p.is_file())
  return max(files, key=lambda p: p.stat().st_size)


def _flip(folder):
  path = _largest(folder)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  return 'has other bytes than were written'


def _truncate(folder):
  path = _largest(folder)
  path.write_bytes(path.read_bytes()[:-1])
  return 'bytes, not '


def _remove(folder):
  _largest(folder).unlink()
  return ' is missing'


def _spoil_manifest(folder):
  (folder / checkpoint_files.MANIFEST).write_text('{"files": [')
  return 'manifest.json cannot be read'


_DAMAGES = pytest.mark.parametrize(
    'damage', [_flip, _truncate, _remove, _spoil_manifest]
)


def test_every_step_is_sealed_with_all_its_files(finished):
  for step in (8, 12):
    folder = finished / 'checkpoints' / str(step)
    manifest = json.loads((folder / checkpoint_files.MANIFEST).read_text())
    files = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob('*')
        if p.is_file()
    }
    assert files - {checkpoint_files.MANIFEST} == manifest['files'].keys()
    assert checkpoint_files.damages(folder) == []


@_DAMAGES
def test_training_goes_on_from_the_step_before(
    run, finished, tiny_dataset, damage, capsys
):
  message = damage(run / 'checkpoints' / '12')
  train_lib.train(**small_run.arguments(tiny_dataset, run, evaluators=()))
  err = capsys.readouterr().err
  assert 'the checkpoint of step 12 is damaged: ' in err and message in err
  assert (run / 'checkpoints' / 'damaged-12-0').is_dir()
  # It has gone from 8 to 12 again, to the same parameters.
  assert checkpoints_lib.Checkpoints(str(run)).steps() == [8, 12]
  found, wanted = _params(run), _params(finished)
  for path, value in wanted.items():
    np.testing.assert_array_equal(found[path], value)


def test_all_are_damaged(run, tiny_dataset, capsys):
  for step in ('8', '12'):
    _flip(run / 'checkpoints' / step)
  train_lib.train(**small_run.arguments(tiny_dataset, run, evaluators=()))
  assert 'the checkpoint of step 8 is damaged' in capsys.readouterr().err
  assert checkpoints_lib.Checkpoints(str(run)).steps() == [8, 12]


@_DAMAGES
def test_who_reads_refuses(run, tiny_dataset, damage):
  message = damage(run / 'checkpoints' / '12')
  arguments = dict(
      workdir=str(run),
      run=small_run.trained_run(tiny_dataset),
      evaluators=small_run.arguments(tiny_dataset, run)['evaluators'],
  )
  with pytest.raises(ValueError, match=f'12 is damaged: .*{message}.*STEP'):
    evaluate_lib.evaluate(**arguments)
  evaluate_lib.evaluate(**arguments, step=8)
  assert (run / 'checkpoints' / '12').is_dir()  # It is not theirs to rename.
  init_from = [restore.InitFrom(path=str(run), prefix='user_encoder')]
  with pytest.raises(ValueError, match=f'12 is damaged: .*{message}'):
    train_lib.train(
        **small_run.arguments(tiny_dataset, run / 'next', init_from=init_from)
    )


def test_a_damaged_step_is_refused_every_time(run):
  _flip(run / 'checkpoints' / '12')
  checkpoints = checkpoints_lib.Checkpoints(str(run))
  for _ in range(2):
    with pytest.raises(ValueError, match='12 is damaged'):
      checkpoints.check_files(12)


def test_what_is_no_checkpoint_is_ignored(run, tiny_dataset, capsys):
  folder = run / 'checkpoints'
  (folder / '99').mkdir()
  (folder / '98' / 'holiday').mkdir(parents=True)
  (folder / 'notes').mkdir()
  (folder / '97').write_text('a file')
  assert checkpoints_lib.Checkpoints(str(run)).steps() == [8, 12]
  assert '99 is no checkpoint: ignored' in capsys.readouterr().err
  assert (folder / '99').is_dir()  # Who only looks changes nothing.
  train_lib.train(**small_run.arguments(
      tiny_dataset, run, evaluators=(), num_steps=16
  ))
  assert checkpoints_lib.Checkpoints(str(run)).steps()[-1] == 16
  assert (folder / 'foreign-98-0' / 'holiday').is_dir()
  assert (folder / 'notes').is_dir()


def test_a_step_without_a_manifest_is_taken(run):
  """Its run was killed between the two, or is of an older version."""
  (run / 'checkpoints' / '12' / checkpoint_files.MANIFEST).unlink()
  checkpoints = checkpoints_lib.Checkpoints(str(run))
  assert checkpoints.undamaged_steps() == [8, 12]
  checkpoints.check_files(12)


def test_the_manifest_is_whole_or_not_there(tmp_path, monkeypatch):
  (tmp_path / 'x').write_text('1')
  # What one that was killed had begun.
  (tmp_path / '.manifest.json.host-12.partial').write_text('{"fil')
  with monkeypatch.context() as patch:
    patch.setattr(
        atomic.os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
      checkpoint_files.seal(tmp_path)
  assert not checkpoint_files.is_sealed(tmp_path)
  checkpoint_files.seal(tmp_path)
  manifest = json.loads((tmp_path / checkpoint_files.MANIFEST).read_text())
  assert list(manifest['files']) == ['x']


def test_set_aside_never_replaces(tmp_path):
  for number in range(2):
    folder = tmp_path / '7'
    folder.mkdir()
    aside = checkpoint_files.set_aside(folder, 'damaged')
    assert aside == tmp_path / f'damaged-7-{number}'


def test_sizes(tmp_path):
  (tmp_path / 'a').write_bytes(bytes(10))
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'c').write_bytes(bytes(5))
  assert checkpoint_files.num_bytes(tmp_path) == 15

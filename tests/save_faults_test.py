"""Checkpoints that cannot be saved: told at the next step, and tried again."""

import contextlib
import os
import subprocess

import numpy as np
import orbax.checkpoint as ocp
import pytest

import small_run
from launch import exit_codes
from user_llm import checkpoint_files
from user_llm import checkpoints as checkpoints_lib
from user_llm import main as main_lib
from user_llm import train as train_lib
from user_llm import training_run

pytestmark = pytest.mark.usefixtures('compilation_cache')


def _train(data_dir, folder, **changes):
  train_lib.train(
      **small_run.arguments(data_dir, folder, evaluators=(), **changes)
  )


def _steps(folder):
  return checkpoints_lib.Checkpoints(str(folder)).steps()


@contextlib.contextmanager
def _in_steps(monkeypatch, function):
  """Calls function(step) before each step's save is asked for."""
  is_due_again = checkpoints_lib.Checkpoints.is_due_again
  step = [0]

  def spied(self):
    step[0] += 1
    function(step[0])
    return is_due_again(self)

  with monkeypatch.context() as context:
    context.setattr(checkpoints_lib.Checkpoints, 'is_due_again', spied)
    yield


def test_a_full_disk(tiny_dataset, tmp_path, monkeypatch, capsys):
  """The run goes on without, and saves as soon as there is room."""
  usage = checkpoint_files.shutil.disk_usage

  def fill(step):
    free = 1000 if 4 <= step < 7 else 1 << 40
    monkeypatch.setattr(
        checkpoint_files.shutil, 'disk_usage',
        lambda path: usage(path)._replace(free=free),
    )

  with _in_steps(monkeypatch, fill):
    _train(tiny_dataset, tmp_path, num_steps=8)
  assert _steps(tmp_path) == [7, 8]
  err = capsys.readouterr().err
  assert err.count('The checkpoint of step 4 could not be saved') == 1
  assert f'{tmp_path}/checkpoints has 0 MiB free: make room' in err


def test_a_disk_that_stays_full(tiny_dataset, tmp_path, monkeypatch):
  """Trained to its end, but not saved: that is no success."""
  _train(tiny_dataset, tmp_path, num_steps=4)
  usage = checkpoint_files.shutil.disk_usage
  monkeypatch.setattr(
      checkpoint_files.shutil, 'disk_usage',
      lambda path: usage(path)._replace(free=1000),
  )
  with pytest.raises(ValueError, match='step 8 could not be saved.*make room'):
    _train(tiny_dataset, tmp_path, num_steps=8)
  assert _steps(tmp_path) == [4]
  assert not (tmp_path / training_run.DONE_FILE).exists()


def _break_finalize(monkeypatch, times):
  """The next saves fail in the background, after `save` has returned."""
  left = [times]
  finalize = ocp.StandardCheckpointHandler.finalize

  def broken(self, directory):
    if left[0] and 'params' in str(directory):
      left[0] -= 1
      raise OSError(5, 'Input/output error')
    return finalize(self, directory)

  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'finalize', broken)


def test_a_save_that_fails_in_the_background(
    tiny_dataset, tmp_path, monkeypatch, capsys
):
  _break_finalize(monkeypatch, times=1)
  _train(tiny_dataset, tmp_path, num_steps=8, save_every_steps=6)
  err = capsys.readouterr().err
  assert 'could not be saved' in err and 'Input/output error' in err
  steps = _steps(tmp_path)
  assert steps[-1] == 8 and 6 not in steps
  assert not list((tmp_path / 'checkpoints').glob('*tmp*'))
  _train(tiny_dataset, tmp_path / 'good', num_steps=8, save_every_steps=6)
  wanted = checkpoints_lib.Checkpoints(str(tmp_path / 'good')).load_params(8)
  found = checkpoints_lib.Checkpoints(str(tmp_path)).load_params(8)
  for path, value in wanted.items():
    np.testing.assert_array_equal(found[path], value)


def test_saves_that_go_on_failing(tiny_dataset, tmp_path, monkeypatch):
  _train(tiny_dataset, tmp_path, num_steps=4)
  _break_finalize(monkeypatch, times=99)
  with pytest.raises(ValueError, match='could not be saved.*Those before'):
    _train(tiny_dataset, tmp_path, num_steps=60)
  assert _steps(tmp_path) == [4]
  assert not (tmp_path / training_run.DONE_FILE).exists()


def test_one_of_several_processes_cannot_save(
    tiny_dataset, tmp_path, monkeypatch
):
  """It ends with a code that `launch` tries again."""
  checkpoints = checkpoints_lib.Checkpoints(str(tmp_path))
  monkeypatch.setattr(checkpoints_lib.jax, 'process_count', lambda: 2)
  with pytest.raises(checkpoints_lib.UnsavedError, match='step 3') as error:
    checkpoints._fail(3, 'full')  # pylint: disable=protected-access
  assert exit_codes.is_retried(error.value.exit_code)


def test_a_workdir_that_vanishes(tiny_dataset, tmp_path, monkeypatch):
  run = tmp_path / 'run'

  def vanish(step):
    if step == 2:
      run.rename(tmp_path / 'gone')

  with _in_steps(monkeypatch, vanish):
    with contextlib.suppress(ValueError):
      _train(tiny_dataset, run, save_every_steps=3)
  # Either it could be made anew, whole, or the run has told.
  assert not run.exists() or _steps(run)[-1] == 12


@pytest.mark.skipif(os.geteuid() != 0, reason='mounting needs root')
def test_a_disk_that_is_full_in_the_middle(
    tiny_dataset, tmp_path, monkeypatch, capsys
):
  """A real one of 3 MB, which the look before does not see."""
  run = tmp_path / 'run'
  run.mkdir()
  mounted = subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', str(run)], check=False
  )
  if mounted.returncode:
    pytest.skip('mount -t tmpfs is not allowed here')
  try:
    monkeypatch.setattr(checkpoint_files, 'missing_room', lambda *_: '')

    def fill(step):
      if step == 5:
        with contextlib.suppress(OSError):
          (run / 'filler').write_bytes(bytes(4 << 20))
      if step == 9:
        (run / 'filler').unlink()

    with _in_steps(monkeypatch, fill):
      with contextlib.suppress(ValueError):
        _train(tiny_dataset, run)
    for step in _steps(run):
      checkpoints_lib.Checkpoints(str(run)).check_files(step)
    (run / 'filler').unlink(missing_ok=True)
    _train(tiny_dataset, run)
    assert _steps(run)[-1] == 12
  finally:
    subprocess.run(['umount', '-l', str(run)], check=True)


def test_a_batch_that_no_memory_holds(tiny_dataset, tmp_path, capsys):
  assert main_lib.main([
      'train', f'--workdir={tmp_path / "run"}',
      '--gin_file=models/user_encoder.gin',
      '--gin_file=runs/pretrain_encoder.gin',
      f'--gin.DATA_DIR="{tiny_dataset}"', '--gin.NUM_STEPS=200',
      f'--gin.BATCH_SIZE={1 << 40}', '--gin.LEARNING_RATE=1e-3',
  ]) == 137
  err = capsys.readouterr().err
  assert 'out of memory' in err and 'num_microbatches' in err
  assert not (tmp_path / 'run' / 'DONE').exists()

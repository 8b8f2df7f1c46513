"""Input and output that fails now and then changes nothing but the time."""

import errno
import hashlib
import io
import json
import os
import pathlib
import socket

import numpy as np
import pytest
import tensorflow as tf

import small_run
from user_llm import checkpoints
from user_llm import train as train_lib
from user_llm.data import records
from user_llm.runtime import transient


@pytest.fixture(name='waited')
def _waited(monkeypatch):
  """The seconds that would have been waited."""
  waited = []
  monkeypatch.setattr(transient.retried, 'sleep', waited.append, raising=False)
  monkeypatch.setattr(transient.tenacity.nap.time, 'sleep', waited.append)
  return waited


def _failing(times, error):
  left = [times]

  @transient.retried
  def read():
    left[0] -= 1
    if left[0] >= 0:
      raise error
    return 'read'

  return read


@pytest.mark.parametrize('error', [
    OSError(errno.EIO, 'Input/output error'),
    OSError(errno.ESTALE, 'Stale file handle'),
    tf.errors.UnavailableError(None, None, 'connection reset'),
])
def test_what_may_pass_is_tried_again(waited, capsys, error):
  assert _failing(3, error)() == 'read'
  assert len(waited) == 3 and all(0 <= secs <= 10 for secs in waited)
  assert len(set(waited)) == 3  # With jitter.
  assert 'tried again in' in capsys.readouterr().err


def test_not_for_ever(waited):
  with pytest.raises(OSError, match='Input/output'):
    _failing(99, OSError(errno.EIO, 'Input/output error'))()
  assert len(waited) == 7 and sum(waited) < 70


@pytest.mark.parametrize('error', [
    FileNotFoundError(errno.ENOENT, 'none'),
    OSError(errno.ENOSPC, 'No space left'),
    ValueError('bad'),
    tf.errors.DataLossError(None, None, 'damaged'),
])
def test_what_will_not_pass_is_told_at_once(waited, error):
  with pytest.raises(type(error)):
    _failing(1, error)()
  assert not waited


def _digests(folder):
  return {
      path.relative_to(folder).as_posix(): hashlib.sha256(
          path.read_bytes()
      ).hexdigest()
      for path in sorted((folder / 'eval').rglob('*'))
      if path.suffix in ('.json', '.npz')
  }


@pytest.mark.usefixtures('compilation_cache')
def test_a_run_on_a_disk_that_fails_now_and_then(
    tiny_dataset, tmp_path, monkeypatch, waited
):
  """The first time that any file of the data or a result is opened."""
  train_lib.train(**small_run.arguments(tiny_dataset, tmp_path / 'good'))
  records._load_events.cache_clear()  # pylint: disable=protected-access
  really_open, failed = io.open, []
  shaky = (str(tiny_dataset), str(tmp_path / 'bad'))
  # Files that are held open all the time are another matter.
  held = ('metrics.jsonl', 'goodput.jsonl')

  def shaky_open(file, *args, **kwargs):
    path = str(file)
    if path.startswith(shaky) and not path.endswith(held):
      if path not in failed:
        failed.append(path)
        raise OSError(errno.EIO, 'Input/output error', path)
    return really_open(file, *args, **kwargs)

  with monkeypatch.context() as context:
    context.setattr(pathlib.io, 'open', shaky_open)
    train_lib.train(**small_run.arguments(tiny_dataset, tmp_path / 'bad'))
  names = {pathlib.Path(path).name for path in failed}
  # What is read once a process may have been read before.
  process = f'{socket.gethostname()}-{os.getpid()}'
  assert 'run.json' in names
  for written in ('manifest.json', '12-validation.json'):
    assert f'.{written}.{process}.partial' in names
  assert len(waited) >= len(failed)
  assert _digests(tmp_path / 'bad') == _digests(tmp_path / 'good') != {}
  found, wanted = (
      checkpoints.Checkpoints(str(tmp_path / name)).load_params(12)
      for name in ('bad', 'good')
  )
  for path, value in wanted.items():
    np.testing.assert_array_equal(found[path], value)
  assert json.loads((tmp_path / 'bad' / 'run.json').read_text())['finished']

"""One process a workdir; what is read is not deleted."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from user_llm import main as main_lib
from user_llm.runtime import lease

_HOLDER = (
    'import pathlib, sys, time\n'
    'from user_llm.runtime import lease\n'
    'with lease.exclusive(pathlib.Path(sys.argv[1])):\n'
    '  print("held", flush=True)\n'
    '  time.sleep(60)\n'
)


@pytest.fixture(name='holder')
def _holder(tmp_path):
  """Another process that holds tmp_path/run."""
  with subprocess.Popen(
      [sys.executable, '-c', _HOLDER, str(tmp_path / 'run')],
      stdout=subprocess.PIPE, text=True,
  ) as process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


def test_a_second_one_is_refused(holder, tmp_path):
  workdir = tmp_path / 'run'
  for _ in range(2):
    with pytest.raises(ValueError, match=f'in use by process {holder.pid} on '):
      with lease.exclusive(workdir):
        pytest.fail('Both have it.')
  assert workdir.is_dir()  # It is not ours to remove.


def test_a_second_trainer_ends_with_46(holder, tmp_path, capsys):
  """Before anything is loaded: even the gin file is not looked at."""
  workdir = tmp_path / 'run'
  assert main_lib.main(
      ['train', f'--workdir={workdir}', '--gin_file=no_such_file.gin']
  ) == lease.EXIT_CODE == 46
  error = capsys.readouterr().err
  assert error.startswith(
      f'error: --workdir={workdir} is in use by process {holder.pid} on '
  )
  assert error.count('\n') == 1
  assert [p.name for p in workdir.iterdir()] == [lease.LOCK_FILE]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
  def flock(*unused):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lease.fcntl, 'flock', flock)
  with pytest.raises(ValueError, match='cannot be locked .No locks available'):
    with lease.exclusive(tmp_path / 'run'):
      pytest.fail('Nobody has it.')


def test_who_is_killed_holds_it_no_longer(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with lease.exclusive(tmp_path / 'run'):
    found = json.loads((tmp_path / 'run' / lease.LOCK_FILE).read_text())
    assert found['pid'] == os.getpid()
  with lease.exclusive(tmp_path / 'run'):
    pass


def test_what_stays_empty_goes_again(tmp_path):
  with lease.exclusive(tmp_path / 'a' / 'b'):
    pass
  assert list(tmp_path.iterdir()) == []
  with lease.exclusive(tmp_path / 'a' / 'b'):
    (tmp_path / 'a' / 'b' / 'x').touch()
  assert [p.name for p in (tmp_path / 'a' / 'b').iterdir()] == ['x']


def test_a_workdir_that_vanishes_hides_no_error(tmp_path):
  with pytest.raises(ValueError, match='what went wrong'):
    with lease.exclusive(tmp_path / 'run'):
      (tmp_path / 'run').rename(tmp_path / 'gone')
      raise ValueError('what went wrong')


@pytest.mark.parametrize('kind', ['file', 'system'])
def test_a_workdir_that_cannot_be_written(tmp_path, kind, capsys):
  """Told before anything is loaded."""
  (tmp_path / 'file').touch()
  parent = tmp_path / 'file' if kind == 'file' else pathlib.Path('/proc')
  assert main_lib.main(
      ['train', f'--workdir={parent / "run"}', '--gin_file=no_such_file.gin']
  ) == 2
  err = capsys.readouterr().err
  assert str(parent) in err and 'no_such_file' not in err


def test_pins(tmp_path):
  path = tmp_path / 'file'
  path.touch()
  assert not lease.is_pinned(path)
  with lease.pinned(path), lease.pinned(path):
    assert lease.is_pinned(path)
  assert not lease.is_pinned(path)
  assert not lease.is_pinned(tmp_path / 'none')
  with lease.pinned(tmp_path / 'none'):
    pass

"""Tests of the command line: exit codes, saved configs, resuming."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from user_llm import main as main_lib

_LIBRARY = '''
import json, pathlib, time
import numpy as np

class Model:
  def __init__(self, width=8):
    self.width = width

def train(
    *, workdir, dry_run=False, topology=None, deadline=None, steps=1, model=None,
    fail=None,
):
  if fail == 'idle':
    return False
  if fail == 'read-only':
    raise OSError(30, 'Read-only file system')
  if deadline is not None:
    print('seconds left:', deadline - time.monotonic())
  if fail == 'memory':
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 byte')
  if fail == 'user':
    raise ValueError('STEPS must be positive; set --gin.STEPS=1 or more.')
  if fail == 'numpy':
    np.zeros(3).reshape(2)
  if fail == 'nan':
    raise FloatingPointError('loss is nan at step 3; it was finite at step 2.')
  if fail == 'os':
    open(pathlib.Path(workdir) / 'missing' / 'x')
  if not dry_run:
    (pathlib.Path(workdir) / 'checkpoints').mkdir(exist_ok=True)
    (pathlib.Path(workdir) / 'checkpoints' / str(steps)).mkdir(exist_ok=True)
  if fail == 'unsaved':
    raise ValueError('The checkpoint could not be saved.')

def infer(*, workdir, input, output, steps=1, beams=0):
  pathlib.Path(output).write_text(json.dumps([workdir, input, steps, beams]))
'''
_TRAIN = '''
from __gin__ import dynamic_registration
import main_stub_library
STEPS = 3
WIDTH = 4
FAIL = None
main_stub_library.train.steps = %STEPS
main_stub_library.train.fail = %FAIL
main_stub_library.train.model = @main_stub_library.Model()
main_stub_library.Model.width = %WIDTH
'''
_INFER = '''
from __gin__ import dynamic_registration
import main_stub_library
STEPS = %gin.REQUIRED
BEAMS = 5
main_stub_library.infer.steps = %STEPS
main_stub_library.infer.beams = %BEAMS
'''


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'main_stub_library.py').write_text(_LIBRARY)
  (tmp_path / 'runs' / 'train.gin').write_text(_TRAIN)
  (tmp_path / 'runs' / 'infer.gin').write_text(_INFER)
  monkeypatch.syspath_prepend(str(tmp_path))
  stubs = ('main_stub_library', 'noisy_stub', 'failing_stub')
  monkeypatch.setattr('user_llm.gin_trust.PACKAGES', stubs)
  monkeypatch.setattr(
      main_lib,
      '_ENTRY_POINTS',
      {mode: f'main_stub_library:{mode}' for mode in ('train', 'infer')},
  )
  monkeypatch.setattr(
      'user_llm.gin_text._MODEL_PACKAGES', ('main_stub_library.Model',)
  )
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
  gin.clear_config()
  yield tmp_path
  gin.clear_config()


def _main(folder: pathlib.Path, mode: str, *args: str) -> int:
  gin.clear_config()
  files = ['--gin_file=runs/train.gin'] if mode == 'train' else []
  return main_lib.main([
      mode,
      f'--gin_search_paths={folder}',
      f'--workdir={folder / "work"}',
      *files,
      *args,
  ])


def test_train_saves_its_configs(folder):
  assert _main(folder, 'train', '--gin.STEPS=7') == 0
  assert 'STEPS = 7' in (folder / 'work' / 'config.gin').read_text()
  operative = (folder / 'work' / 'operative_config.gin').read_text()
  assert 'main_stub_library.train.steps' in operative
  assert (folder / 'work' / 'checkpoints' / '7').is_dir()


def test_dry_run_writes_nothing(folder):
  assert _main(folder, 'train', '--dry_run') == 0
  assert not (folder / 'work').exists()


def test_infer_uses_what_was_trained(folder):
  assert _main(folder, 'train', '--gin.STEPS=7') == 0
  output = folder / 'out.json'
  flags = ['--input=users.jsonl', f'--output={output}']
  assert _main(folder, 'infer', *flags) == 0
  workdir = str(folder / 'work')
  assert json.loads(output.read_text()) == [workdir, 'users.jsonl', 7, 5]
  assert _main(folder, 'infer', *flags, '--gin.BEAMS=2') == 0
  assert json.loads(output.read_text())[-1] == 2
  assert 'STEPS = 7' in (folder / 'work' / 'config.gin').read_text()
  assert (folder / 'work' / 'operative_config.infer.gin').is_file()


def test_infer_reads_a_workdir_that_cannot_be_written(
    folder, capsys, monkeypatch
):
  assert _main(folder, 'train') == 0

  def refused(path):
    raise OSError(errno.EROFS, 'Read-only file system', str(path))

  monkeypatch.setattr(main_lib.atomic, 'write', refused)
  flags = ['--input=users.jsonl', f'--output={folder / "out.json"}']
  assert _main(folder, 'infer', *flags) == 0
  error = capsys.readouterr().err
  assert error.startswith('warning: ') and error.count('\n') == 1
  assert 'operative_config.infer.gin' in error and 'Read-only' in error
  assert (folder / 'out.json').is_file()


@pytest.mark.parametrize(
    ['flag', 'message'],
    [
        ('--gin.STEP=7', 'Did you mean STEPS?'),
        ('--gin.scope/main_stub_library.Model.width=7', "the scope 'scope'"),
        ('--gin.STEPS="7"', '--gin.STEPS=7'),
        ('--gin_file=runs/nothing.gin', 'no such file'),
        ('--gin_file=runs/infer.gin', 'Add --gin.STEPS=...'),
        ('--gin.FAIL="user"', 'STEPS must be positive'),
        ('--gin.FAIL="os"', 'missing/x'),
        ('--gin.FAIL="read-only"', 'Read-only file system'),
        ('--gin.main_stub_library.train.dry_run=True', 'is not for gin files'),
    ],
)
def test_user_errors(folder, capsys, flag, message):
  assert _main(folder, 'train', flag) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert message in error
  assert 'Traceback' not in error and 'In call to' not in error
  assert not (folder / 'work').exists()


def test_debug_shows_the_trace(folder):
  with pytest.raises(ValueError, match='STEPS must be positive'):
    _main(folder, 'train', '--gin.FAIL="user"', '--debug')


def test_a_bug_keeps_its_trace(folder):
  with pytest.raises(ValueError, match='reshape'):
    _main(folder, 'train', '--gin.FAIL="numpy"')
  assert (folder / 'work' / 'config.gin').is_file()


def test_a_loss_that_is_not_finite_has_a_code_of_its_own(folder, capsys):
  assert _main(folder, 'train', '--gin.FAIL="nan"') == 44
  assert capsys.readouterr().err.startswith('error: loss is nan at step 3')


def test_out_of_memory_says_what_takes_less(folder, capsys):
  assert _main(folder, 'train', '--gin.FAIL="memory"') == 137
  err = capsys.readouterr().err
  assert 'out of memory: RESOURCE_EXHAUSTED' in err and 'BATCH_SIZE' in err


def test_a_deadline_counts_from_the_start(folder, capsys):
  assert _main(folder, 'train', '--deadline=1000') == 0
  left = float(capsys.readouterr().out.split('seconds left: ')[1].split()[0])
  assert 0 < left < 1000
  for bad in ('0', '-1', 'inf', 'soon'):
    with pytest.raises(SystemExit) as error:
      _main(folder, 'train', f'--deadline={bad}')
    assert error.value.code == 2
  assert 'is no number of seconds' in capsys.readouterr().err


def test_a_refused_run_leaves_the_old_config(folder):
  assert _main(folder, 'train', '--gin.STEPS=7') == 0
  assert _main(folder, 'train', '--gin.FAIL="user"') == 2
  assert 'STEPS = 7' in (folder / 'work' / 'config.gin').read_text()


def test_a_run_that_fails_late_keeps_its_config(folder):
  """What it has saved would be without one."""
  assert _main(folder, 'train', '--gin.FAIL="unsaved"') == 2
  assert 'STEPS = 3' in (folder / 'work' / 'config.gin').read_text()
  assert _main(folder, 'train', '--gin.FAIL="unsaved"', '--gin.STEPS=7') == 2
  assert 'STEPS = 7' in (folder / 'work' / 'config.gin').read_text()


def test_a_run_with_nothing_to_do_keeps_its_configs(folder):
  assert _main(folder, 'train', '--gin.STEPS=7') == 0
  files = [folder / 'work' / f'{name}config.gin' for name in ('', 'operative_')]
  before = [file.read_text() for file in files]
  assert _main(folder, 'train', '--gin.FAIL="idle"', '--gin.STEPS=8') == 0
  assert [file.read_text() for file in files] == before


def test_resume_with_another_model_is_refused(folder, capsys):
  assert _main(folder, 'train') == 0
  assert _main(folder, 'train', '--gin.STEPS=9') == 0
  assert _main(folder, 'train', '--gin.WIDTH=5') == 2
  error = capsys.readouterr().err
  assert 'width = 4' in error and 'width = 5' in error
  assert 'another --workdir' in error


def test_workdir_without_a_run(folder, capsys):
  assert _main(folder, 'infer', '--input=i', '--output=o') == 2
  assert 'config.gin does not exist' in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv', [[], ['trian'], ['train'], ['train', '--workdir=x', '--gin_fil=y']]
)
def test_wrong_arguments(argv, capsys):
  with pytest.raises(SystemExit) as error:
    main_lib.main(argv)
  assert error.value.code == 2
  assert 'usage:' in capsys.readouterr().err


def test_help_imports_nothing_heavy():
  code = (
      'import sys; from user_llm import main\n'
      'try: main.main(["--help"])\n'
      'except SystemExit: pass\n'
      'assert not {"jax", "tensorflow", "gin"} & set(sys.modules)'
  )
  result = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert 'evaluate' in result.stdout


def test_imports_are_quiet_unless_they_fail(folder, capfd):
  library = folder / 'noisy_stub.py'
  gin_file = folder / 'noisy.gin'
  library.write_text('import os\nos.write(2, b"noise")\n')
  gin_file.write_text(_TRAIN + 'import noisy_stub\n')
  flag = f'--gin_file={gin_file}'
  assert _main(folder, 'train', flag) == 0
  assert capfd.readouterr().err == ''
  assert _main(folder, 'train', flag, '--gin.STEP=3') == 2
  assert capfd.readouterr().err.startswith('error: ')
  gin_file.write_text(_TRAIN + 'import failing_stub\n')
  library.rename(folder / 'failing_stub.py')
  with (folder / 'failing_stub.py').open('a') as lines:
    lines.write('1 / 0\n')
  with pytest.raises(ZeroDivisionError):
    _main(folder, 'train', flag)
  assert 'noise' in capfd.readouterr().err


def test_cache_is_private(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  (tmp_path / 'user_llm' / 'jax').mkdir(parents=True, mode=0o777)
  cache = main_lib.private_cache_dir()
  assert cache == tmp_path / 'user_llm' / 'jax'
  assert os.stat(cache).st_mode & 0o777 == 0o700
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  cache.rmdir()
  cache.symlink_to(elsewhere)
  assert main_lib.private_cache_dir() is None

"""Gin files that reach for more than models and data are refused."""

import ast
import os
import pathlib
import sys

import gin
import pytest

from user_llm import gin_trust
from user_llm import gin_utils
from user_llm import main as main_lib

_HEAD = 'from __gin__ import dynamic_registration\n'
_RUN = _HEAD + '''
from user_llm import restore
from user_llm import train
from user_llm import training_run
train.train.seed = 3
'''


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  (tmp_path / 'paths').mkdir()
  (tmp_path / 'evil_module.py').write_text(
      f'import os; os.mkdir({str(tmp_path / "imported")!r})'
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  sys.modules.pop('evil_module', None)
  gin.clear_config()
  yield tmp_path
  gin.clear_config()


def _parse(folder, text, trust=False):
  path = folder / 'paths' / 'x.gin'
  path.write_text(text)
  gin_utils.load_config([str(path)], (), [str(folder / 'paths')], trust)


@pytest.mark.parametrize(
    'text',
    [
        'import evil_module\n',
        _HEAD + 'import evil_module\n',
        _HEAD + 'from evil_module import x\n',
        _HEAD + 'import evil_module as train\n',
        _HEAD + 'import user_llm_evil\n',
        'import os\n',
        _HEAD + 'from user_llm import main\n',
        _HEAD + 'from user_llm import gin_utils\n',
        # They read other files, or start programs.
        _HEAD + 'from user_llm import check\ncheck.check.trust = True\n',
        _HEAD + 'from user_llm.pretrained import fetching\nX = 1\n',
        # Reached through a module that may be imported.
        _RUN + 'X = @training_run.pathlib.os.system()\n',
        _RUN + 'training_run.pathlib.os.mkdir.path = "imported"\nX = 1\n',
        _RUN + 'X = @restore.sys.exit()\n',
        _RUN + 'X = @training_run.pathlib.Path()\n',
        _RUN + 'X = @train.jax.numpy.load()\n',
        # gin's own, but for what it saves itself.
        'from gin import utils\n',
        _HEAD + 'from gin import config\nX = @config.parse_config_file()\n',
        _HEAD + 'from gin import config\nX = @config.os.system()\n',
        _RUN + 'X = @gin.macro.__builtins__.update()\n',
        # What is not for others.
        _RUN + 'X = @train._batch_spec()\n',
        _RUN + 'X = @train.__loader__.set_data()\n',
        _RUN + 'X = @train.train.__globals__.get()\n',
    ],
)
def test_refused(folder, text, monkeypatch):
  monkeypatch.chdir(folder)
  with pytest.raises(ValueError, match='--trust_gin'):
    _parse(folder, text)
  assert not (folder / 'imported').exists()


def test_what_files_may_name_trusts_no_other_and_starts_nothing():
  root = pathlib.Path(gin_trust.__file__).parent
  for path in root.rglob('*.py'):
    module = '.'.join(path.relative_to(root.parent).with_suffix('').parts)
    if gin_trust._is_allowed(module):  # pylint: disable=protected-access
      tree = ast.parse(path.read_text(encoding='utf-8'))
      found = {x.arg for x in ast.walk(tree) if isinstance(x, ast.arg)}
      found |= {x.name for x in ast.walk(tree) if isinstance(x, ast.alias)}
      assert not found & {'trust', 'subprocess', 'runpy', 'gin'}, path


def test_trusted(folder):
  _parse(folder, _HEAD + 'import evil_module\nSEED = 3\n', trust=True)
  assert (folder / 'imported').is_dir()


def test_one_trusted_file_is_no_other(folder):
  _parse(folder, _RUN + 'SEED = @training_run.pathlib.Path()\n', trust=True)
  gin.clear_config()
  with pytest.raises(ValueError, match='names training_run.pathlib.PurePath'):
    _parse(folder, _RUN + 'SEED = @training_run.pathlib.PurePath()\n')


def test_a_saved_config_is_read_again(folder):
  _parse(folder, _RUN + 'SEED = @a/gin.singleton()\n')
  text = gin_utils.config_text()
  assert 'from gin import config' in text
  gin.clear_config()
  _parse(folder, text)
  assert gin_utils.parsed_bindings()['SEED'] == '@a/config.singleton()'


def test_includes(folder):
  inside, outside = folder / 'paths' / 'in.gin', folder / 'out.gin'
  for path in (inside, outside):
    path.write_text('SEED = 3\n')
  for name in ('in.gin', str(inside), '../paths/in.gin'):
    gin.clear_config()
    _parse(folder, f"include '{name}'\n")
    assert gin.query_parameter('%SEED') == 3
  os.symlink(outside, folder / 'paths' / 'link.gin')
  for name in (str(outside), '../out.gin', 'link.gin', '/etc/passwd'):
    gin.clear_config()
    with pytest.raises(ValueError, match='includes.* none of the search paths'):
      _parse(folder, f"include '{name}'\n")
  _parse(folder, f"include '{outside}'\n", trust=True)


def test_endless_files(folder):
  with pytest.raises(ValueError, match='x.gin, which includes it'):
    _parse(folder, "include 'x.gin'\n")
  with pytest.raises(ValueError, match='more than 1,048,576 bytes'):
    _parse(folder, '#' * (1 << 20) + '\n')
  for name in ('/dev/zero', '/proc/self/environ', '.', ''):
    with pytest.raises(ValueError, match='Unable to open file|includes'):
      _parse(folder, f"include '{name}'\n")


def test_the_command_line(folder, capsys):
  text = _HEAD + 'import evil_module\nSEED = %gin.REQUIRED\n'
  (folder / 'x.gin').write_text(text)
  flags = [
      'train', f'--gin_file={folder / "x.gin"}', f'--workdir={folder / "work"}'
  ]
  assert main_lib.main(flags) == 2
  error = capsys.readouterr().err
  assert 'x.gin: it imports evil_module' in error and '--trust_gin' in error
  assert 'Traceback' not in error and not (folder / 'imported').exists()
  gin.clear_config()
  assert main_lib.main([*flags, '--trust_gin']) == 2
  assert (folder / 'imported').exists()
  assert 'Add --gin.SEED=' in capsys.readouterr().err
  assert not (folder / 'work').exists()


def test_our_own_files_need_no_trust():
  root = gin_utils.DEFAULT_SEARCH_PATH
  for path in sorted(pathlib.Path(root).rglob('*.gin')):
    gin.clear_config()
    gin_utils.parse_files([str(path)])
  gin.clear_config()

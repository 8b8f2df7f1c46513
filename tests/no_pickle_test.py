"""Nothing here unpickles: a pickle runs what its writer put into it."""

import ast
import os
import pathlib
import pickle

import numpy as np
import pytest

from user_llm import per_example
from user_llm.pretrained import loading

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PICKLES = {
    'pickle', 'cPickle', '_pickle', 'cloudpickle', 'dill', 'joblib', 'shelve',
    'marshal', 'pickletools', 'jsonpickle',
}
# Calls of numpy's that may pickle, unless they are told not to.
_NUMPY = {'load', 'save', 'savez', 'savez_compressed'}
_FILES = sorted(
    path
    for folder in ('user_llm', 'data_prep', 'launch', 'benchmarks')
    for path in (_ROOT / folder).rglob('*.py')
)


def _faults(tree: ast.AST) -> list[str]:
  """Imports of what pickles, and numpy's calls that are not told not to."""
  faults = []
  for node in ast.walk(tree):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      faults += [n for n in names if n and n.split('.')[0] in _PICKLES]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      of = ast.unparse(node.func.value)
      told = {k.arg: ast.unparse(k.value) for k in node.keywords}
      if of in ('np', 'numpy') and node.func.attr in _NUMPY:
        if told.get('allow_pickle') != 'False':
          faults.append(ast.unparse(node))
      elif (of, node.func.attr) in (('torch', 'load'), ('yaml', 'load')):
        faults.append(ast.unparse(node))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      if node.func.id in ('eval', 'exec'):
        faults.append(ast.unparse(node))
  return faults


@pytest.mark.parametrize(
    'path', _FILES, ids=lambda p: p.relative_to(_ROOT).as_posix()
)
def test_nothing_unpickles(path):
  assert not _faults(ast.parse(path.read_text(encoding='utf-8')))


@pytest.mark.parametrize(
    'code',
    [
        'import pickle',
        'from joblib import load',
        'np.load(path)',
        'numpy.load(path, allow_pickle=True)',
        'np.savez(file, x=x)',
        'torch.load(path)',
        'eval(text)',
    ],
)
def test_the_search_finds(code):
  assert _faults(ast.parse(code))


class _Bomb:
  """Unpickled, it makes a directory."""

  def __init__(self, path: str):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (self._path,)


@pytest.fixture
def canary(tmp_path):
  """A path that exists once something was unpickled."""
  path = tmp_path / 'unpickled'
  np.save(tmp_path / 'x.npy', np.array([_Bomb(str(path))]), allow_pickle=True)
  np.load(tmp_path / 'x.npy', allow_pickle=True)  # It goes off.
  path.rmdir()
  return path


@pytest.mark.parametrize('write', ['npz', 'npy', 'pickle'])
def test_per_example_values_with_a_pickle(write, canary, tmp_path):
  file = tmp_path / 'values.npz'
  bomb = np.array([_Bomb(str(canary))])
  with file.open('wb') as out:
    if write == 'npz':
      np.savez(out, example_id=bomb, allow_pickle=True)
    elif write == 'npy':
      np.save(out, bomb, allow_pickle=True)
    else:
      pickle.dump(_Bomb(str(canary)), out)
  with pytest.raises(ValueError):
    per_example.read(file)
  assert not canary.exists()


def test_weights_with_a_pickle(canary, tmp_path):
  folder = tmp_path / 'weights'
  folder.mkdir()
  (folder / 'config.json').write_text('{"model_type": "llama"}')
  for name in ('pytorch_model.bin', 'model.safetensors'):
    (folder / name).write_bytes(pickle.dumps(_Bomb(str(canary))))
    with pytest.raises(ValueError, match='safetensors'):
      loading.open_source(str(folder))
  assert not canary.exists()

"""Holds the rules of the tree: who may import what, and how long a file is."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ('user_llm', 'data_prep', 'launch')
_ENTRIES = ('train', 'evaluate', 'infer', 'embed', 'export', 'cost')
# A module may import those of its own or a later layer.
_LAYERS = (
    ('main', 'gin_utils', 'gin_trust', 'check'),
    _ENTRIES,
    (
        'trainer', 'training_run', 'evaluator', 'checkpoints', 'run_logging',
        'report',
    ),
    ('objectives',),
    ('models', 'decoding', 'pretrained'),
    ('partitioning',),
)
_MODEL_CODE = tuple(name for layer in _LAYERS[1:-1] for name in layer)


def _files(*packages: str) -> list[pathlib.Path]:
  return sorted(
      path
      for package in packages
      for path in (_ROOT / package).rglob('*.py')
      if '__pycache__' not in path.parts
  )


def _imports(path: pathlib.Path) -> set[str]:
  """Every dotted name that a file imports, members included."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: no relative imports.'
      names.update(f'{node.module}.{alias.name}' for alias in node.names)
  return names


def _starts_with(name: str, *prefixes: str) -> bool:
  return any(name == p or name.startswith(f'{p}.') for p in prefixes)


def _importers(package: str, prefix: str) -> set[str]:
  return {
      path.relative_to(_ROOT).as_posix()
      for path in _files(package)
      if any(_starts_with(name, prefix) for name in _imports(path))
  }


def _layer(name: str) -> int | None:
  """The layer of 'user_llm.models.decoder', if it has one."""
  parts = name.split('.')
  if parts[0] != 'user_llm' or len(parts) < 2:
    return None
  return next((i for i, layer in enumerate(_LAYERS) if parts[1] in layer), None)


@pytest.mark.parametrize(
    'path', _files('user_llm'), ids=lambda p: p.relative_to(_ROOT).as_posix()
)
def test_dependencies_never_point_upwards(path):
  module = '.'.join(path.relative_to(_ROOT).with_suffix('').parts)
  own = _layer(module)
  if own is None:
    return
  upwards = {
      name
      for name in _imports(path)
      if (layer := _layer(name)) is not None and layer < own
  }
  assert not upwards


def test_data_imports_no_model_code():
  forbidden = tuple(f'user_llm.{name}' for name in (*_MODEL_CODE, 'main'))
  for path in _files('user_llm/data'):
    names = _imports(path)
    assert not {n for n in names if _starts_with(n, *forbidden)}, path
    assert not {n for n in names if _starts_with(n, 'flax', 'optax')}, path


def test_data_prep_knows_only_the_schema_and_the_manifest():
  for path in _files('data_prep'):
    foreign = {
        name
        for name in _imports(path)
        if _starts_with(name, 'user_llm')
        and not _starts_with(
            name, 'user_llm.data.schema', 'user_llm.data.manifest'
        )
    }
    assert not foreign, path
  assert not _importers('user_llm', 'data_prep')


def test_only_the_binary_knows_gin():
  assert _importers('user_llm', 'gin') <= {
      'user_llm/main.py',
      'user_llm/gin_utils.py',
      'user_llm/gin_trust.py',
  }


def test_only_models_and_partitioning_know_linen():
  for importer in _importers('user_llm', 'flax.linen'):
    assert importer.startswith('user_llm/models/') or (
        importer == 'user_llm/partitioning.py'
    ), importer


def test_launch_handles_text_only():
  for path in _files('launch'):
    names = _imports(path)
    assert not {n for n in names if _starts_with(n, 'user_llm', 'jax')}, path
  assert not _importers('user_llm', 'launch')


def test_the_gin_folder_does_not_shadow_gin():
  assert not list((_ROOT / 'gin').rglob('__init__.py'))


def test_tests_have_unique_names_and_no_packages():
  files = list((_ROOT / 'tests').rglob('*.py'))
  assert not [f for f in files if f.name == '__init__.py']
  names = [f.name for f in files if f.name.endswith('_test.py')]
  assert len(names) == len(set(names))


@pytest.mark.parametrize(
    'path',
    _files(*_PACKAGES, 'tests', 'benchmarks'),
    ids=lambda p: p.relative_to(_ROOT).as_posix(),
)
def test_files_and_functions_are_short(path):
  text = path.read_text(encoding='utf-8')
  assert len(text.splitlines()) <= 400
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      # The entry functions' signatures and docstrings are documentation.
      body = node.body[1:] if ast.get_docstring(node) else node.body
      length = node.end_lineno - body[0].lineno + 1 if body else 0
      assert length <= 80, f'{node.name} has {length} lines.'

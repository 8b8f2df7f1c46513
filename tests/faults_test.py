"""Every fault of `faults.md` has tests that exist."""

import ast
import functools
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_ROWS = {
    int(match[1]): match[2]
    for match in re.finditer(
        r'^\| (\d+) \|(.*)\|$',
        (_ROOT / 'tests' / 'faults.md').read_text(encoding='utf-8'),
        re.MULTILINE,
    )
}
_NUM_FAULTS = 36


@functools.cache
def _functions(path: pathlib.Path) -> set[str]:
  tree = ast.parse(path.read_text(encoding='utf-8'))
  return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_all_are_there():
  assert sorted(_ROWS) == list(range(1, _NUM_FAULTS + 1))
  for row in _ROWS.values():
    assert len(row.split('|')) == 3, row


@pytest.mark.parametrize('number', _ROWS)
def test_a_fault_has_tests(number):
  named = re.findall(r'`(tests/[\w/]+\.py)::(test_\w+)`', _ROWS[number])
  applies = 'does not apply: ' not in _ROWS[number]
  assert bool(named) == applies
  for file, name in named:
    assert name in _functions(_ROOT / file), f'{file}::{name}'


def test_the_page_on_security_names_files_that_exist():
  text = (_ROOT / 'SECURITY.md').read_text(encoding='utf-8')
  names = re.findall(r'`((?:tests|launch)/[\w/.]*|\w+_test\.py)`', text)
  assert len(names) > 8
  for name in names:
    assert list(_ROOT.glob(name)) or list(_ROOT.rglob(name)), name

"""Tests of comparing values with annotations."""

from collections.abc import Sequence
import dataclasses

import pytest

from user_llm import signatures


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
  width: int
  rate: float = 0.5
  limit: int | None = None
  names: tuple[str, ...] = ()
  some_names: Sequence[str] | None = None


def _function(*, path: str, flag: bool, files: Sequence[str], free, later: 'X'):
  del path, flag, files, free, later


@pytest.mark.parametrize(
    ['parameter', 'value', 'wanted'],
    [
        ('width', 3, None),
        ('width', 3.0, 'int'),
        ('width', True, 'int'),
        ('width', '3', 'int'),
        ('width', None, None),
        ('rate', 1, None),
        ('rate', 'abc', 'float'),
        ('rate', False, 'float'),
        ('limit', None, None),
        ('limit', 7, None),
        ('limit', 'x', 'int | None'),
        ('limit', 0.5, 'int | None'),
        ('names', 'item', "('item',) (a tuple of one needs a comma)"),
        ('some_names', 'x', "('x',) (a tuple of one needs a comma)"),
        # Not judged: the value or the annotation is no plain one.
        ('names', ('x',), None),
        ('names', 3, None),
        ('width', [1], None),
        ('width', object(), None),
        ('unknown', 3, None),
    ],
)
def test_of_a_class(parameter, value, wanted):
  assert signatures.wrong_type(_Config, parameter, value) == wanted


def test_annotations_that_cannot_be_read_judge_nothing():
  assert signatures.wrong_type(_function, 'path', 3) is None


def _read(*, path: str, flag: bool = False):
  del path, flag


@pytest.mark.parametrize(
    ['parameter', 'value', 'wanted'],
    [('path', 'x', None), ('path', 3, 'str'), ('flag', 1, 'bool')],
)
def test_of_a_function(parameter, value, wanted):
  assert signatures.wrong_type(_read, parameter, value) == wanted

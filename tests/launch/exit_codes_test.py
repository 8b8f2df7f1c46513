"""Tests of the exit codes' contract."""

import pathlib
import re

import pytest

from launch import exit_codes
from user_llm import checkpoints
from user_llm.runtime import lease
from user_llm.runtime import preemption

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('code', [42, 43, 46, 47, 128, 134, 137, 139, 143, 255])
def test_retried(code):
  assert exit_codes.is_retried(code)
  assert code in exit_codes.RETRIED


@pytest.mark.parametrize('code', [0, 1, 2, 41, 44, 45, 48, 126, 127])
def test_not_retried(code):
  assert not exit_codes.is_retried(code)
  assert code not in exit_codes.RETRIED


@pytest.mark.parametrize(
    ('codes', 'code'),
    [
        ([], 0), ([0, 0], 0), ([0, 42], 42), ([42, 137], 42), ([137, 2], 2),
        ([2, 137], 2), ([134, 44, 137], 44), ([137, 134], 137),
    ],
)
def test_one_code_of_many(codes, code):
  assert exit_codes.of_job(codes) == code


def test_of_process():
  assert exit_codes.of_process(-9) == 137
  assert exit_codes.of_process(2) == 2


def test_describe():
  assert exit_codes.describe(42).startswith('exit code 42: preempted')
  assert exit_codes.describe(137) == 'exit code 137: ended by signal 9'
  assert exit_codes.describe(77) == 'exit code 77'


def test_the_trainer_means_the_same():
  assert preemption.EXIT_CODE == exit_codes.PREEMPTED
  assert lease.EXIT_CODE == exit_codes.IN_USE
  assert checkpoints.EXIT_CODE == exit_codes.UNSAVED
  main = (_ROOT / 'user_llm' / 'main.py').read_text(encoding='utf-8')
  (number,) = re.findall(r'^_NOT_FINITE = (\d+)$', main, re.MULTILINE)
  assert int(number) == exit_codes.NOT_FINITE

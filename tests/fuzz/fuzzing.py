"""Cases for parsers of foreign input, how many they are, and how long each.

A parser takes a case or refuses it as the user's mistake, in time; anything
else is a fault of ours: another exception, a hang, or a part of an output.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import inspect
import os
import signal
from typing import Any

import hypothesis
from hypothesis import strategies as st
import pytest

from user_llm import user_errors

_CASE_SECS = 30.0  # By the clock: machines may be busy.
# Values that fields of the wild hold, and some that nobody would write.
NASTY = (
    '', ' ', '0', '-1', '1e309', '-1e309', 'nan', 'inf', '1e5', '0x10', '١٢',
    '9' * 25, '99999999999999999999', '-9223372036854775809', '2147483648',
    'null', 'None', 'true', '\0', '\x1a', '\ufeff', '\u2028', '\r', '\x85',
    '"', '""', "'", '\\', '\\u0000', '\\ud800', '::', '|', ',', '\t', '#', '%',
    '@', '{', '}', '[', ']', '[[', '{}', '[]', '""""', "'''", 'é', '🙂',
    'a' * 5000, '[' * 3000, '{"a":' * 3000, '../../x', '/etc/passwd', '$(id)',
)
_NASTY_BYTES = (
    *(text.encode() for text in NASTY), b'\xff', b'\xc3', b'\xed\xa0\x80',
    b'\xfe\xff', b'\x1f\x8b', b'PK\x03\x04', b'\0' * 64, b'\xff' * 8,
    b'\r\n', b'\n\n\n',
)


class Hung(Exception):
  """A case took longer than any may."""


@contextlib.contextmanager
def time_limit(secs: float = _CASE_SECS) -> Iterator[None]:
  """Raises `Hung` within, when the time is over."""

  def stop(*unused: Any) -> None:
    raise Hung(f'after {secs} s')

  old = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, secs)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def fuzz(
    strategy: st.SearchStrategy, *, quick: int, slow: int
) -> Callable[[Callable[..., None]], Callable[..., None]]:
  """Makes a test of `check(case, **fixtures)` over many cases.

  Args:
    strategy: Of the cases.
    quick: How many in the usual suite: always the same ones.
    slow: How many in the slow suite, if FUZZ_CASES does not say: other ones
      each time.
  """
  slow = int(os.environ.get('FUZZ_CASES', slow))

  def decorate(check: Callable[..., None]) -> Callable[..., None]:
    @pytest.mark.parametrize(
        'num_cases', [quick, pytest.param(slow, marks=pytest.mark.slow)]
    )
    @functools.wraps(check)
    def test(record_property, num_cases, **fixtures):
      count = 0

      @hypothesis.settings(
          max_examples=num_cases,
          derandomize=num_cases == quick,
          database=None,
          deadline=None,
          suppress_health_check=list(hypothesis.HealthCheck),
      )
      @hypothesis.given(strategy)
      def run(case):
        nonlocal count
        count += 1
        with time_limit():
          check(case, **fixtures)

      run()
      record_property('fuzz_cases', count)
      print(f'{count} cases')
      assert count > 0

    parameters = list(check.__code__.co_varnames[: check.__code__.co_argcount])
    return _with_fixtures(test, parameters[1:])

  return decorate


def _with_fixtures(test: Callable[..., None], names: list[str]) -> Any:
  """pytest reads from a signature which fixtures a test takes."""
  kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD
  wanted = ['record_property', 'num_cases', *names]
  test.__signature__ = inspect.Signature(
      [inspect.Parameter(name, kinds) for name in wanted]
  )
  return test


@st.composite
def edited(draw: st.DrawFn, *originals: bytes) -> bytes:
  """A well-formed file with a few edits, or none of it at all."""
  if draw(st.integers(0, 19)) == 0:
    return draw(st.binary(max_size=200))
  data = bytearray(draw(st.sampled_from(originals)))
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(data)))
    stop = min(len(data), at + draw(st.integers(0, 40)))
    kind = draw(st.integers(0, 6))
    if kind == 0 and data:
      data[min(at, len(data) - 1)] ^= 1 << draw(st.integers(0, 7))
    elif kind == 1:
      del data[at:]
    elif kind == 2:
      del data[at:stop]
    elif kind == 3:
      data[at:at] = data[at:stop] * draw(st.integers(1, 50))
    elif kind == 4:
      data[at:stop] = draw(st.binary(max_size=16))
    elif kind == 5:
      data[at:at] = draw(st.sampled_from(_NASTY_BYTES))
    else:
      _replace_token(draw, data, at)
  return bytes(data)


def _replace_token(draw: st.DrawFn, data: bytearray, at: int) -> None:
  """Puts a nasty value where a word or a number stands."""
  start = stop = at
  while start > 0 and chr(data[start - 1]).isalnum():
    start -= 1
  while stop < len(data) and chr(data[stop]).isalnum():
    stop += 1
  data[start:stop] = draw(st.sampled_from(_NASTY_BYTES))


@st.composite
def edited_json(draw: st.DrawFn, *originals: Any) -> Any:
  """A JSON value of which some parts are other JSON values, or missing."""
  value = draw(st.sampled_from(originals))
  for _ in range(draw(st.integers(1, 3))):
    value = _edit(draw, value, draw(st.integers(0, 6)))
  return value


def _edit(draw: st.DrawFn, value: Any, depth: int) -> Any:
  if depth and isinstance(value, dict) and value:
    key = draw(st.sampled_from(sorted(value)))
    kept = {k: v for k, v in value.items() if k != key}
    kind = draw(st.integers(0, 9))
    if kind == 0:
      return kept
    if kind == 1:
      return kept | {draw(st.sampled_from(NASTY)): value[key]}
    return value | {key: _edit(draw, value[key], depth - 1)}
  if depth and isinstance(value, list) and value:
    i = draw(st.integers(0, len(value) - 1))
    if draw(st.integers(0, 9)) == 0:
      return value[:i] + value[i + 1 :]
    return [*value[:i], _edit(draw, value[i], depth - 1), *value[i + 1 :]]
  return draw(json_values())


def json_values() -> st.SearchStrategy:
  """Any JSON value, small, with the nasty ones among them."""
  leaves = (
      st.none() | st.booleans() | st.integers() | st.sampled_from(NASTY)
      | st.floats() | st.text(max_size=8)
      | st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, 2**64, 10**30, 1e300])
  )
  return st.recursive(
      leaves,
      lambda inner: st.lists(inner, max_size=3)
      | st.dictionaries(st.text(max_size=6), inner, max_size=3),
      max_leaves=5,
  )


@contextlib.contextmanager
def only_mistakes(*allowed: type[Exception]) -> Iterator[None]:
  """Lets through what the binary tells the user in one line."""
  try:
    yield
  except Exception as error:  # pylint: disable=broad-exception-caught
    is_told = user_errors.is_user_error(error) or isinstance(error, allowed)
    if not is_told or not user_errors.message(error):
      raise

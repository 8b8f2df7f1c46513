"""Compares plain values with the annotations of the parameters they go to."""

from collections.abc import Callable, Sequence
import inspect
import types
import typing
from typing import Any

_PLAIN = (bool, int, float, str, type(None))
_TEXTS = {tuple[str, ...], Sequence[str]}


def wrong_type(
    function: Callable[..., Any], parameter: str, value: Any
) -> str | None:
  """What the parameter takes, if that is not the value; else None.

  Judges only what is certain: a plain value (bool, int, float, str) and an
  annotation of such types; and a text for a sequence of texts, each letter of
  which would be one. An int is taken as a float; None stands for what is
  not there, in parameters that are not used as well.

  Args:
    function: Or a class.
    parameter: Its name.
    value: What it would be called with.

  Returns:
    'int | None', for instance.
  """
  if value is None or type(value) not in _PLAIN:
    return None
  target = function.__init__ if inspect.isclass(function) else function
  try:
    annotation = typing.get_type_hints(target).get(parameter)
  except NameError:
    return None  # Of names that exist for type checkers alone.
  is_union = isinstance(annotation, types.UnionType)
  allowed = typing.get_args(annotation) if is_union else (annotation,)
  if type(value) is str and str not in allowed and _TEXTS & {*allowed}:
    return f'({value!r},) (a tuple of one needs a comma)'
  if not set(allowed) <= set(_PLAIN):
    return None
  if type(value) in allowed or (type(value) is int and float in allowed):
    return None
  return getattr(annotation, '__name__', None) or str(annotation)

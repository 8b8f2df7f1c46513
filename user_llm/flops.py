"""How many operations a function's matrix products are."""

from collections.abc import Callable, Iterator
import math
from typing import Any

import jax
from jax.extend import core


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
  """Multiplications and additions of all `dot_general`s, nothing compiled.

  Scans count as often as they run, the branches of a condition as the dearest
  one, and what is computed again for gradients counts again. A `while` counts
  once: how often it runs is not known. What nothing reads is not computed.

  Args:
    function: Of arrays.
    *args: Arrays, or their shapes.
  """
  return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: Any) -> int:
  total = 0
  read = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
  for equation in reversed(jaxpr.eqns):
    if not equation.effects and read.isdisjoint(equation.outvars):
      continue
    read.update(v for v in equation.invars if isinstance(v, core.Var))
    name, inner = equation.primitive.name, list(_inner(equation.params))
    if name == 'dot_general':
      total += _dot_general(equation)
    elif name == 'cond':
      total += max(map(_of, inner))
    else:
      times = equation.params['length'] if name == 'scan' else 1
      total += times * sum(map(_of, inner))
  return total


def _dot_general(equation: Any) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return (
      2
      * math.prod(equation.outvars[0].aval.shape)
      * math.prod(left[i] for i in contracted)
  )


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The jaxprs in an equation's parameters."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item

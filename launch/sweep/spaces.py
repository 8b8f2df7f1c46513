"""What a random macro is drawn from."""

from collections.abc import Sequence
import dataclasses
import math
import random
from typing import Any


def _number(x: float, low: float, high: float) -> float | int:
  """Whole between whole bounds; else of four digits, to be read in a table."""
  if type(low) is int and type(high) is int:
    return min(max(round(x), low), high)
  return min(max(float(f'{x:.4g}'), float(low)), float(high))


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Evenly between two numbers; whole ones where both are whole."""

  low: float
  high: float

  def draw(self, rng: random.Random) -> float | int:
    if type(self.low) is int and type(self.high) is int:
      return rng.randint(self.low, self.high)
    return _number(rng.uniform(self.low, self.high), self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Log:
  """Evenly on a logarithmic scale; whole numbers where both are whole."""

  low: float
  high: float

  def draw(self, rng: random.Random) -> float | int:
    x = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
    return _number(x, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some values, each as likely as another."""

  values: Sequence[Any]

  def draw(self, rng: random.Random) -> Any:
    return rng.choice(self.values)


Space = Uniform | Log | Choice


def parse(value: Any) -> Space:
  """Reads {log = [a, b]}, {uniform = [a, b]} or {choice = [...]}.

  Raises:
    ValueError: it is none of them.
  """
  if isinstance(value, dict) and len(value) == 1:
    (kind, values), = value.items()
    if kind == 'choice' and isinstance(values, list) and values:
      return Choice(tuple(values))
    if kind in ('log', 'uniform') and _are_bounds(values):
      low, high = values
      if kind == 'uniform':
        return Uniform(low, high)
      if low > 0:
        return Log(low, high)
  raise ValueError(
      f'{value!r} must be {{log = [LOW, HIGH]}} of positive numbers, {{uniform '
      '= [LOW, HIGH]} or {choice = [VALUES]}, LOW below HIGH.'
  )


def _are_bounds(values: Any) -> bool:
  return (
      isinstance(values, list)
      and len(values) == 2
      and all(type(x) in (int, float) and math.isfinite(x) for x in values)
      and values[0] < values[1]
  )

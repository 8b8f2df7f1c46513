"""What the devices of a compiled program send to each other."""

from collections.abc import Mapping
import dataclasses
import math
import re

_KINDS = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute',
)
_BYTES = {
    'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2,
    'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8,
}
# 'ENTRY %main.12 (...) -> ... {', '%body.3 (...) -> ... {'.
_COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.\-]+) \(.*\{$')
# '%all-reduce.1 = (f32[8,4]{1,0}, f32[]) all-reduce(', with '-start' if async.
_OPERATION = re.compile(
    rf'= (.+?) ({"|".join(_KINDS)})(?:-start)?\('
)
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)='
    r'%?([\w.\-]+)'
)
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_CONDITION = re.compile(r' while\(.*condition=%?([\w.\-]+)')
_BOUND = re.compile(r'= [su]32\[\]\S* constant\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Of one kind, in one run of the program, a device.

  Attributes:
    count: Operations.
    num_bytes: Of their results.
  """

  count: int = 0
  num_bytes: int = 0


def traffic(hlo: str) -> dict[str, Traffic]:
  """Reads an optimised program's text; kinds that it has, in a fixed order.

  A loop counts as often as it runs, where the compiler says that (for TPUs it
  does not) or its condition is to count from 0 to a number; else once.
  """
  lines = _computations(hlo)
  times = _times(lines)
  found: dict[str, Traffic] = {}
  for name, body in lines.items():
    for line in body:
      match = _OPERATION.search(line)
      if match and times.get(name):
        old = found.get(match[2], Traffic())
        found[match[2]] = Traffic(
            old.count + times[name],
            old.num_bytes + times[name] * _result_bytes(match[1], line),
        )
  return {kind: found[kind] for kind in _KINDS if kind in found}


def _computations(hlo: str) -> dict[str, list[str]]:
  """Lines by computation; the entry's name is ''."""
  found: dict[str, list[str]] = {}
  body: list[str] = []
  for line in hlo.splitlines():
    match = None if line.startswith(' ') else _COMPUTATION.match(line)
    if match:
      name = '' if line.startswith('ENTRY') else match[1]
      body = found.setdefault(name, [])
    else:
      body.append(line)
  return found


def _times(lines: Mapping[str, list[str]]) -> dict[str, int]:
  """How often each computation runs."""
  times: dict[str, int] = {}

  def visit(name: str, number: int) -> None:
    times[name] = times.get(name, 0) + number
    for line in lines.get(name, ()):
      each = number * _trips(line, lines)
      for called in _CALLED.findall(line):
        if called in lines:
          visit(called, each)

  visit('', 1)
  return times


def _trips(line: str, lines: Mapping[str, list[str]]) -> int:
  """How often an operation runs what it calls."""
  said = _TRIPS.search(line)
  if said:
    return int(said[1])
  condition = _CONDITION.search(line)
  text = '\n'.join(lines.get(condition[1], ())) if condition else ''
  bounds = _BOUND.findall(text)
  is_counting = len(bounds) == 1 and text.count('direction=LT') == 1
  return int(bounds[0]) if is_counting else 1


def _result_bytes(shapes: str, line: str) -> int:
  """Of an async start, whose result has its operands too, the last half."""
  sizes = [
      _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(',') if n)
      for dtype, dims in _ARRAY.findall(shapes)
  ]
  if '-start(' in line and len(sizes) > 1 and 'all-reduce-start' not in line:
    sizes = [s for s in sizes if s > 8]  # Without contexts.
    sizes = sizes[len(sizes) // 2 :]
  return sum(sizes)

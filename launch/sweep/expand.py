"""From a sweep to its trials, and what a trial is called."""

from collections.abc import Iterator, Mapping
import hashlib
import itertools
import json
import random

from launch.sweep import spec as spec_lib

# {macro: value as gin writes it}
Bindings = dict[str, spec_lib.Text]


def variants(spec: spec_lib.SweepSpec) -> list[Bindings]:
  """What each trial overrides, SEED included; no two are spelt the same.

  The draws of [random] are made for every combination of [grid] and [[zip]].
  Points follow each other, with all seeds of one before the next.
  """
  found = {}
  for point in _points(spec):
    for seed in spec.seeds:
      bindings = {**point, spec_lib.SEED: str(seed)}
      found.setdefault(tuple(sorted(bindings.items())), bindings)
  return list(found.values())


def _points(spec: spec_lib.SweepSpec) -> Iterator[Bindings]:
  axes = [
      [{macro: option} for option in options]
      for macro, options in spec.grid.items()
  ]
  axes += [
      [dict(zip(group, options)) for options in zip(*group.values())]
      for group in spec.zips
      if group
  ]
  axes.append([draw(spec, i) for i in range(spec.draws)])
  for parts in itertools.product(*axes):
    point = dict(spec.fixed)
    for part in parts:
      point |= part
    yield from _with_conditions(spec, point)


def draw(spec: spec_lib.SweepSpec, index: int) -> Bindings:
  """Draw number `index` of [random].

  Each value has a generator of its own, so that neither more draws nor another
  macro changes those that were made before.
  """
  return {
      macro: spec_lib.drawn_text(
          space.draw(random.Random(f'{spec.draw_seed}/{index}/{macro}'))
      )
      for macro, space in spec.spaces.items()
  }


def _with_conditions(
    spec: spec_lib.SweepSpec, point: Bindings
) -> Iterator[Bindings]:
  """The point with the macros of [when] that apply to it, all combinations."""
  points = [point]
  for when in spec.whens:
    points = [
        {**p, when.macro: option} if option is not None else p
        for p in points
        for option in (when.values if _applies(when, p) else (None,))
    ]
  yield from points


def _applies(when: spec_lib.When, point: Bindings) -> bool:
  return all(
      point.get(macro) in options for macro, options in when.conditions.items()
  )


def trial_id(values: Mapping[str, str], base: Mapping[str, str]) -> str:
  """A trial's name: 8 hex digits of what it changes.

  Args:
    values: {macro: value as gin reads and writes it again}, so that 1 and 1.0
      are one value of a macro that is a float, and two of one that is an int.
    base: The macros of the gin files alone. What a trial sets to the very same
      value is no change: a sweep that is extended by a macro still knows the
      trials that had its default.
  """
  changes = {k: v for k, v in values.items() if base.get(k) != v}
  text = json.dumps(changes, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def varying(
    variant_values: list[Mapping[str, str]], order: list[str]
) -> list[str]:
  """The macros without SEED that differ among trials, in the order given."""
  return [
      macro
      for macro in order
      if macro != spec_lib.SEED
      and len({values.get(macro) for values in variant_values}) > 1
  ]

"""Tests of expansion by counting, and of the names of trials."""

import math
import pathlib
import subprocess
import sys

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from launch.sweep import expand
from launch.sweep import spaces
from launch.sweep import spec as spec_lib

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_OBJECTIVE = spec_lib.Objective(metric='x', is_max=True)


def _spec(**fields):
  return spec_lib.SweepSpec(
      name='n', base=['a.gin'], objective=_OBJECTIVE, **fields
  )


def _options(count):
  return tuple(str(i) for i in range(count))


@settings(max_examples=60, deadline=None)
@given(
    grid=st.lists(st.integers(1, 4), max_size=3),
    zips=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=2
    ),
    draws=st.integers(1, 4),
    seeds=st.integers(1, 3),
    values=st.integers(1, 3),
)
def test_counts(grid, zips, draws, seeds, values):
  """Products of the options; a condition splits the points it applies to."""
  spec = _spec(
      grid={f'G{i}': _options(n) for i, n in enumerate(grid)},
      zips=[
          {f'Z{i}_{j}': _options(length) for j in range(width)}
          for i, (width, length) in enumerate(zips)
      ],
      spaces={'U': spaces.Uniform(0.0, 1e9)},
      draws=draws,
      seeds=list(range(seeds)),
      fixed={'F': '1'},
      whens=[
          spec_lib.When(
              macro='W', conditions={'G0': ('0',)}, values=_options(values)
          )
      ],
  )
  found = expand.variants(spec)
  points = math.prod(grid) * math.prod(n for _, n in zips) * draws
  applies = points // grid[0] if grid else 0
  assert len(found) == seeds * (points - applies + applies * values)
  assert len({tuple(sorted(v.items())) for v in found}) == len(found)
  for variant in found:
    assert variant['F'] == '1'
    assert ('W' in variant) == (variant.get('G0') == '0')
    for i, (width, _) in enumerate(zips):
      assert len({variant[f'Z{i}_{j}'] for j in range(width)}) == 1


def test_conditions_may_follow_each_other():
  spec = _spec(
      grid={'A': ('1', '2')},
      whens=[
          spec_lib.When(macro='B', conditions={'A': ('2',)}, values=('3', '4')),
          spec_lib.When(macro='C', conditions={'B': ('4',)}, values=('5',)),
      ],
  )
  points = [
      {k: v for k, v in variant.items() if k != 'SEED'}
      for variant in expand.variants(spec)
  ]
  assert points == [
      {'A': '1'}, {'A': '2', 'B': '3'}, {'A': '2', 'B': '4', 'C': '5'}
  ]


def test_the_same_twice_is_once():
  assert len(expand.variants(_spec(grid={'A': ('1', '2', '1')}))) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_draws_stay_what_they_were(seed, draws):
  """More draws and more macros change none of those before."""
  a = {'A': spaces.Log(1e-4, 1e-1)}
  few = _spec(spaces=a, draws=draws, draw_seed=seed)
  many = _spec(
      spaces={'B': spaces.Choice(('x', 'y')), **a},
      draws=draws + 3,
      draw_seed=seed,
  )
  drawn = [expand.draw(few, i)['A'] for i in range(draws)]
  assert drawn == [expand.draw(many, i)['A'] for i in range(draws)]
  assert all(1e-4 <= float(text) <= 1e-1 for text in drawn)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 1000), st.randoms())
def test_whole_bounds_give_whole_numbers(low, width, rng):
  for space in (spaces.Log, spaces.Uniform):
    value = space(low, low + width).draw(rng)
    assert type(value) is int and low <= value <= low + width
    value = space(low + 0.123456, low + width + 0.5).draw(rng)
    assert low + 0.123456 <= value <= low + width + 0.5


def test_a_logarithmic_scale():
  """Each factor of ten is as likely as another."""
  spec = _spec(spaces={'A': spaces.Log(1e-4, 1e-1)}, draws=3000)
  drawn = [float(expand.draw(spec, i)['A']) for i in range(3000)]
  counts = [
      sum(10.0**k <= x < 10.0 ** (k + 1) for x in drawn) for k in (-4, -3, -2)
  ]
  # 1,000 each, with a standard deviation of 26.
  assert all(abs(count - 1000) < 130 for count in counts)


_VALUES = st.dictionaries(
    st.from_regex(r'[A-Z][A-Z0-9_]{0,8}', fullmatch=True),
    st.text(max_size=8),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(_VALUES, st.randoms())
def test_a_name_does_not_depend_on_the_order(values, rng):
  items = list(values.items())
  rng.shuffle(items)
  name = expand.trial_id(values, {})
  assert expand.trial_id(dict(items), {}) == name
  assert len(name) == 8 and int(name, 16) >= 0


@settings(max_examples=100, deadline=None)
@given(_VALUES, _VALUES)
def test_names_differ_where_values_do(a, b):
  assert (expand.trial_id(a, {}) == expand.trial_id(b, {})) == (a == b)


@settings(max_examples=100, deadline=None)
@given(_VALUES, _VALUES)
def test_what_the_base_has_is_no_change(values, base):
  assert expand.trial_id({**values, **base}, base) == expand.trial_id(
      {k: v for k, v in values.items() if k not in base}, base
  )


def test_a_name_is_the_same_in_every_process():
  values = {'LEARNING_RATE': '0.001', 'SEED': '3', 'NAME': "'ä'"}
  code = (
      'from launch.sweep import expand; '
      f'print(expand.trial_id({dict(reversed(values.items()))!r}, {{}}))'
  )
  names = {
      subprocess.run(
          [sys.executable, '-c', code], check=True, text=True,
          stdout=subprocess.PIPE, cwd=_ROOT, env={'PYTHONHASHSEED': seed},
      ).stdout.strip()
      for seed in ('1', '2')
  }
  assert names == {expand.trial_id(values, {})}


def test_varying():
  values = [{'A': '1', 'SEED': '0'}, {'A': '1', 'B': '2', 'SEED': '1'}]
  assert expand.varying(values, ['B', 'A', 'SEED']) == ['B']

"""Tests of traces: which steps are in them, and which are refused."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from user_llm.runtime import profiling


def _traced_steps(workdir):
  """Steps by trace."""
  traces = []
  for path in sorted((workdir / 'profile').rglob('*.trace.json.gz')):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    traces.append([
        int(event['args']['step_num'])
        for event in events
        if event.get('name') == 'train'
    ])
  return traces


def _run(profile, steps):
  double = jax.jit(lambda x: x + x)
  x = jnp.ones(8)
  for step in steps:
    profile.before(step, x)
    x = double(x)
    profile.after(step, x)


def test_only_those_steps(tmp_path):
  profile = profiling.Profile(str(tmp_path), (3, 4))
  _run(profile, range(1, 7))
  profile.close()
  assert _traced_steps(tmp_path) == [[3, 4]]


def test_stopped_in_the_middle(tmp_path):
  profile = profiling.Profile(str(tmp_path), (2, 9))
  _run(profile, range(1, 4))
  profile.close()
  assert _traced_steps(tmp_path) == [[2, 3]]
  # And another trace can be made.
  _run(profile, range(2, 10))
  profile.close()


@pytest.mark.parametrize('steps', [None, (2, 3)])
def test_nothing_to_trace(tmp_path, steps):
  profile = profiling.Profile(str(tmp_path), steps)
  _run(profile, range(4, 7))
  profile.close()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'steps',
    [
        5, (5,), (5, 3), (0, 2), (3, 11), (1.0, 2), ('1', '2'), (1, 2, 3),
        (True, 2), '12',
    ],
)
def test_refused(steps):
  with pytest.raises(ValueError, match='PROFILE_STEPS is .*NUM_STEPS=10'):
    profiling.check_steps(steps, 10)


@pytest.mark.parametrize('steps', [None, (1, 10), [3, 3]])
def test_allowed(steps):
  profiling.check_steps(steps, 10)

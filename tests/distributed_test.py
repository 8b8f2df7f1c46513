"""Tests of how a process learns that it is one of several."""

import jax
import pytest

from user_llm import distributed


@pytest.fixture(name='calls')
def _calls(monkeypatch):
  calls = []
  monkeypatch.setattr(
      jax.distributed, 'initialize', lambda *a, **kw: calls.append((a, kw))
  )
  return calls


def test_alone(calls):
  # What SLURM sets in a shell of its own must not make the process wait.
  assert distributed.initialize({'SLURM_JOB_ID': '1', 'SLURM_PROCID': '0'})
  assert not calls


def test_given(calls):
  assert distributed.initialize({
      'JAX_COORDINATOR_ADDRESS': 'host-0:1234',
      'JAX_NUM_PROCESSES': '4',
      'JAX_PROCESS_ID': '3',
  })
  assert calls == [
      (('host-0:1234', 4, 3), {'cluster_detection_method': 'deactivate'})
  ]


def test_found_by_jax(calls, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'auto')
  distributed.initialize()
  assert calls == [((), {})]


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, 'JAX_PROCESS_ID is not: set all'),
        ({'JAX_PROCESS_ID': '1'}, 'JAX_COORDINATOR_ADDRESS'),
        (
            {
                'JAX_COORDINATOR_ADDRESS': 'a:1',
                'JAX_NUM_PROCESSES': 'two',
                'JAX_PROCESS_ID': '0',
            },
            "JAX_NUM_PROCESSES='two' must be a number",
        ),
    ],
)
def test_half_given(calls, environment, message):
  with pytest.raises(ValueError, match=message):
    distributed.initialize(environment)
  assert not calls

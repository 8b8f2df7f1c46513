"""Tests of how a process learns that it is one of several."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from user_llm.runtime import distributed


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
  # JAX's own end of waiting is an abort: ours comes before.
  assert calls == [(('host-0:1234', 4, 3), {
      'cluster_detection_method': 'deactivate', 'initialization_timeout': 360,
  })]


def test_found_by_jax(calls, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'auto')
  distributed.initialize()
  assert calls == [((), {'initialization_timeout': 360})]


_STEP = {'SLURM_JOB_ID': '1', 'SLURM_STEP_NUM_TASKS': '4', 'SLURM_PROCID': '3'}


@pytest.mark.parametrize(
    'environment', [_STEP, {'TPU_WORKER_HOSTNAMES': 'host-0,host-1'}]
)
def test_a_cluster_that_jax_knows(calls, environment):
  distributed.initialize(environment)
  assert calls == [((), {'initialization_timeout': 360})]


@pytest.mark.parametrize(
    'environment',
    [
        _STEP | {'SLURM_STEP_NUM_TASKS': '1'},
        {'TPU_WORKER_HOSTNAMES': 'localhost'},
        _STEP | {'JAX_NUM_PROCESSES': '1'},  # As a sweep starts its trials.
    ],
)
def test_alone_in_a_cluster(calls, environment):
  assert distributed.initialize(environment)
  assert not calls


def test_how_many_are_waited_for():
  code = (
      'import time, jax\n'
      'from user_llm.runtime import distributed\n'
      'jax.distributed.initialize = lambda **kwargs: time.sleep(60)\n'
      'distributed.initialize(warn_secs=1, timeout_secs=2)\n'
  )
  done = subprocess.run(
      [sys.executable, '-c', code], env={**os.environ, **_STEP},
      capture_output=True, text=True, timeout=60, check=False,
  )
  assert done.returncode == 43
  assert 'not all 4 processes have arrived in 1 s' in done.stderr


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


def _free_address():
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{sock.getsockname()[1]}'


def test_the_others_do_not_come():
  """Processes 0 and 1 of 3; and a process 1 that finds no process 0."""
  code = (
      'from user_llm.runtime import distributed\n'
      'distributed.initialize(warn_secs=2, timeout_secs=5)\n'
  )
  present, absent = _free_address(), _free_address()
  processes = [
      subprocess.Popen(
          [sys.executable, '-c', code],
          env={
              **os.environ,
              'JAX_COORDINATOR_ADDRESS': address,
              'JAX_NUM_PROCESSES': '3',
              'JAX_PROCESS_ID': process,
          },
          stderr=subprocess.PIPE,
          text=True,
      )
      for address, process in ((present, '0'), (present, '1'), (absent, '1'))
  ]
  errors = [process.communicate(timeout=60)[1] for process in processes]
  for process, error in zip(processes, errors):
    assert process.returncode == 43, error
    for start in ('warning', 'error'):
      assert f'{start}: process ' in error
    assert 'waited 2 s' in error and 'waited 5 s' in error
    assert 'stack trace' not in error and 'Traceback' not in error
  assert 'process 0 of 3' in errors[0] and 'one worker only' in errors[0]
  assert f'nothing answers at {absent}' in errors[2]

"""The batch step of a SLURM job, with an srun of a few lines."""

import os
import subprocess
import sys

import pytest

from launch import slurm_batch


@pytest.fixture(name='batch')
def _batch(tmp_path, monkeypatch):
  """Runs the batch step, where `srun` is a script; returns its exit code."""

  def batch(script):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\n' + script)
    srun.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setattr('signal.signal', lambda *_: None)
    return slurm_batch.main([f'--logs={tmp_path}/logs', '--', 'rank'])

  return batch


def test_ranks_get_the_cpus_that_were_asked_for(batch, monkeypatch):
  monkeypatch.setenv('SLURM_CPUS_PER_TASK', '12')
  assert batch('test "$SRUN_CPUS_PER_TASK" = 12') == 0


def test_cpus_that_were_not_asked_for(batch, monkeypatch):
  monkeypatch.delenv('SLURM_CPUS_PER_TASK', raising=False)
  assert batch('test -z "${SRUN_CPUS_PER_TASK+set}"') == 0


def test_the_mistake_of_one_rank(batch):
  assert batch('''
echo 'srun: error: n1: task 0: Exited with exit code 2' >&2
echo 'srun: error: n1: task 1: Terminated' >&2
exit 143''') == 2


def test_jax_takes_the_gpus_that_it_is_told():
  """What `backends.slurm` builds on: without it, one of them."""
  code = '''
import jax
jax.distributed.initialize()
print(jax._src.config.config._read("jax_cuda_visible_devices"))
'''
  step = {
      'SLURM_JOB_ID': '9', 'SLURM_STEP_NODELIST': 'localhost',
      'SLURM_NTASKS': '1', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0',
      'JAX_LOCAL_DEVICE_IDS': '0,1,2,3', 'JAX_PLATFORMS': 'cpu',
  }
  found = subprocess.run(
      [sys.executable, '-c', code], env={**os.environ, **step},
      capture_output=True, text=True, check=False,
  )
  assert found.stdout == '0,1,2,3\n', found.stderr

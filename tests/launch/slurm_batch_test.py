"""The batch step of a SLURM job, with an srun of a few lines."""

import os

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

"""Jobs on a real one-node SLURM cluster, and on local processes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import slurm_cluster

from user_llm import checkpoints

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_GIN = '''
include 'models/user_encoder.gin'
include 'runs/pretrain_encoder.gin'

ENCODER_LAYERS = 1
ENCODER_DIM = 16
ENCODER_HEADS = 2
ENCODER_MLP_DIM = 16
HISTORY_LENGTH = 12
NUM_STEPS = 400
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
WARMUP_STEPS = 2
LOG_EVERY_STEPS = 1
SAVE_EVERY_STEPS = 1000
'''
pytestmark = pytest.mark.slow


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('jobs')
  (folder / 'tiny.gin').write_text(_GIN)
  return folder


@pytest.fixture(name='cluster', scope='module')
def _cluster(tmp_path_factory):
  reason = slurm_cluster.missing()
  if reason:
    pytest.skip(reason)
  with slurm_cluster.running(tmp_path_factory.mktemp('slurm')) as environment:
    yield environment


def _environment(folder, base=None):
  return {
      **(base or os.environ),
      'PYTHONPATH': str(_ROOT),
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '',  # One device a process.
      'XDG_CACHE_HOME': str(folder / 'cache'),
  }


def _launch(folder, *argv, cluster=None):
  result = subprocess.run(
      [sys.executable, '-m', 'launch', *argv], cwd=folder,
      env=_environment(folder, cluster), capture_output=True, text=True,
      check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


def _run_flags(folder, data_dir, name):
  return (
      'run', f'--name={name}', f'--workdir={folder / name}',
      f'--gin_file={folder / "tiny.gin"}', f'--gin.DATA_DIR="{data_dir}"',
      f'--python={sys.executable}',
  )


def _losses(workdir):
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.is_file() else []
  rows = [json.loads(line) for line in lines if line.endswith('}')]
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}


def _wait(condition, what, secs=900):
  end = time.monotonic() + secs
  while not condition():
    assert time.monotonic() < end, f'not in {secs} s: {what()}'
    time.sleep(0.1)


def _job(cluster, number):
  """{'JobState': 'RUNNING', ...}."""
  text = subprocess.run(
      ['scontrol', '--oneliner', 'show', 'job', number], env=cluster,
      capture_output=True, text=True, check=True,
  ).stdout
  return dict(word.split('=', 1) for word in text.split() if '=' in word)


def _command(cluster, *argv):
  subprocess.run(argv, env=cluster, check=True)



@pytest.fixture(name='whole', scope='module')
def _whole(folder, tiny_dataset):
  """The workdir of an uninterrupted run of two local processes."""
  flags = _run_flags(folder, tiny_dataset, 'whole')
  out = _launch(folder, *flags, '--on=local:2')
  return folder / 'whole', out


def test_local_processes(whole):
  workdir, out = whole
  assert (workdir / 'DONE').exists()
  assert list(_losses(workdir)) == list(range(1, 401))
  logs = [
      (workdir / 'logs' / 'whole' / f'rank-{rank:04d}.log').read_text()
      for rank in range(2)
  ]
  assert out == logs[0]
  for rank, log in enumerate(logs):
    assert f'rank {rank}, host' in log
    assert 'step 400/400' in log
  assert 'step 400' in _launch(workdir.parent, 'status', 'whole')
  assert _launch(workdir.parent, 'logs', 'whole', '--rank=1') == logs[1]


def test_a_process_is_killed(whole, folder, tiny_dataset):
  """The other one ends too; both start again from the last checkpoint."""
  workdir = folder / 'killed'
  argv = (
      *_run_flags(folder, tiny_dataset, 'killed'), '--on=local:2',
      '--gin.SAVE_EVERY_STEPS=50',
  )
  process = subprocess.Popen(
      [sys.executable, '-m', 'launch', *argv], cwd=folder,
      env=_environment(folder), stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True,
  )
  try:
    _wait(lambda: max(_losses(workdir), default=0) > 110, lambda: argv)
    log = (workdir / 'logs/killed/rank-0001.log').read_text()
    os.kill(int(re.search(r'process (\d+)', log)[1]), signal.SIGKILL)
    out, _ = process.communicate(timeout=900)
  finally:
    process.kill()
  assert process.returncode == 0, out
  assert 'ended by signal 9' in out and 'restart in 1 s' in out
  starts = (workdir / 'launch.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] >= 50 for row in starts] == [False, True]
  assert _losses(workdir) == _losses(whole[0])


def test_the_life_of_a_job(whole, folder, cluster, tiny_dataset):
  flags = _run_flags(folder, tiny_dataset, 'job')
  workdir = folder / 'job'
  out = _launch(
      folder, *flags, '--on=slurm', '--processes_per_node=2', '--time=0:30:00',
      '--slurm_args=--overcommit', cluster=cluster,
  )
  number = out.strip()

  def describe():
    logs = [*workdir.glob('logs/*/*'), folder / 'runs/launch/job/batch.log']
    texts = [p.read_text()[-2000:] for p in logs if p.is_file()]
    return '\n'.join([str(_job(cluster, number)), *texts])

  _wait(lambda: len(_losses(workdir)) > 5, describe)
  # As where the time is up or another job needs the node.
  _command(cluster, 'scancel', '--signal=TERM', number)
  _wait(lambda: _job(cluster, number)['JobState'] == 'PENDING', describe)
  (saved,) = [int(p.name) for p in (workdir / 'checkpoints').iterdir()]
  assert 5 < saved < 400
  logs = [
      (workdir / 'logs' / 'job' / f'rank-{rank:04d}.log').read_text()
      for rank in range(2)
  ]
  for log in logs:
    assert f'SIGTERM: saving step {saved}, the last one.' in log
  assert _job(cluster, number)['Restarts'] == '1'
  # SLURM lets a requeued job wait for two minutes, and slurmd refuses one that
  # starts in the very second in which it ended.
  time.sleep(2)
  _command(cluster, 'scontrol', 'update', f'JobId={number}', 'StartTime=now')
  _wait(lambda: (workdir / 'DONE').exists(), describe)
  _wait(
      lambda: _job(cluster, number)['JobState'] == 'COMPLETED', describe
  )

  starts = (workdir / 'launch.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in starts] == [0, saved]
  assert _losses(workdir) == _losses(whole[0])
  found, wanted = (
      checkpoints.Checkpoints(str(path)).load_params(400)
      for path in (workdir, whole[0])
  )
  assert found.keys() == wanted.keys()
  for key, value in wanted.items():
    np.testing.assert_array_equal(found[key], value, key)
  assert f'JobId={number}' in _launch(folder, 'status', 'job', cluster=cluster)


_RANK = '''
import os, signal, sys, time
rank = int(os.environ['SLURM_PROCID'])
def until_told(code):
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
  print('ready', flush=True)
  time.sleep(120)
'''


@pytest.fixture(name='submit')
def _submit(cluster, tmp_path):
  """Submits two ranks of a few lines; gives number and folder."""

  def submit(code):
    script = tmp_path / 'exec.sh'
    script.write_text('#!/bin/sh\nexec "$@"\n')
    argv = [
        'sbatch', '--parsable', '--ntasks=2', '--overcommit', '--requeue',
        '--open-mode=append', f'--output={tmp_path}/batch.log', str(script),
        sys.executable, '-m', 'launch.slurm_batch', f'--logs={tmp_path}/logs',
        '--', sys.executable, '-c', _RANK + code,
    ]
    number = subprocess.run(
        argv, env=_environment(tmp_path, cluster), capture_output=True,
        text=True, check=True,
    ).stdout.strip()
    return number, tmp_path

  return submit


def test_one_rank_makes_a_mistake(cluster, submit):
  number, folder = submit('if rank == 0: sys.exit(2)\ntime.sleep(120)')
  _wait(
      lambda: _job(cluster, number)['JobState'] == 'FAILED',
      lambda: _job(cluster, number),
  )
  # What srun returns is 143, the other rank's end.
  assert _job(cluster, number)['ExitCode'] == '2:0'
  assert 'exit code 2: a mistake' in (folder / 'batch.log').read_text()


def test_a_killed_rank_is_requeued(cluster, submit):
  number, _ = submit('os.kill(os.getpid(), signal.SIGKILL)')
  _wait(
      lambda: _job(cluster, number)['JobState'] == 'PENDING'
      and _job(cluster, number)['Restarts'] == '1',
      lambda: _job(cluster, number),
  )
  _command(cluster, 'scancel', number)


def test_a_stopped_job_is_not_requeued(cluster, submit, folder):
  from launch import spec as spec_lib
  from launch.backends import slurm

  number, logs = submit('until_told(42)')
  _wait(
      lambda: all(
          (logs / 'logs' / f'rank-000{r}.log').is_file()
          and 'ready' in (logs / 'logs' / f'rank-000{r}.log').read_text()
          for r in range(2)
      ),
      lambda: _job(cluster, number),
  )
  spec = spec_lib.JobSpec(
      name='a', workdir='a', on='slurm', gin_file=('x',), code='c'
  )
  for step in slurm.Slurm().stop(spec, number):
    subprocess.run(step.argv, env=cluster, check=True)
  _wait(
      lambda: _job(cluster, number)['JobState'] == 'FAILED',
      lambda: _job(cluster, number),
  )
  assert _job(cluster, number)['ExitCode'] == '42:0'
  assert _job(cluster, number)['Restarts'] == '0'


def test_doctor(cluster, folder, tiny_dataset):
  flags = _run_flags(folder, tiny_dataset, 'checked')[1:]
  out = _launch(folder, 'doctor', *flags, '--on=slurm', cluster=cluster)
  assert 'ok    sbatch would take the job' in out
  assert 'FAIL' not in out

"""Tests of the process that becomes the trainer."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import command
from launch import entry
from user_llm.runtime import starts

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(name='trainer')
def _trainer(tmp_path):
  """A `user_llm.main` that tells what it was given; returns its PYTHONPATH."""
  package = tmp_path / 'path' / 'user_llm'
  package.mkdir(parents=True)
  (package / '__init__.py').touch()
  (package / 'main.py').write_text('''
import json, os, sys
names = ('A', 'SECRET', 'JAX_PROCESS_ID', 'USER_LLM_STARTS_LINE')
print(json.dumps([sys.argv[1:], {n: os.environ.get(n) for n in names}]))
sys.exit(7)
''')
  (tmp_path / 'path' / 'launch').symlink_to(_ROOT / 'launch')
  return str(tmp_path / 'path')


def _run(trainer, args, **environment):
  return subprocess.run(
      [sys.executable, '-m', 'launch.entry', *args],
      env={**os.environ, 'PYTHONPATH': trainer, **environment},
      cwd='/', capture_output=True, text=True, check=False,
  )


def _args(workdir, *more):
  return [
      '--job=a', '--submission=1', f'--workdir={workdir}', *more, '--', 'train',
      'x y', "it's",
  ]


@pytest.mark.parametrize('is_packed', [False, True])
def test_becomes_the_trainer(trainer, tmp_path, is_packed):
  secret = tmp_path / 'secret'
  secret.write_text('canary-4711\n')
  secret.chmod(0o600)
  args = _args(tmp_path / 'w', '--env=A=1=2 3', f'--secret=SECRET=file:{secret}')
  if is_packed:
    args = [command.pack(tuple(args))]
  result = _run(trainer, args)
  assert result.returncode == 7, result.stderr
  found, environment = json.loads(result.stdout)
  assert found == ['train', 'x y', "it's"]
  assert (environment['A'], environment['SECRET']) == (
      '1=2 3', 'canary-4711'
  )
  assert json.loads(environment['USER_LLM_STARTS_LINE'])['step'] == 0
  assert 'launch: a, submission 1, rank 0, host' in result.stderr
  assert 'canary' not in result.stderr
  assert not (tmp_path / 'w').exists()  # The trainer writes, when all have met.


def test_a_secret_that_others_can_read(trainer, tmp_path):
  secret = tmp_path / 'secret'
  secret.write_text('abc')
  secret.chmod(0o644)
  result = _run(
      trainer, _args(tmp_path / 'w', f'--secret=SECRET=file:{secret}')
  )
  assert result.returncode == 2
  assert f'chmod 600 {secret}' in result.stderr


def test_process_id_of_a_pod(trainer, tmp_path):
  result = _run(
      trainer, _args(tmp_path / 'w', '--env=JAX_NUM_PROCESSES=4'),
      JOB_COMPLETION_INDEX='3',
  )
  environment = json.loads(result.stdout)[1]
  assert environment['JAX_PROCESS_ID'] == '3'
  assert environment['USER_LLM_STARTS_LINE'] is None  # The first one counts.


@pytest.mark.parametrize(
    ('environment', 'is_first'),
    [
        ({}, True),
        ({'JAX_PROCESS_ID': '0'}, True),
        ({'JAX_PROCESS_ID': '1'}, False),
        ({'SLURM_PROCID': '0'}, True),
        ({'SLURM_PROCID': '2'}, False),
        ({'JOB_COMPLETION_INDEX': '0', 'MEGASCALE_SLICE_ID': '1'}, False),
        ({'JOB_COMPLETION_INDEX': '0', 'MEGASCALE_SLICE_ID': '0'}, True),
        ({'USER_LLM_WORKER': '4'}, False),
    ],
)
def test_first(environment, is_first):
  assert entry.is_first(environment) == is_first


def _start(workdir, job='a', submission=1):
  """A start whose processes meet, unless it is refused; whether it is not."""
  line = entry.next_start(workdir, job, submission)
  starts.note({
      starts.FILE: str(workdir / entry.STARTS), starts.LINE: line or ''
  })
  return line is not None


def test_no_progress(tmp_path, capsys):
  for _ in range(4):  # The first start and three restarts.
    assert _start(tmp_path)
  assert not _start(tmp_path)
  assert 'python -m launch resume a' in capsys.readouterr().err
  # Another job, or the same one submitted again, starts its count anew.
  assert _start(tmp_path, job='b')
  assert _start(tmp_path, submission=2)


def test_progress_starts_the_count_anew(tmp_path):
  for step in range(10):
    (tmp_path / 'checkpoints' / str(step)).mkdir(parents=True)
    for _ in range(3):
      assert _start(tmp_path)


def test_newest_step(tmp_path):
  assert entry.newest_step(tmp_path) == 0
  for name in ('4', '12', '20.orbax-checkpoint-tmp', 'other'):
    (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  assert entry.newest_step(tmp_path) == 12


def test_stale_lock(tmp_path):
  lock, device = tmp_path / 'lock', tmp_path / 'accel0'
  lock.touch()
  device.touch()
  with device.open():
    entry.remove_stale_lock(str(lock), [str(tmp_path / 'accel*')])
    assert lock.exists()
  entry.remove_stale_lock(str(lock), [str(tmp_path / 'accel*')])
  assert not lock.exists()
  entry.remove_stale_lock(str(lock))

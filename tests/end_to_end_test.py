"""The command line from a gin file to a report: exit codes and files."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_GIN = '''
include 'models/user_encoder.gin'
include 'runs/pretrain_encoder.gin'

ENCODER_LAYERS = 1
ENCODER_DIM = 16
ENCODER_HEADS = 2
ENCODER_MLP_DIM = 16
HISTORY_LENGTH = 12
NUM_STEPS = 8
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
WARMUP_STEPS = 2
LOG_EVERY_STEPS = 1
SAVE_EVERY_STEPS = 4
'''


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('command_line')
  (folder / 'tiny.gin').write_text(_GIN)
  return folder


def _command(folder, mode, *flags):
  return {
      'args': [sys.executable, '-m', 'user_llm.main', mode, *flags],
      'cwd': pathlib.Path(__file__).parents[1],
      'env': {
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': '',  # One device.
          'XDG_CACHE_HOME': str(folder / 'cache'),
      },
      'stdout': subprocess.PIPE,
      'stderr': subprocess.PIPE,
      'text': True,
  }


def _run(folder, mode, *flags):
  return subprocess.run(**_command(folder, mode, *flags), check=False)


def _train_flags(folder, data_dir, workdir, *more):
  return (
      f'--gin_file={folder / "tiny.gin"}',
      f'--gin.DATA_DIR="{data_dir}"',
      f'--workdir={workdir}',
      *more,
  )


def _losses(workdir):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {
      row['step']: row['train/loss'] for row in rows if 'train/loss' in row
  }


def test_train_and_evaluate(folder, tiny_dataset):
  workdir = folder / 'run'
  result = _run(folder, 'train', *_train_flags(folder, tiny_dataset, workdir))
  assert result.returncode == 0, result.stderr
  assert list(_losses(workdir)) == list(range(1, 9))
  for name in (
      'config.gin', 'operative_config.gin', 'run.json', 'DONE', 'checkpoints',
      'eval/tiny_events/8-validation.json',
  ):
    assert (workdir / name).exists(), name
  info = json.loads((workdir / 'run.json').read_text())
  assert info['command'].startswith('python -m user_llm.main train')

  result = _run(folder, 'evaluate', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  assert 'tiny_events test: n=24' in result.stdout
  path = workdir / 'eval' / 'tiny_events' / '8.json'
  found = json.loads(path.read_text())
  assert found['split'] == 'test'
  assert (workdir / 'operative_config.evaluate.gin').exists()


def test_a_wrong_folder(folder, tmp_path):
  workdir = tmp_path / 'run'
  result = _run(folder, 'train', *_train_flags(folder, '/nowhere', workdir))
  assert result.returncode == 2
  assert result.stderr.startswith('error: /nowhere/schema.json does not exist')
  assert 'DATA_DIR' in result.stderr and result.stderr.count('\n') == 1
  assert not workdir.exists()


@pytest.mark.slow
def test_killed_and_started_again(folder, tiny_dataset, tmp_path):
  """SIGKILL at an arbitrary moment; the losses are the same bit by bit."""
  steps = ('--gin.NUM_STEPS=400', '--gin.SAVE_EVERY_STEPS=20')
  flags = _train_flags(folder, tiny_dataset, tmp_path / 'whole', *steps)
  assert _run(folder, 'train', *flags).returncode == 0
  workdir = tmp_path / 'killed'
  flags = _train_flags(folder, tiny_dataset, workdir, *steps)
  process = subprocess.Popen(**_command(folder, 'train', *flags))
  metrics = workdir / 'metrics.jsonl'
  while not metrics.exists() or metrics.read_text().count('\n') < 50:
    time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (workdir / 'DONE').exists()
  result = _run(folder, 'train', *flags)
  assert result.returncode == 0, result.stderr
  assert _losses(workdir) == _losses(tmp_path / 'whole')
  spent = json.loads((workdir / 'run.json').read_text())['goodput']
  assert spent['sessions'] == 2 and spent['down'] > 0 and spent['steps'] > 0
  assert 'goodput ' in result.stdout

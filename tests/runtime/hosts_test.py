"""Tests of what hosts tell each other, with two processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from user_llm.runtime import hosts

_ROOT = pathlib.Path(__file__).parents[2]
# Gloo's threads print too, and into other lines: with the errors.
_START = '''
import os, sys
sys.stdout = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
from user_llm.runtime import distributed
distributed.initialize()
from user_llm.runtime import hosts
process = int(os.environ['JAX_PROCESS_ID'])
'''
_COMPARE = _START + '''
hosts.check_same(configuration='SEED = 0')
hosts.introduce(data='events 12ab')
for secs in ((0.5, 0.25), (0.25, 2)):
  found = hosts.slowest(secs[process])
  print({name: float(value) for name, value in found.items()})
try:
  text = f'SEED = {process}\\nRATE = 1\\n' + process * 'X'
  hosts.check_same(configuration=text)
except ValueError as error:
  print('refused:', error)
'''
# Process 1's input is slow.
_TRAIN = _START + '''
sys.path.insert(0, 'tests')
import time
import small_run
from user_llm import train
from user_llm.data import pipeline
original = pipeline.Dataset.train_batches
def slow(self, **kwargs):
  for batch in original(self, **kwargs):
    time.sleep(0.2 * process)
    yield batch
pipeline.Dataset.train_batches = slow
data, workdir = sys.argv[1:]
train.train(**small_run.arguments(
    data, workdir, evaluators=(), log_every_steps=6,
))
'''


def _run_two(*commands):
  """Exit codes, outputs and errors of two processes."""
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{sock.getsockname()[1]}'
  processes = [
      subprocess.Popen(
          [sys.executable, *command],
          cwd=_ROOT,
          env={
              **os.environ,
              'XLA_FLAGS': '',  # One device a process.
              'JAX_COORDINATOR_ADDRESS': address,
              'JAX_NUM_PROCESSES': '2',
              'JAX_PROCESS_ID': str(i),
          },
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
      )
      for i, command in enumerate(commands)
  ]
  found = [process.communicate(timeout=300) for process in processes]
  return [(p.returncode, *texts) for p, texts in zip(processes, found)]


def test_alone(capsys):
  hosts.check_same(configuration='SEED = 0')
  hosts.introduce(data='events 12ab')
  assert hosts.slowest(1.0) == {}
  assert capsys.readouterr().out == ''


def test_two_hosts():
  found = _run_two(['-c', _COMPARE], ['-c', _COMPARE])
  name = socket.gethostname()
  for process, (code, output, error) in enumerate(found):
    assert code == 0, error
    lines = output.splitlines()
    assert lines[0].startswith(f'process {process} of 2 on {name}: device(s) ')
    assert ' of 2 x cpu; configuration ' in lines[0] and ', data ' in lines[0]
    assert lines[1:3] == [
        "{'slowest_host_secs': 0.5, 'slowest_host': 0.0}",
        "{'slowest_host_secs': 2.0, 'slowest_host': 1.0}",
    ]
    # The same on both, and only the lines that differ.
    assert lines[3] == (
        'refused: The hosts do not have the same configuration: process(es) '
        f'1 ({name}) beside process 0 ({name}): process 0 has `SEED = 0`, '
        'process 1 has `SEED = 1; X`. Start all with the same flags, files and '
        'data.'
    )


@pytest.mark.slow
def test_a_straggler_stands_out(tiny_dataset, tmp_path):
  command = ['-c', _TRAIN, tiny_dataset, str(tmp_path / 'run')]
  for code, output, error in _run_two(command, command):
    assert code == 0, error
    assert 'data ' in output
  rows = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  row = json.loads(rows[-1])
  assert row['train/time/slowest_host'] == 1
  assert row['train/time/slowest_host_secs'] >= 0.2
  assert row['train/time/host_secs'] < row['train/time/slowest_host_secs']


@pytest.mark.slow
def test_hosts_with_other_flags_are_refused(tiny_dataset, tmp_path):
  gin_file = tmp_path / 'tiny.gin'
  gin_file.write_text(
      "include 'models/user_encoder.gin'\n"
      "include 'runs/pretrain_encoder.gin'\n"
      'NUM_STEPS = 8\nBATCH_SIZE = 8\nLEARNING_RATE = 1e-2\n'
      'HISTORY_LENGTH = 12\n'
  )
  flags = [
      '-m', 'user_llm.main', 'train', f'--gin_file={gin_file}',
      f'--gin.DATA_DIR="{tiny_dataset}"', f'--workdir={tmp_path / "run"}',
  ]
  for code, _, error in _run_two(flags, [*flags, '--gin.SEED=7']):
    assert code == 2, error
    assert 'process 0 has `SEED = 0`, process 1 has `SEED = 7`' in error
    assert 'Traceback' not in error
  assert not (tmp_path / 'run').exists()

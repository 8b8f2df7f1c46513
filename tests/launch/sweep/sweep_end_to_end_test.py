"""A sweep of real trainings, from the command to best.gin."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[3]
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
_TOML = '''
[sweep]
name = 'tiny'
base = ['{folder}/tiny.gin']
objective = 'max eval/tiny_events/encoder_head/recall@10/unseen'
seeds = [0, 1]
[set]
DATA_DIR = '{data}'
[grid]
LEARNING_RATE = [1e-2, 1]
'''


@pytest.fixture(name='run')
def _run(tmp_path, tiny_dataset):
  (tmp_path / 'tiny.gin').write_text(_GIN)
  text = _TOML.format(folder=tmp_path, data=tiny_dataset)
  (tmp_path / 's.toml').write_text(text)

  def run(*args):
    return subprocess.run(
        [sys.executable, '-m', *args],
        cwd=_ROOT,
        env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': '',
            'XDG_CACHE_HOME': str(tmp_path / 'cache'),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

  return run


def test_mistakes_of_gin_are_found_first(run, tmp_path):
  with (tmp_path / 's.toml').open('a') as file:
    file.write('ENCODER_HEADS = [2, 3]\nNUM_STEP = [1]\n')
  out = tmp_path / 'out'
  result = run('launch', 'sweep', str(tmp_path / 's.toml'), f'--out={out}')
  assert result.returncode == 2
  assert '8 of 8 trials cannot run' in result.stderr
  assert 'Did you mean NUM_STEPS' in result.stderr
  assert not out.exists()


@pytest.mark.slow
def test_two_rates_and_two_seeds(run, tmp_path):
  out = tmp_path / 'out'
  command = ('launch', 'sweep', str(tmp_path / 's.toml'), f'--out={out}')
  result = run(*command)
  assert result.returncode == 0, result.stderr
  trials = {
      (t['bindings']['LEARNING_RATE'], t['seed']): path.parent
      for path in out.glob('trials/*/trial.json')
      if (t := json.loads(path.read_text()))
  }
  assert set(trials) == {(0.01, 0), (0.01, 1), (1.0, 0), (1.0, 1)}
  means = {}
  for (rate, seed), folder in trials.items():
    assert (folder / 'run' / 'DONE').exists()
    path = folder / 'run' / 'eval' / 'tiny_events' / '8-validation.json'
    evaluation = json.loads(path.read_text())
    assert evaluation['seed'] == seed
    recall = evaluation['models']['encoder_head']['recall@10/unseen']['mean']
    means[rate] = means.get(rate, 0.0) + recall / 2
    assert f'LEARNING_RATE = {rate}' in (folder / 'config.gin').read_text()
  best = max(means, key=means.get)
  text = (out / 'results.md').read_text()
  assert f'fingerprint {evaluation["split_fingerprint"]}, n = ' in text
  assert 'seen items removed.' in text and 'NOT comparable' not in text
  first_row = text.splitlines()[6]
  assert first_row.startswith(f'| {best} | **{means[best]:.4g}')

  assert run(*command).returncode == 0
  for folder in trials.values():
    assert len((folder / 'attempts.jsonl').read_text().splitlines()) == 1
  # What is written as the best can be trained as it stands.
  result = run(
      'user_llm.main', 'train', f'--gin_file={out / "best.gin"}',
      '--gin.NUM_STEPS=9', f'--workdir={tmp_path / "again"}',
  )
  assert result.returncode == 0, result.stderr
  config = (tmp_path / 'again' / 'config.gin').read_text()
  assert f'LEARNING_RATE = {best}' in config

"""Embeddings of users equal those of the encoder by itself."""

import dataclasses
import json
import os
import types

import gin
import jax
import numpy as np
import pytest
import small_run
import small_user_llm

from user_llm import embed as embed_lib
from user_llm import main as main_lib
from user_llm import restore
from user_llm.data import requests
from user_llm.models import user_encoder
from user_llm.objectives import cloze

_LENGTHS = (3, 1, 15, 12)


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
  gin.clear_config()
  yield
  gin.clear_config()


def _write_users(path):
  lines = [
      {
          'user': f'u{n}',
          'history': [
              {'item': f's{(7 * n + i) % 40 + 1}', 'rating': i % 5 + 1}
              for i in range(n)
          ],
      }
      for n in _LENGTHS
  ]
  path.write_text('\n'.join(map(json.dumps, lines)))
  return str(path)


def _alone(dataset, encoder, params, path):
  """[n, D] of each user, without padding and without other rows."""
  reader = requests.RequestReader(dataset.schema, dataset.catalogue)
  apply = jax.jit(user_encoder.UserEncoder(encoder).apply)
  found = []
  for request in reader.read(path):
    events = request.events[-12:]
    ids = {
        name: np.array([[e[name] for e in events]])
        for name in dataset.schema.names
    }
    positions = np.arange(len(events))[None]
    variables = {'params': params['user_encoder']}
    found.append(
        apply(variables, ids, positions, np.ones_like(positions))[0]
    )
  return found


def _check(found, want):
  assert found['user'].tolist() == [f'u{n}' for n in _LENGTHS]
  assert found['length'].tolist() == [3, 1, 12, 12]
  assert found['sequence'].shape == (4, 12, 16)
  assert found['sequence'].dtype == found['embedding'].dtype == np.float32
  for i, each in enumerate(want):
    num = len(each)
    np.testing.assert_allclose(found['sequence'][i, :num], each, atol=1e-4)
    assert not found['sequence'][i, num:].any()
    np.testing.assert_array_equal(
        found['embedding'][i], found['sequence'][i, num - 1]
    )


@pytest.mark.parametrize('config', ['ENCODER', 'LATE_FUSION', 'DUAL_ENCODER'])
def test_encoder_from_the_command_line(config, tmp_path, tiny_dataset):
  parts, params = small_user_llm.write_workdir(
      tmp_path / 'run', getattr(small_user_llm, config), DATA_DIR=tiny_dataset
  )
  users = _write_users(tmp_path / 'users.jsonl')
  output = tmp_path / 'out' / 'users.npz'
  flags = (f'--workdir={tmp_path / "run"}', f'--output={output}')
  assert main_lib.main(['embed', f'--input={users}', *flags]) == 0
  encoder = (
      parts['objective'].model.user_encoder if config == 'DUAL_ENCODER'
      else parts['objective'].encoder
  )
  assert ('transformers' in params['user_encoder']) == (config == 'LATE_FUSION')
  want = _alone(parts['dataset'], encoder, params, users)
  _check(np.load(output), want)
  assert os.listdir(output.parent) == ['users.npz']


def test_contextualised(tmp_path, tiny_dataset, tiny_vocabulary):
  parts, params = small_user_llm.write_workdir(
      tmp_path / 'run',
      small_user_llm.USER_LLM,
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )
  users = _write_users(tmp_path / 'users.jsonl')
  embed_lib.embed(
      workdir=str(tmp_path / 'run'),
      input=users,
      output=str(tmp_path / 'users.npz'),
      run=small_user_llm.trained_run(parts),
      rows=3,  # Fewer than devices.
  )
  encoder = parts['objective'].model.user_encoder
  want = _alone(parts['dataset'], encoder, params, users)
  _check(np.load(tmp_path / 'users.npz'), want)


def test_bad_input(tmp_path, tiny_dataset, capsys):
  small_user_llm.write_workdir(
      tmp_path / 'run', small_user_llm.ENCODER, DATA_DIR=tiny_dataset
  )
  users = tmp_path / 'users.jsonl'
  users.write_text('{"history": [{"item": "s99", "rating": 1}]}')
  output = tmp_path / 'users.npz'
  flags = (f'--workdir={tmp_path / "run"}', f'--output={output}')
  assert main_lib.main(['embed', f'--input={users}', *flags]) == 2
  error = capsys.readouterr().err
  assert f"{users}, line 1: item 's99' is neither an id nor" in error
  assert not list(tmp_path.glob('users.npz*'))


def test_an_output_that_cannot_be_written_is_told_first(
    tmp_path, tiny_dataset, capsys, monkeypatch
):
  small_user_llm.write_workdir(
      tmp_path / 'run', small_user_llm.ENCODER, DATA_DIR=tiny_dataset
  )
  monkeypatch.setattr(
      restore.TrainedRun, 'params', lambda *_: pytest.fail('Loaded.')
  )
  users = _write_users(tmp_path / 'users.jsonl')
  flags = (f'--workdir={tmp_path / "run"}', f'--output={tmp_path}')
  assert main_lib.main(['embed', f'--input={users}', *flags]) == 2
  assert f'{tmp_path} is a directory; name a file' in capsys.readouterr().err


def test_an_objective_of_another_kind(tiny_dataset):
  """All that is asked of it is its encoder; then the input is read."""
  objective = types.SimpleNamespace(
      encoder=small_run.objective(str(tiny_dataset)).encoder
  )
  run = small_run.trained_run(str(tiny_dataset), objective=objective)
  with pytest.raises(ValueError, match='--input=none does not exist'):
    embed_lib.embed(workdir='own', input='none', output='none', run=run)


def test_an_encoder_that_reads_both_sides(tiny_dataset):
  encoder = small_run.objective(str(tiny_dataset)).encoder
  objective = cloze.Cloze(encoder=dataclasses.replace(encoder, causal=False))
  run = small_run.trained_run(str(tiny_dataset), objective=objective)
  with pytest.raises(ValueError, match='reads both sides of an event'):
    embed_lib.embed(workdir='bert4rec', input='none', output='none', run=run)


def test_a_run_without_users(tmp_path, tiny_dataset, tiny_vocabulary):
  config = small_user_llm.USER_LLM.replace('contextualize', 'pretrain_lm')
  drop = (
      'TARGETS_PER', '_CHECKPOINT', 'TASK_SHARES', 'BEAM_SIZE', "include 'data/"
  )
  lines = [
      line for line in config.splitlines(keepends=True)
      if not any(name in line for name in drop)
  ]
  parts, _ = small_user_llm.write_workdir(
      tmp_path / 'run',
      ''.join(lines),
      DATA_DIR=tiny_dataset,
      VOCABULARY=tiny_vocabulary,
  )
  with pytest.raises(ValueError, match='without a user encoder'):
    embed_lib.embed(
        workdir=str(tmp_path / 'run'), input='none', output='none',
        run=small_user_llm.trained_run(parts),
    )

"""What is exported computes what the run's decoder did, LoRA included."""

import json
import pathlib
import re

import gin
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
import small_user_llm

from user_llm import export as export_lib
from user_llm import main as main_lib
from user_llm import train_state
from user_llm.data import tokenizer as tokenizer_lib
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.models import decoder
from user_llm.pretrained import loading

_LORA = small_user_llm.USER_LLM + "include 'strategies/lora.gin'\n"
# Of a pretrained decoder, to be trained for a few steps.
_RUN = small_user_llm.USER_LLM + '''
include 'models/decoder_pretrained.gin'
include 'strategies/lora.gin'
EVALUATORS = []
INIT_FROM = [%DECODER_SOURCE]
NUM_STEPS = 3
WARMUP_STEPS = 1
CROSS_ATTENTION_HEADS = 2
CROSS_ATTENTION_HEAD_DIM = 8
LORA_RANK = 2
'''
_FILES = {'config.json', 'model.safetensors', 'tokenizer.model'}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
  gin.clear_config()
  yield
  gin.clear_config()


def _main(*args):
  gin.clear_config()
  return main_lib.main([str(arg) for arg in args])


def _export(workdir, output, *flags):
  return _main('export', f'--workdir={workdir}', f'--output={output}', *flags)


def _logits(config, params, tokens):
  def forward(module, tokens):
    return module.logits(module(tokens)[0])

  module = decoder.Decoder(config)
  return jax.jit(
      lambda p: module.apply({'params': p}, tokens, method=forward)
  )(params)


def _tensors(folder):
  return safetensors_numpy.load_file(pathlib.Path(folder) / 'model.safetensors')


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  """A workdir with LoRA, its parts and parameters."""
  workdir = tmp_path_factory.mktemp('export') / 'run'
  parts, params = small_user_llm.write_workdir(
      workdir, _LORA, DATA_DIR=tiny_dataset, VOCABULARY=tiny_vocabulary,
      TRAINABLE=('.*',),
  )
  return workdir, parts, params


def test_logits_and_tokens_are_the_runs(run, tmp_path, tiny_vocabulary):
  workdir, parts, params = run
  output = tmp_path / 'out' / 'decoder'
  assert _export(workdir, output) == 0
  assert {path.name for path in output.iterdir()} == _FILES
  assert [path.name for path in output.parent.iterdir()] == ['decoder']
  mine = parts['objective'].model.decoder
  config = loading.load_config(
      path=str(output), cross_attention=mine.cross_attention
  )
  assert any('/lora_b/' in p for p in train_state.flatten(params['decoder']))
  tokens = np.random.default_rng(0).integers(1, 99, (2, 9)).astype(np.int32)
  np.testing.assert_allclose(
      _logits(config, loading.load_params(str(output), config), tokens),
      _logits(mine, params['decoder'], tokens),
      rtol=1e-5, atol=1e-5,
  )
  text = 'Film 7 (1957)'
  found, want = tokenizer_lib.load(str(output)), vocabulary_lib.load(
      tiny_vocabulary
  )
  assert found.encode(text) == want.encode(text)
  assert (found.eos_id, found.bos_id) == (want.eos_id, vocabulary_lib.BOS_ID)


def test_bfloat16(run, tmp_path):
  workdir, _, _ = run
  assert _export(workdir, tmp_path / 'a', '--gin.EXPORT_DTYPE="bfloat16"') == 0
  assert {x.dtype.name for x in _tensors(tmp_path / 'a').values()} == {
      'bfloat16'
  }


def test_from_weights_through_lora_to_weights(
    tmp_path, tiny_dataset, tiny_weights
):
  """Of what is frozen, every bit comes back; changes have LoRA's rank."""
  config = tmp_path / 'run.gin'
  config.write_text(_RUN)
  workdir = tmp_path / 'run'
  assert _main(
      'train', f'--gin_file={config}', f'--workdir={workdir}',
      f'--gin.DATA_DIR="{tiny_dataset}"', f'--gin.WEIGHTS="{tiny_weights}"',
  ) == 0
  info = json.loads((workdir / 'run.json').read_text())
  assert info['num_trainable'] < info['num_params']
  assert _export(workdir, tmp_path / 'decoder') == 0
  got, want = _tensors(tmp_path / 'decoder'), _tensors(tiny_weights)
  assert got.keys() == want.keys()
  for name, value in got.items():
    if 'self_attn' in name:
      change = value - want[name]
      assert np.linalg.matrix_rank(change, tol=1e-5) == 2, name
    else:
      np.testing.assert_array_equal(value, want[name], name)


@pytest.mark.parametrize(
    ['flag', 'message'],
    [
        ('--gin.EXPORT_DTYPE="int8"', "EXPORT_DTYPE must be one of .*'int8'"),
        ('--gin.decoder_config.DecoderConfig.logits_softcap=3.0',
         'logits_softcap=3.0; it cannot be exported'),
        ('--gin.STEP=7', r'No checkpoint of step 7; there are \[3\]'),
        ('--gin.VOCABULARY="none.model"', 'none.model'),
    ],
)
def test_what_cannot_be_exported(run, tmp_path, capsys, flag, message):
  assert _export(run[0], tmp_path / 'out', flag) == 2
  assert re.search(f'^error: .*{message}', capsys.readouterr().err)
  assert not list(tmp_path.glob('out*'))


def test_an_output_that_exists(run, tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').touch()
  assert _export(run[0], tmp_path / 'out') == 2
  assert f'{tmp_path / "out"} exists already' in capsys.readouterr().err
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']


def test_a_run_without_a_decoder(tmp_path, tiny_dataset, capsys):
  small_user_llm.write_workdir(
      tmp_path / 'run', small_user_llm.ENCODER, DATA_DIR=tiny_dataset
  )
  assert _export(tmp_path / 'run', tmp_path / 'out') == 2
  assert 'is of a run without a decoder' in capsys.readouterr().err


def test_nothing_is_half_written(run, tmp_path, tiny_vocabulary, monkeypatch):
  workdir, parts, _ = run

  def broken(self, folder):
    assert (folder / 'model.safetensors').is_file()
    raise OSError('No space left on device')

  monkeypatch.setattr(tokenizer_lib.Tokenizer, 'write', broken)
  with pytest.raises(OSError, match='No space left'):
    export_lib.export(
        workdir=str(workdir), output=str(tmp_path / 'out'),
        run=small_user_llm.trained_run(parts), tokenizer=tiny_vocabulary,
    )
  assert not list(tmp_path.glob('out*'))

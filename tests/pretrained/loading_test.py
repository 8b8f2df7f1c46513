"""Loading: shards, meshes, what does not fit; and export back."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from user_llm import partitioning
from user_llm import train_state
from user_llm.models import cross_attention
from user_llm.models import lora
from user_llm.pretrained import exporting
from user_llm.pretrained import hugging_face
from user_llm.pretrained import layout
from user_llm.pretrained import loading

_TINY = pathlib.Path(__file__).parent / 'tiny'
_CROSS = cross_attention.CrossAttentionConfig(every=2)


def _config(family, **kwargs):
  path = str(_TINY / family)
  return loading.load_config(path=path, cross_attention=_CROSS, **kwargs)


def _tensors(folder):
  found = {}
  for file in folder.glob('*.safetensors'):
    found |= safetensors_numpy.load_file(file)
  return found


@pytest.fixture
def copy(tmp_path):
  """Copies a tiny model, to be spoilt."""
  return lambda family: pathlib.Path(
      shutil.copytree(_TINY / family, tmp_path / family)
  )


def test_parts_of_parameters_are_put_where_the_mesh_has_them():
  config = _config('qwen2')
  path = str(_TINY / 'qwen2')
  mesh = partitioning.MeshConfig(data=4, model=2).make()
  got = train_state.flatten(loading.load_params(path, config, mesh))
  want = train_state.flatten(loading.load_params(path, config))
  kernel = got['groups/layers_1/mlp/up/kernel']
  assert tuple(kernel.sharding.spec) == (None, 'data', 'model')
  assert kernel.addressable_shards[0].data.shape == (1, 4, 12)
  assert got.keys() == want.keys()
  for name, value in got.items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, want[name])


def test_layers_are_stacked_in_their_order():
  params = loading.load_params(str(_TINY / 'gemma3'), _config('gemma3'))
  tensors = _tensors(_TINY / 'gemma3')
  for layer, got in (
      (2, params['groups']['layers_0']['mlp']['up']['kernel'][1]),
      (5, params['groups']['layers_1']['mlp']['up']['kernel'][2]),
      (6, params['rest']['layers_0']['mlp']['up']['kernel']),
  ):
    want = tensors[f'model.layers.{layer}.mlp.up_proj.weight']
    np.testing.assert_array_equal(got, want.T.astype(np.float32))


def test_parameters_can_be_bfloat16():
  params = loading.load_params(
      str(_TINY / 'llama2'), _config('llama2'), dtype=ml_dtypes.bfloat16
  )
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16'}


@pytest.mark.parametrize('family', ['gemma3', 'llama3', 'mistral', 'qwen3'])
def test_an_export_has_the_very_same_tensors(family, tmp_path):
  config = _config(family)
  params = loading.load_params(str(_TINY / family), config)
  exporting.export(
      params, config, str(tmp_path), dtype=ml_dtypes.bfloat16,
      shard_bytes=9_000,
  )
  assert len(list(tmp_path.glob('*.safetensors'))) > 1
  got, want = _tensors(tmp_path), _tensors(_TINY / family)
  assert got.keys() == want.keys()
  for name in got:
    np.testing.assert_array_equal(got[name], want[name], name)
  assert loading.load_config(path=str(tmp_path), cross_attention=_CROSS) == (
      config
  )
  with pytest.raises(ValueError, match='exists already'):
    exporting.export(params, config, str(tmp_path))


def test_an_export_into_the_current_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = _config('llama2')
  params = loading.load_params(str(_TINY / 'llama2'), config)
  exporting.export(params, config, '.')
  assert set(os.listdir('.')) == {'config.json', 'model.safetensors'}
  assert not list(tmp_path.parent.glob('*.partial'))


def test_token_0_is_moved_and_moved_back(tmp_path):
  """Where it is text: to a new row, or in exchange with a spare one."""
  source = _tensors(_TINY / 'qwen3')
  for zero_token_id in (75, 80):
    config = dataclasses.replace(
        _config('qwen3'),
        vocab_size=max(80, zero_token_id + 1),
        zero_token_id=zero_token_id,
    )
    params = loading.load_params(str(_TINY / 'qwen3'), config)
    table = np.asarray(params['embed']['table'])
    want = source[layout.EMBEDDINGS].astype(np.float32)
    np.testing.assert_array_equal(table[zero_token_id], want[0])
    np.testing.assert_array_equal(table[1:75], want[1:75])
    np.testing.assert_array_equal(
        params['lm_head']['kernel'][:, zero_token_id],
        source['lm_head.weight'][0].astype(np.float32),
    )
    folder = tmp_path / str(zero_token_id)
    exporting.export(params, config, str(folder), dtype=ml_dtypes.bfloat16)
    for name, value in _tensors(folder).items():
      np.testing.assert_array_equal(value, source[name], name)
    assert json.loads((folder / 'config.json').read_text())['vocab_size'] == 80


def test_weights_of_another_family_or_size_are_named():
  path = str(_TINY / 'llama2')
  with pytest.raises(ValueError, match=r'llama.*qk_norm|llama.*num_kv_heads'):
    loading.load_params(path, _config('qwen3'))
  other = dataclasses.replace(_config('llama2'), num_layers=4)
  with pytest.raises(ValueError, match='num_layers is 3 there and 4'):
    loading.load_params(path, other)


def test_a_tokenizer_with_another_vocabulary_is_named(tiny_vocabulary):
  with pytest.raises(ValueError, match=r'has \d+ tokens and the .* have 80: VO'):
    _config('llama2', vocabulary=tiny_vocabulary)


def test_half_a_shard_and_no_shard_are_named(copy):
  folder = copy('qwen3')
  config = _config('qwen3')
  shard = folder / 'model-00002-of-00004.safetensors'
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(ValueError, match=r'00002-of-00004.*only a part'):
    loading.load_params(str(folder), config)
  shard.unlink()
  with pytest.raises(ValueError, match=r'00002-of-00004.*no such file'):
    loading.load_params(str(folder), config)


def test_a_shard_of_another_model_is_named(copy):
  folder = copy('qwen3')
  names = [folder / f'model-0000{i}-of-00004.safetensors' for i in (1, 2)]
  shutil.copy(names[0], names[1])
  with pytest.raises(ValueError, match=r'00002-of.*other tensors'):
    loading.open_source(str(folder))


@pytest.mark.parametrize('change', ['missing', 'left_over', 'shape', 'dtype'])
def test_tensors_that_do_not_fit_are_named(copy, change):
  folder = copy('llama2')
  tensors = _tensors(folder)
  name = 'model.layers.1.mlp.up_proj.weight'
  message = r"1 are missing \['model.layers.1.mlp.up_proj.weight'\]"
  if change == 'missing':
    del tensors[name]
  elif change == 'left_over':
    tensors['model.layers.7.odd'] = tensors[name]
    message = r"1 are left over \['model.layers.7.odd'\]"
  elif change == 'shape':
    tensors[name] = tensors[name][:, :8].copy()
    message = r'layers.1.mlp.up_proj.weight has shape \(24, 8\)'
  else:
    tensors[name] = np.zeros(tensors[name].shape, np.int32)
    message = 'layers.1.mlp.up_proj.weight is I32'
  safetensors_numpy.save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(ValueError, match=message):
    loading.load_params(str(folder), _config('llama2'))


def test_a_tied_head_may_be_in_the_file_too(copy):
  """As in Qwen 3 0.6B and 1.7B."""
  folder = copy('smollm2')
  config = _config('smollm2')
  assert config.tied_embeddings
  want = loading.load_params(str(folder), config)
  tensors = _tensors(folder)
  tensors['lm_head.weight'] = tensors[layout.EMBEDDINGS].copy()
  safetensors_numpy.save_file(tensors, folder / 'model.safetensors')
  got = loading.load_params(str(folder), config)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  tensors['lm_head.weight'][3] += 1
  safetensors_numpy.save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(ValueError, match='set tie_word_embeddings to false'):
    loading.load_params(str(folder), config)


def test_buffers_that_the_decoder_computes_are_no_parameters(copy):
  folder = copy('llama2')
  tensors = _tensors(folder)
  tensors['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.zeros(2, 'f')
  safetensors_numpy.save_file(tensors, folder / 'model.safetensors')
  loading.load_params(str(folder), _config('llama2'))


def test_paths_without_weights_are_named(tmp_path, copy):
  with pytest.raises(ValueError, match='absent: no such weights'):
    loading.open_source(str(tmp_path / 'absent'))
  with pytest.raises(ValueError, match='config.json: no such file'):
    loading.open_source(str(tmp_path))
  folder = copy('llama2')
  (folder / 'config.json').write_text('{"model_type":')
  with pytest.raises(ValueError, match='is not JSON'):
    loading.open_source(str(folder))
  (folder / 'config.json').write_text('{"model_type": "gpt2"}')
  with pytest.raises(ValueError, match="'gpt2' is not a family"):
    loading.load_config(path=str(folder))


def test_a_run_takes_what_the_weights_have_and_starts_the_rest_anew():
  config = _config('llama2')
  mesh = partitioning.MeshConfig().make()
  weights = loading.Pretrained(path=str(_TINY / 'llama2'), config=config)
  want = loading.load_params(weights.path, config, mesh)
  inside = {
      f'decoder/{k}': v for k, v in train_state.flatten(want).items()
  }
  others = {
      'decoder/groups/cross_attention/gate': np.zeros(2),
      'decoder/rest/layers_0/mlp/up/lora_a/kernel': np.zeros((8, 2)),
      'projection/kernel': np.zeros((2, 2)),
  }
  got = weights.load({**inside, **others}, {})
  assert got.keys() == inside.keys()
  with pytest.raises(ValueError, match=r"\['groups/layers_0/bias'\]"):
    weights.load({**inside, 'decoder/groups/layers_0/bias': np.zeros(2)}, {})


def test_weights_have_no_lora():
  config = _config('qwen2', lora=lora.LoraConfig())
  assert config.lora == lora.LoraConfig()
  got = loading.load_params(str(_TINY / 'qwen2'), config)
  want = loading.load_params(str(_TINY / 'qwen2'), _config('qwen2'))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_directory_is_read_lazily_and_named_as_one():
  directory = hugging_face.Directory(_TINY / 'qwen3')
  assert directory.shapes['model.layers.0.self_attn.q_norm.weight'] == (10,)
  assert directory.read('lm_head.weight').dtype == ml_dtypes.bfloat16

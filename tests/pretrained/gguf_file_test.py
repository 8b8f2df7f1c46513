"""GGUF: models written here as llama.cpp's converter writes them."""

import json
import pathlib

import gguf
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from user_llm.data import gguf_header
from user_llm.models import cross_attention
from user_llm.models import decoder
from user_llm.models import positions
from user_llm.pretrained import layout
from user_llm.pretrained import loading

_TINY = pathlib.Path(__file__).parent / 'tiny'
_ARCHITECTURES = {
    'gemma2': gguf.MODEL_ARCH.GEMMA2,
    'gemma3': gguf.MODEL_ARCH.GEMMA3,
    'llama2': gguf.MODEL_ARCH.LLAMA,
    'llama3': gguf.MODEL_ARCH.LLAMA,
    'qwen2': gguf.MODEL_ARCH.QWEN2,
    'qwen3': gguf.MODEL_ARCH.QWEN3,
    'smollm2': gguf.MODEL_ARCH.LLAMA,
}


def _permuted(weights, num_heads):
  """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
  return (
      weights.reshape(
          num_heads, 2, weights.shape[0] // num_heads // 2, weights.shape[1]
      )
      .swapaxes(1, 2)
      .reshape(weights.shape)
  )


def _write(
    family, path, kind=gguf.GGMLQuantizationType.F32, extra=(), said=(),
    base=True,
):
  """Writes a tiny model; matrices in `kind` where their rows fit its blocks."""
  raw = json.loads((_TINY / family / 'config.json').read_text())
  architecture = _ARCHITECTURES[family]
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
  num_layers = raw['num_hidden_layers']
  heads, kv_heads = raw['num_attention_heads'], raw['num_key_value_heads']
  head_dim = raw.get('head_dim') or raw['hidden_size'] // heads
  writer.add_block_count(num_layers)
  writer.add_embedding_length(raw['hidden_size'])
  writer.add_feed_forward_length(raw['intermediate_size'])
  writer.add_context_length(raw['max_position_embeddings'])
  writer.add_head_count(heads)
  writer.add_head_count_kv(kv_heads)
  writer.add_key_length(head_dim)
  writer.add_layer_norm_rms_eps(raw['rms_norm_eps'])
  rope = raw['rope_parameters']
  rope = rope.get('full_attention', rope)
  if base:
    writer.add_rope_freq_base(rope['rope_theta'])
  for name, value in said:
    add = writer.add_string if isinstance(value, str) else writer.add_float32
    add(f'{gguf.MODEL_ARCH_NAMES[architecture]}.{name}', value)
  if family == 'gemma3':
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope['factor'])
  if 'gemma' in family:
    writer.add_sliding_window(raw['sliding_window'])
  if raw.get('attn_logit_softcapping'):
    writer.add_attn_logit_softcapping(raw['attn_logit_softcapping'])
    writer.add_final_logit_softcapping(raw['final_logit_softcapping'])
  names = gguf.get_tensor_name_map(architecture, num_layers)
  tensors = {}
  for file in (_TINY / family).glob('*.safetensors'):
    tensors |= safetensors_numpy.load_file(file)
  for name, value in tensors.items():
    value = value.astype(np.float32)
    if 'gemma' in family and name.endswith('norm.weight'):
      value += 1
    if raw['model_type'] == 'llama' and name.endswith(('q_proj.weight', 'k_proj.weight')):
      value = _permuted(value, heads if 'q_proj' in name else kv_heads)
    fits = value.ndim == 2 and value.shape[1] % 32 == 0
    theirs = names.get_name(name, ('.weight', '.bias'))
    if fits and kind != gguf.GGMLQuantizationType.F32:
      writer.add_tensor(theirs, gguf.quantize(value, kind), raw_dtype=kind)
    else:
      writer.add_tensor(theirs, value)
  for name, value in extra:
    writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path)


def _config(path):
  return loading.load_config(
      path=path, cross_attention=cross_attention.CrossAttentionConfig(every=2)
  )


def _load(path):
  config = _config(path)
  return config, loading.load_params(path, config)


# What llama.cpp knows by heart is not what these tiny models have, and llama3's
# factors are for a longer context.
@pytest.mark.parametrize('family', ['llama2', 'qwen2', 'qwen3', 'smollm2'])
def test_logits_are_those_of_the_family(family, tmp_path):
  config, params = _load(_write(family, tmp_path / 'tiny.gguf'))
  assert config.context_length == 64
  expected = np.load(_TINY / family / 'expected.npz')
  tokens = expected['tokens'].astype(np.int32)
  got = decoder.Decoder(config).apply(
      {'params': params}, tokens,
      method=lambda module, x: module.logits(module(x)[0]),
  )
  want = expected['logits']
  np.testing.assert_allclose(got[..., : want.shape[-1]], want, atol=1e-4)


@pytest.mark.parametrize('family', ['gemma2', 'gemma3', 'llama3'])
def test_parameters_are_those_of_the_family(family, tmp_path):
  config, params = _load(_write(family, tmp_path / 'tiny.gguf'))
  path = str(_TINY / family)
  want = loading.load_params(
      path,
      loading.load_config(path=path, cross_attention=config.cross_attention),
  )
  jax.tree.map(np.testing.assert_array_equal, params, want)
  if 'gemma' in family:
    full, local = config.positions[-1], config.positions[0]
    assert (full.window, local.window) == (0, 6)
    assert len(config.positions) == {'gemma2': 2, 'gemma3': 6}[family]
    assert config.logits_softcap == {'gemma2': 3.0, 'gemma3': 0.0}[family]
  if family == 'gemma3':
    assert (full.base, local.base) == (10_000.0, 10_000.0)
    assert full.scaling == positions.LinearScaling(factor=4.0)
    assert local.scaling == positions.NoScaling()


def test_quantised_matrices_are_near(tmp_path):
  # No tensor of the tiny models has rows that fit a block; this one does.
  rng = np.random.default_rng(0)
  value = rng.normal(size=(6, 64)).astype(np.float32)
  path = tmp_path / 'q.gguf'
  writer = gguf.GGUFWriter(path, 'llama')
  for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16):
    writer.add_tensor(
        kind.name, gguf.quantize(value, kind), raw_dtype=kind
    )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  header = gguf_header.read(path)
  for name, tolerance in (('Q8_0', 0.02), ('F16', 2e-3)):
    assert header.tensors[name].shape == (6, 64)
    np.testing.assert_allclose(header.read(name), value, atol=tolerance)


def test_factors_of_llama_3_are_recognised(tmp_path):
  scaling = positions.Llama3Scaling(factor=32.0)
  frequencies = 500_000.0 ** (-np.arange(8) / 8)
  factors = (frequencies / scaling(frequencies)).astype(np.float32)
  write = lambda name, factors: _write(
      'llama3', tmp_path / name, extra=[('rope_freqs.weight', factors)]
  )
  config, _ = _load(write('a.gguf', factors))
  assert config.positions[0].scaling == scaling
  with pytest.raises(ValueError, match='not those of Llama 3'):
    _load(write('b.gguf', factors + 1))


@pytest.mark.parametrize(
    ['said', 'scaling'],
    [
        ({'rope.scale_linear': 4.0}, positions.LinearScaling(factor=4.0)),
        ({'rope.scaling.factor': 2.0}, positions.LinearScaling(factor=2.0)),
        ({'rope.scaling.type': 'linear'}, positions.NoScaling()),
        ({'rope.scaling.type': 'none', 'rope.scaling.factor': 2.0},
         positions.NoScaling()),
    ],
    ids=str,
)
def test_scaling_is_as_llama_cpp_reads_it(tmp_path, said, scaling):
  path = _write('llama2', tmp_path / 'a.gguf', said=said.items())
  assert [p.scaling for p in _config(path).positions] == [scaling]


@pytest.mark.parametrize(
    ['said', 'message'],
    [
        ({'rope.scaling.type': 'yarn'}, "type 'yarn' are not supported"),
        ({'rope.dimension_count': 2.0}, 'of which 2.0 have rotary positions'),
    ],
    ids=str,
)
def test_other_rotary_positions_are_refused(tmp_path, said, message):
  path = _write('llama2', tmp_path / 'a.gguf', said=said.items())
  with pytest.raises(ValueError, match=message):
    _config(path)


def test_factors_of_a_file_without_a_base(tmp_path):
  scaling = positions.Llama3Scaling(factor=32.0)
  frequencies = 10_000.0 ** (-np.arange(8) / 8)
  factors = (frequencies / scaling(frequencies)).astype(np.float32)
  path = _write(
      'llama3', tmp_path / 'a.gguf', base=False,
      extra=[('rope_freqs.weight', factors)],
  )
  (found,) = _config(path).positions
  assert (found.base, found.scaling) == (10_000.0, scaling)


def test_what_is_no_whole_file_is_named(tmp_path):
  path = pathlib.Path(_write('llama2', tmp_path / 'whole.gguf'))
  whole = path.read_bytes()
  for name, content, message in (
      ('short.gguf', whole[:-100], 'the download is incomplete'),
      ('header.gguf', whole[:300], 'cannot be read as GGUF'),
      ('other.gguf', b'PK' + whole, 'is no GGUF file'),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name}.*{message}'):
      loading.load_config(path=str(tmp_path / name))
  with pytest.raises(ValueError, match='no such weights|no such file'):
    loading.load_config(path=str(tmp_path / 'absent.gguf'))


def test_an_unknown_type_is_named(tmp_path):
  path = pathlib.Path(_write('llama2', tmp_path / 'whole.gguf'))
  whole = path.read_bytes()
  name = b'output_norm.weight'
  # Behind the name: u32 rank, u64 size, u32 type.
  start = whole.index(name) + len(name) + 12
  unknown = whole[:start] + b'\xe7\x03\x00\x00' + whole[start + 4 :]
  path.write_bytes(unknown)
  with pytest.raises(ValueError, match='output_norm.weight has .* type 999'):
    loading.load_config(path=str(path))
  # Q8_K is known and cannot be dequantised.
  known = whole[:start] + b'\x0f\x00\x00\x00' + whole[start + 4 :]
  path.write_bytes(known)
  with pytest.raises(ValueError, match='output_norm.weight is quantised as Q8'):
    _load(str(path))


def test_an_unknown_architecture_is_named(tmp_path):
  path = tmp_path / 'other.gguf'
  writer = gguf.GGUFWriter(path, 'mamba')
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match="'mamba' is not a family"):
    loading.load_config(path=str(path))


def test_rows_of_interleaved_rotary_positions():
  rows = np.arange(8)[:, None]
  assert layout.rotate_half_rows(rows, 4)[:, 0].tolist() == [
      0, 2, 1, 3, 4, 6, 5, 7
  ]
  np.testing.assert_array_equal(
      layout.rotate_half_rows(_permuted(rows, 2), 4), rows
  )

"""Weights in GGUF, the format of llama.cpp, dequantised by PyPI's `gguf`.

llama.cpp has its own names, turns the rows of q and k of Llama for its rotary
positions, and adds Gemma's one to the norms. What it knows by heart of a family
is not in the file and stands here or in `families`.
"""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

import numpy as np

from user_llm.data import gguf_header
from user_llm.models import positions as positions_lib
from user_llm.pretrained import layout

_FAMILIES = {
    'llama': 'llama',
    'qwen2': 'qwen2',
    'qwen3': 'qwen3',
    'gemma2': 'gemma2',
    'gemma3': 'gemma3_text',
}
_KEYS = {
    'num_hidden_layers': 'block_count',
    'hidden_size': 'embedding_length',
    'num_attention_heads': 'attention.head_count',
    'num_key_value_heads': 'attention.head_count_kv',
    'intermediate_size': 'feed_forward_length',
    'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
    'head_dim': 'attention.key_length',
    'max_position_embeddings': 'context_length',
    'rope_theta': 'rope.freq_base',
    'sliding_window': 'attention.sliding_window',
    'attn_logit_softcapping': 'attn_logit_softcapping',
    'final_logit_softcapping': 'final_logit_softcapping',
}
_NEEDED = tuple(_KEYS)[:6]
# Layers of the 27B models, whose queries have another scale.
_BIG_LAYERS = {'gemma2': 46, 'gemma3': 62}
_NAMES = {
    'token_embd.weight': layout.EMBEDDINGS,
    'output_norm.weight': 'model.norm.weight',
    'output.weight': layout.HEAD,
}
_OF_LAYER = {
    'attn_norm.weight': 'input_layernorm.weight',
    **{
        f'attn_{ours}.{kind}': f'self_attn.{name}_proj.{kind}'
        for ours, name in (('q', 'q'), ('k', 'k'), ('v', 'v'), ('output', 'o'))
        for kind in ('weight', 'bias')
    },
    'attn_q_norm.weight': 'self_attn.q_norm.weight',
    'attn_k_norm.weight': 'self_attn.k_norm.weight',
    **{
        f'ffn_{name}.weight': f'mlp.{name}_proj.weight'
        for name in ('gate', 'up', 'down')
    },
}
_TWO_NORMS = {'ffn_norm.weight': 'post_attention_layernorm.weight'}
_FOUR_NORMS = {
    'post_attention_norm.weight': 'post_attention_layernorm.weight',
    'ffn_norm.weight': 'pre_feedforward_layernorm.weight',
    'post_ffw_norm.weight': 'post_feedforward_layernorm.weight',
}
# Factors of Llama 3's rotary frequencies, checked and not kept.
_ROPE_FACTORS = 'rope_freqs.weight'


class File:
  """Weights to read; see `loading.Source`."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._header = gguf_header.read(path)
    self._family = self._header.metadata.get('general.architecture')
    if self._family not in _FAMILIES:
      raise ValueError(
          f'{path}: architecture {self._family!r} is not a family that can be '
          f'read ({", ".join(_FAMILIES)}).'
      )
    of_layer = _OF_LAYER | (
        _FOUR_NORMS if self._family.startswith('gemma') else _TWO_NORMS
    )
    self._names = {
        _name(theirs, of_layer): theirs
        for theirs in self._header.tensors
        if theirs != _ROPE_FACTORS
    }
    self.shapes = {
        name: self._header.tensors[theirs].shape
        for name, theirs in self._names.items()
    }
    self.config = self._config()
    self._head_dim = self.config['head_dim']

  def _config(self) -> dict[str, Any]:
    """The file's metadata in the words of config.json."""
    prefix = f'{self._family}.'
    said = {
        key.removeprefix(prefix): _plain(value)
        for key, value in self._header.metadata.items()
        if key.startswith(prefix)
    }
    raw = {k: said[theirs] for k, theirs in _KEYS.items() if theirs in said}
    missing = [_KEYS[name] for name in _NEEDED if name not in raw]
    if missing or layout.EMBEDDINGS not in self.shapes:
      raise ValueError(f'{self.path} does not say or have {missing} or tokens.')
    for name in ('hidden_size', 'num_attention_heads'):
      if type(raw[name]) is not int or raw[name] < 1:
        raise ValueError(
            f'{self.path}: {prefix}{_KEYS[name]} is {raw[name]!r}, not a size.'
        )
    raw['model_type'] = _FAMILIES[self._family]
    raw['vocab_size'] = self.shapes[layout.EMBEDDINGS][0]
    raw['tie_word_embeddings'] = layout.HEAD not in self.shapes
    per_head = raw['hidden_size'] // raw['num_attention_heads']
    raw.setdefault('head_dim', per_head)
    if self._family in _BIG_LAYERS:
      is_big = raw['num_hidden_layers'] == _BIG_LAYERS[self._family]
      raw['query_pre_attn_scalar'] = per_head if is_big else raw['head_dim']
    if (rotated := said.get('rope.dimension_count')) not in (
        None, raw['head_dim']
    ):
      raise ValueError(
          f'{self.path}: heads of {raw["head_dim"]} of which {rotated} have '
          'rotary positions are not supported.'
      )
    # llama.cpp's defaults; old files have the older name.
    scaling = said.get('rope.scaling.type', 'linear')
    factor = said.get('rope.scaling.factor', said.get('rope.scale_linear')) or 1
    if _ROPE_FACTORS in self._header.tensors:
      raw['rope_scaling'] = self._llama3_scaling(raw)
    elif scaling != 'none' and (scaling, factor) != ('linear', 1):
      raw['rope_scaling'] = {'rope_type': scaling, 'factor': factor}
    return raw

  def _llama3_scaling(self, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3's own parameters, if the file's factors follow from them."""
    factors = self._header.read(_ROPE_FACTORS)
    scaling = positions_lib.Llama3Scaling(factor=float(factors.max()))
    plain = positions_lib.PositionsConfig(base=raw.get('rope_theta', 1e4))
    frequencies = plain.arrays(raw['head_dim']).frequencies
    if not np.allclose(frequencies / factors, scaling(frequencies), rtol=1e-3):
      raise ValueError(
          f'{self.path}: {_ROPE_FACTORS} are not those of Llama 3; such rotary '
          'positions are not supported.'
      )
    return {
        'rope_type': 'llama3',
        'factor': scaling.factor,
        'low_freq_factor': scaling.low_freq_factor,
        'high_freq_factor': scaling.high_freq_factor,
        'original_max_position_embeddings': scaling.original_length,
    }

  def read(self, name: str) -> np.ndarray:
    tensor = self._header.read(self._names[name])
    if self._family == 'llama' and re.search(r'self_attn\.[qk]_proj', name):
      size = self._head_dim
      if type(size) is not int or size < 1 or size % 2 or len(tensor) % size:
        raise ValueError(
            f'{self.path}: {self._names[name]} has {len(tensor)} rows, which are '
            f'no heads of {size!r}.'
        )
      return layout.rotate_half_rows(tensor, size)
    return tensor


def _plain(value: Any) -> Any:
  # f32 in the file: 1e-6 reads 9.999999974752427e-07.
  return float(f'{value:.6g}') if isinstance(value, float) else value


def _name(theirs: str, of_layer: Mapping[str, str]) -> str:
  """Hugging Face's name of a tensor; what has none keeps its own."""
  match = re.fullmatch(r'blk\.(\d+)\.(.*)', theirs)
  if match and match[2] in of_layer:
    return f'model.layers.{match[1]}.{of_layer[match[2]]}'
  return _NAMES.get(theirs, theirs)

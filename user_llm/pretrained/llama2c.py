"""Weights in llama2.c's first format (https://github.com/karpathy/llama2.c).

A header of seven i32 and then f32 tensors, layer by layer within each kind. The
sign of the vocabulary's size says whether the head shares the embeddings.
"""

import math
import pathlib

import numpy as np

from user_llm.pretrained import layout

_HEADER = (
    'hidden_size', 'intermediate_size', 'num_hidden_layers',
    'num_attention_heads', 'num_key_value_heads', 'vocab_size',
    'max_position_embeddings',
)
# A header of anything else names millions, and each has nine tensors here.
_MAX_LAYERS = 1_000


class File:
  """Weights to read; see `loading.Source`."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    header = _read_header(path)
    self._head_dim = header['hidden_size'] // header['num_attention_heads']
    shared_head = header['vocab_size'] > 0
    header['vocab_size'] = abs(header['vocab_size'])
    self.config = dict(
        model_type='llama',
        rms_norm_eps=1e-5,
        tie_word_embeddings=shared_head,
        **header,
    )
    self.shapes: dict[str, tuple[int, ...]] = {}
    self._offsets: dict[str, int] = {}
    offset = 4 * len(_HEADER)
    for name, shape in self._tensors():
      self.shapes[name], self._offsets[name] = shape, offset
      offset += 4 * math.prod(shape)
    if path.stat().st_size != offset:
      raise ValueError(
          f'{path} has {path.stat().st_size} bytes; a llama2.c file with its '
          f'header has {offset}. Truncated, or another format?'
      )
    # Sines and cosines, which the decoder computes.
    del self.shapes['rotary']

  def _tensors(self) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the file's order; matrices are [out, in]."""
    config = self.config
    dim, hidden = config['hidden_size'], config['intermediate_size']
    kv_dim = config['num_key_value_heads'] * self._head_dim
    vocabulary = (config['vocab_size'], dim)
    of_layer = {
        'input_layernorm': (dim,),
        'self_attn.q_proj': (dim, dim),
        'self_attn.k_proj': (kv_dim, dim),
        'self_attn.v_proj': (kv_dim, dim),
        'self_attn.o_proj': (dim, dim),
        'post_attention_layernorm': (dim,),
        'mlp.gate_proj': (hidden, dim),
        'mlp.down_proj': (dim, hidden),
        'mlp.up_proj': (hidden, dim),
    }
    found = [(layout.EMBEDDINGS, vocabulary)]
    for name, shape in of_layer.items():
      for i in range(config['num_hidden_layers']):
        found.append((f'model.layers.{i}.{name}.weight', shape))
    found.append(('model.norm.weight', (dim,)))
    length = config['max_position_embeddings']
    found.append(('rotary', (2, length, self._head_dim // 2)))
    if not config['tie_word_embeddings']:
      found.append((layout.HEAD, vocabulary))
    return found

  def read(self, name: str) -> np.ndarray:
    shape = self.shapes[name]
    tensor = np.fromfile(
        self.path, '<f4', math.prod(shape), offset=self._offsets[name]
    ).reshape(shape)
    if name.endswith(('q_proj.weight', 'k_proj.weight')):
      return layout.rotate_half_rows(tensor, self._head_dim)
    return tensor


def _read_header(path: pathlib.Path) -> dict[str, int]:
  if not path.is_file():
    raise ValueError(f'{path}: no such file (llama2.c weights).')
  raw = np.fromfile(path, '<i4', len(_HEADER)).tolist()
  fields = dict(zip(_HEADER, raw))
  if (
      len(raw) < len(_HEADER)
      or not all(0 < abs(v) < 2**24 for v in raw)
      or any(v < 0 for k, v in fields.items() if k != 'vocab_size')
      or fields['num_hidden_layers'] > _MAX_LAYERS
      or fields['hidden_size'] % (2 * fields['num_attention_heads'])
      or fields['num_attention_heads'] % fields['num_key_value_heads']
  ):
    raise ValueError(
        f'{path} is not llama2.c weights (legacy format): its header reads '
        f'{fields}.'
    )
  return fields

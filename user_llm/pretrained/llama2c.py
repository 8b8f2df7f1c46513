"""Weights in llama2.c's first format (https://github.com/karpathy/llama2.c).

A header of seven i32 and then f32 tensors, layer by layer within each kind. The
sign of the vocabulary's size says whether the head shares the embeddings.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from user_llm import partitioning
from user_llm.models import decoder_config
from user_llm.pretrained import layout

_HEADER = (
    'dim', 'hidden_dim', 'num_layers', 'num_heads', 'num_kv_heads',
    'vocab_size', 'seq_len',
)
_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class _Header:
  dim: int
  hidden_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  vocab_size: int
  seq_len: int
  shared_head: bool

  @property
  def head_dim(self) -> int:
    return self.dim // self.num_heads

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Tensors in the file's order; matrices are [out, in]."""
    layers, dim, hidden = self.num_layers, self.dim, self.hidden_dim
    kv_dim = self.num_kv_heads * self.head_dim
    shapes = {
        'embed': (self.vocab_size, dim),
        'attention_norm': (layers, dim),
        'q': (layers, dim, dim),
        'k': (layers, kv_dim, dim),
        'v': (layers, kv_dim, dim),
        'o': (layers, dim, dim),
        'mlp_norm': (layers, dim),
        'gate': (layers, hidden, dim),
        'down': (layers, dim, hidden),
        'up': (layers, hidden, dim),
        'norm': (dim,),
        # Sines and cosines, which the decoder computes.
        'rotary': (2, self.seq_len, self.head_dim // 2),
    }
    if not self.shared_head:
      shapes['lm_head'] = (self.vocab_size, dim)
    return shapes


def _read_header(path: pathlib.Path) -> _Header:
  if not path.is_file():
    raise ValueError(f'{path}: no such file (llama2.c weights).')
  raw = np.fromfile(path, '<i4', len(_HEADER))
  fields = dict(zip(_HEADER, raw.tolist()))
  shared_head = fields.get('vocab_size', 0) > 0
  fields['vocab_size'] = abs(fields.get('vocab_size', 0))
  if (
      len(raw) < len(_HEADER)
      or not all(0 < v < 2**24 for v in fields.values())
      or fields['dim'] % (2 * fields['num_heads'])
      or fields['num_heads'] % fields['num_kv_heads']
  ):
    raise ValueError(
        f'{path} is not llama2.c weights (legacy format): its header reads '
        f'{fields}.'
    )
  header = _Header(**fields, shared_head=shared_head)
  floats = sum(map(math.prod, header.shapes().values()))
  expected_bytes = 4 * (len(_HEADER) + floats)
  if path.stat().st_size != expected_bytes:
    raise ValueError(
        f'{path} has {path.stat().st_size} bytes; a llama2.c file with its '
        f'header has {expected_bytes}. Truncated, or another format?'
    )
  return header


def load_config(path: str, **overrides: Any) -> decoder_config.DecoderConfig:
  """The decoder that the file's weights fit.

  Args:
    path: The .bin file.
    **overrides: More fields of `DecoderConfig`, such as `cross_attention`.
  """
  header = _read_header(pathlib.Path(path))
  return decoder_config.DecoderConfig(
      vocab_size=header.vocab_size,
      num_layers=header.num_layers,
      embed_dim=header.dim,
      num_heads=header.num_heads,
      num_kv_heads=header.num_kv_heads,
      head_dim=header.head_dim,
      mlp_dim=header.hidden_dim,
      tied_embeddings=header.shared_head,
      norm_epsilon=_NORM_EPSILON,
      **overrides,
  )


def rotate_half_rows(weight_OI: np.ndarray, head_dim: int) -> np.ndarray:
  """Output rows from RoPE's interleaved order to rotate-half.

  llama2.c turns the pairs (0, 1), (2, 3), ... of a head; we turn (0, H/2),
  (1, H/2 + 1), ... Example: with head_dim 4, the rows 0 1 2 3 become 0 2 1 3.
  """
  pairs = weight_OI.reshape(-1, head_dim // 2, 2, *weight_OI.shape[1:])
  return np.swapaxes(pairs, 1, 2).reshape(weight_OI.shape)


def _layer(tensors: dict[str, np.ndarray], i: int, head_dim: int) -> Any:
  """Parameters of one `DecoderLayer`."""
  kernels = {n: tensors[n][i] for n in ('v', 'o', 'gate', 'up', 'down')}
  for name in ('q', 'k'):
    kernels[name] = rotate_half_rows(tensors[name][i], head_dim)
  kernel = lambda name: {'kernel': kernels[name].T}
  return {
      'attention': {name: kernel(name) for name in ('q', 'k', 'v', 'o')},
      'attention_norm': {'scale': tensors['attention_norm'][i]},
      'mlp': {name: kernel(name) for name in ('gate', 'up', 'down')},
      'mlp_norm': {'scale': tensors['mlp_norm'][i]},
  }


def load_params(
    path: str, config: decoder_config.DecoderConfig
) -> dict[str, Any]:
  """Parameters of a `Decoder`, without those of its cross-attentions.

  Args:
    path: The .bin file.
    config: As from `load_config`.

  Raises:
    ValueError: no file, a truncated or unknown one, or another's config.
  """
  header = _read_header(pathlib.Path(path))
  fits = load_config(path, cross_attention=config.cross_attention)
  for field in ('vocab_size', 'num_layers', 'embed_dim', 'num_heads',
                'num_kv_heads', 'head_dim', 'mlp_dim', 'tied_embeddings'):
    if getattr(fits, field) != getattr(config, field):
      raise ValueError(
          f'{path} has {field}={getattr(fits, field)} and '
          f'DecoderConfig.{field} is {getattr(config, field)}.'
      )
  raw = np.fromfile(path, '<f4', offset=4 * len(_HEADER))
  tensors, start = {}, 0
  for name, shape in header.shapes().items():
    stop = start + math.prod(shape)
    tensors[name] = raw[start:stop].reshape(shape)
    start = stop
  rows = partitioning.padded_size(header.vocab_size) - header.vocab_size
  padded = lambda name: np.pad(tensors[name], ((0, rows), (0, 0)))
  params = {
      'embed': {'table': padded('embed')},
      'norm': {'scale': tensors['norm']},
      **layout.stack_layers(
          [
              _layer(tensors, i, header.head_dim)
              for i in range(header.num_layers)
          ],
          config,
      ),
  }
  if not header.shared_head:
    params['lm_head'] = {'kernel': padded('lm_head').T}
  return params

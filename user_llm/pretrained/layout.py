"""Which tensors of a file, by Hugging Face's names, a parameter is made of.

Files have layers one by one and matrices as [out, in]; the decoder has scanned
stacks of layers and kernels as [in, out].
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from user_llm import partitioning
from user_llm.models import decoder_config

_ATTENTION = {
    f'attention/{name}/kernel': f'self_attn.{name}_proj.weight'
    for name in 'qkvo'
}
_QKV_BIAS = {
    f'attention/{name}/bias': f'self_attn.{name}_proj.bias' for name in 'qkv'
}
_MLP = {
    f'mlp/{name}/kernel': f'mlp.{name}_proj.weight'
    for name in ('gate', 'up', 'down')
}
_QK_NORM = {
    'q_norm/scale': 'self_attn.q_norm.weight',
    'k_norm/scale': 'self_attn.k_norm.weight',
}
_NORMS = {
    'attention_norm/scale': 'input_layernorm.weight',
    'mlp_norm/scale': 'post_attention_layernorm.weight',
}
_FOUR_NORMS = {
    'attention_norm/scale': 'input_layernorm.weight',
    'attention_post_norm/scale': 'post_attention_layernorm.weight',
    'mlp_norm/scale': 'pre_feedforward_layernorm.weight',
    'mlp_post_norm/scale': 'post_feedforward_layernorm.weight',
}
EMBEDDINGS, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
  """One parameter of a `Decoder`.

  Attributes:
    path: In the decoder, such as 'groups/layers_0/mlp/up/kernel'.
    tensors: Names in the file: of each layer where it is a stack.
    stacked: Whether it has a leading axis of layers.
    zero_token_id: For what has a row a token, see `DecoderConfig`; else None.
  """

  path: str
  tensors: tuple[str, ...]
  stacked: bool = False
  zero_token_id: int | None = None

  @property
  def is_kernel(self) -> bool:
    return self.path.endswith('/kernel')

  @property
  def is_norm(self) -> bool:
    return self.path.endswith('/scale')

  def shape(self, of_tensor: Sequence[int]) -> tuple[int, ...]:
    """Of the parameter, from that of one of its tensors."""
    shape = tuple(of_tensor)
    if self.zero_token_id is not None:
      rows = max(shape[0], self.zero_token_id + 1)
      shape = (partitioning.padded_size(rows), *shape[1:])
    if self.is_kernel:
      shape = shape[::-1]
    return (len(self.tensors), *shape) if self.stacked else shape

  def value(
      self, tensors: Sequence[np.ndarray], index: tuple[slice, ...], dtype: Any
  ) -> np.ndarray:
    """A part of the parameter, from the file's whole tensors.

    Example: tensors [[1, 2], [3, 4]] and [[5, 6], [7, 8]] of a stacked kernel
    and the index [:, :1] give [[[1, 3]], [[5, 7]]].
    """
    if self.zero_token_id is not None:
      tensors = [_with_padding(tensors[0], self.zero_token_id)]
    if self.is_kernel:
      tensors = [tensor.T for tensor in tensors]
    if not self.stacked:
      return tensors[0][index].astype(dtype)
    return np.stack([t[index[1:]].astype(dtype) for t in tensors[index[0]]])

  def tensors_of(
      self, value: np.ndarray, vocab_size: int
  ) -> dict[str, np.ndarray]:
    """The inverse of `value`: the file's tensors, by name."""
    values = list(value) if self.stacked else [value]
    if self.is_kernel:
      values = [v.T for v in values]
    if self.zero_token_id is not None:
      values = [_without_padding(values[0], self.zero_token_id, vocab_size)]
    return dict(zip(self.tensors, values))


def _with_padding(rows_VD: np.ndarray, zero_token_id: int) -> np.ndarray:
  """Rows of a padded vocabulary; row 0 and row `zero_token_id` exchanged."""
  size = max(len(rows_VD), zero_token_id + 1)
  pad = partitioning.padded_size(size) - len(rows_VD)
  padded = np.pad(rows_VD, ((0, pad), (0, 0)))
  padded[[0, zero_token_id]] = padded[[zero_token_id, 0]]
  return padded


def _without_padding(
    rows_VD: np.ndarray, zero_token_id: int, vocab_size: int
) -> np.ndarray:
  rows = rows_VD[:vocab_size].copy()
  rows[[0, zero_token_id]] = rows[[zero_token_id, 0]]
  # The last is then the row that was made for the token 0.
  return rows[:-1] if 0 < zero_token_id == vocab_size - 1 else rows


def parameters(config: decoder_config.DecoderConfig) -> list[Parameter]:
  """All of a `Decoder`, without its cross-attentions.

  Example: 5 layers with `cross_attention.every=2` give groups/layers_0 (layers
  0 and 2), groups/layers_1 (1 and 3) and rest/layers_0 (4).
  """
  of_layer = _ATTENTION | _MLP | (_FOUR_NORMS if config.post_norms else _NORMS)
  if config.qkv_bias:
    of_layer |= _QKV_BIAS
  if config.qk_norm:
    of_layer |= _QK_NORM
  every = config.cross_attention.every
  scanned = every * config.num_groups
  rows = config.zero_token_id
  found = [
      Parameter(path='embed/table', tensors=(EMBEDDINGS,), zero_token_id=rows),
      Parameter(path='norm/scale', tensors=('model.norm.weight',)),
  ]
  if not config.tied_embeddings:
    found.append(
        Parameter(
            path='lm_head/kernel', tensors=(HEAD,), zero_token_id=rows
        )
    )
  for ours, theirs in of_layer.items():
    names = [f'model.layers.{i}.{theirs}' for i in range(config.num_layers)]
    found += [
        Parameter(
            path=f'groups/layers_{i}/{ours}',
            tensors=tuple(names[i:scanned:every]),
            stacked=True,
        )
        for i in range(every)
    ]
    found += [
        Parameter(path=f'rest/layers_{i}/{ours}', tensors=(name,))
        for i, name in enumerate(names[scanned:])
    ]
  return found


def rotate_half_rows(weight_OI: np.ndarray, head_dim: int) -> np.ndarray:
  """Output rows from RoPE's interleaved order to rotate-half.

  llama2.c and llama.cpp turn the pairs (0, 1), (2, 3), ... of a head; we turn
  (0, H/2), (1, H/2 + 1), ... Example: with head_dim 4, the rows 0 1 2 3 become
  0 2 1 3.
  """
  pairs = weight_OI.reshape(-1, head_dim // 2, 2, *weight_OI.shape[1:])
  return np.swapaxes(pairs, 1, 2).reshape(weight_OI.shape)

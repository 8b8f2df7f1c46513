"""Low-rank adaptation of a decoder's kernels (arXiv 2106.09685).

`y = xW + (alpha / rank) (xA)B`, with W frozen. It is computed on activations
and never as one matrix: nothing as large as W is made, neither forwards nor as
a gradient.

Shapes: G groups of scanned layers, I inputs, R rank, O outputs.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from user_llm.models import layers

# Beside the kernel that they adapt: 'attention/q/kernel' has
# 'attention/q/lora_a/kernel' and 'attention/q/lora_b/kernel'.
_A, _B = 'lora_a', 'lora_b'


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoLoraConfig:
  """The kernels as they are."""

  def dense(self, *args: Any, **kwargs: Any) -> layers.Dense:
    return layers.Dense(*args, **kwargs)

  def check(self, params: Mapping[str, Any]) -> None:
    del params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Which kernels of a decoder are adapted, and how.

  Attributes:
    rank: Of the update, R.
    alpha: The update is scaled by alpha / rank.
    matrices: Regexes, looked for at the start of the path of a kernel in the
      decoder's layers, such as 'groups/layers_0/attention/q/kernel'. By
      default those of self-attention.
  """

  rank: int = 8
  alpha: float = 16.0
  matrices: tuple[str, ...] = ('.*/attention/[qkvo]/kernel',)

  def __post_init__(self):
    if not isinstance(self.rank, int) or self.rank <= 0:
      raise ValueError(
          f'LoraConfig.rank must be a positive integer, not {self.rank!r}.'
      )
    is_number = isinstance(self.alpha, (int, float))
    if not is_number or isinstance(self.alpha, bool) or self.alpha <= 0:
      raise ValueError(
          f'LoraConfig.alpha must be a positive number, not {self.alpha!r}.'
      )
    if not self.matrices or not isinstance(self.matrices, tuple):
      raise ValueError(
          'LoraConfig.matrices must be a tuple of regular expressions, not '
          f'{self.matrices!r}.'
      )
    for regex in self.matrices:
      try:
        re.compile(regex)
      except re.error as error:
        raise ValueError(
            f'LoraConfig.matrices: {regex!r} is no regular expression '
            f'({error}).'
        ) from None

  @property
  def scale(self) -> float:
    return self.alpha / self.rank

  def adapts(self, path: str) -> bool:
    """Whether the kernel at a path in the decoder has an update."""
    return any(re.match(regex, path) for regex in self.matrices)

  def dense(self, *args: Any, **kwargs: Any) -> layers.Dense:
    return LoraDense(*args, **kwargs, lora=self)

  def check(self, params: Mapping[str, Any]) -> None:
    """Raises ValueError for a regex that adapts no kernel of a decoder."""
    kernels = [
        path
        for path in flax.traverse_util.flatten_dict(params, sep='/')
        if re.fullmatch(r'\w+/layers_\d+/\w+/\w+/kernel', path)
    ]
    for regex in self.matrices:
      if not any(re.match(regex, path) for path in kernels):
        raise ValueError(
            f'LoraConfig.matrices: {regex!r} matches no kernel of the '
            f"decoder's layers; they are {', '.join(sorted(kernels))}."
        )


class LoraDense(layers.Dense):
  """A `Dense` in a decoder's layer, with an update if its kernel has one.

  B is zero at first: the output then is that of the kernel.
  """

  lora: LoraConfig = LoraConfig()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = super().__call__(x)
    # Such as groups/layers_0/attention/q, wherever the decoder is.
    part, *inside = self.path[-4:]
    part = part.split('_')[0]  # Of unstacked groups, groups_0, groups_1, ...
    path = '/'.join((part, *inside, 'kernel'))
    if not self.lora.adapts(path):
      return y
    names_in, names_out = self.names
    update = layers.Dense(self.lora.rank, (names_in, 'lora'), name=_A)(x)
    update = layers.Dense(
        self.features, ('lora', names_out), init=nn.initializers.zeros, name=_B
    )(update)
    return y + self.lora.scale * update


def merge(
    params: Mapping[str, Any], config: LoraConfig | NoLoraConfig
) -> dict[str, Any]:
  """The decoder without LoRA that computes the same.

  Args:
    params: Of a `Decoder`, updates included.
    config: Its `DecoderConfig.lora`.

  Returns:
    Its parameters without the updates, which are in the kernels; those are in
    float32.
  """
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  merged = {
      path: value
      for path, value in flat.items()
      if not re.search(f'/({_A}|{_B})/', path)
  }
  for path, a_GIR in flat.items():
    if path.endswith(f'/{_A}/kernel'):
      place = path.removesuffix(f'/{_A}/kernel')
      update_GIO = jnp.matmul(
          a_GIR,
          flat[f'{place}/{_B}/kernel'],
          precision=jax.lax.Precision.HIGHEST,
      )
      kernel_GIO = merged[f'{place}/kernel'].astype(jnp.float32)
      merged[f'{place}/kernel'] = kernel_GIO + config.scale * update_GIO
  return flax.traverse_util.unflatten_dict(merged, sep='/')

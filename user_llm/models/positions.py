"""How far back a layer looks, and its rotary positions.

Shapes: H head width.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

# Of a layer without a window among layers that have one.
_EVERYTHING = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoScaling:
  """Rotary frequencies as they are."""

  def __call__(self, frequencies: np.ndarray) -> np.ndarray:
    return frequencies


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
  """All turn slower by a factor (arXiv 2306.15595)."""

  factor: float

  def __call__(self, frequencies: np.ndarray) -> np.ndarray:
    return frequencies / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
  """Slow frequencies turn slower by a factor, fast ones stay (Llama 3.1).

  Attributes:
    factor: By how much.
    low_freq_factor: Turns within `original_length` below which all of it is.
    high_freq_factor: Turns from which nothing is; between them a mixture.
    original_length: Tokens of the context before.
  """

  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_length: int = 8192

  def __call__(self, frequencies: np.ndarray) -> np.ndarray:
    turns = self.original_length * frequencies / (2 * np.pi)
    keep = np.clip(
        (turns - self.low_freq_factor)
        / (self.high_freq_factor - self.low_freq_factor),
        0.0,
        1.0,
    )
    return keep * frequencies + (1 - keep) * frequencies / self.factor


class Positions(NamedTuple):
  """`PositionsConfig` as arrays, of one layer or of a stack.

  Attributes:
    frequencies: f32[H / 2].
    window: i32[]; None: everything.
  """

  frequencies: np.ndarray | jax.Array
  window: np.ndarray | jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionsConfig:
  """How one layer sees positions.

  Attributes:
    window: Tokens that a query sees, the last its own; 0: all before it.
    base: Of the rotary positions.
    scaling: Of their frequencies.
  """

  window: int = 0
  base: float = 10_000.0
  scaling: NoScaling | LinearScaling | Llama3Scaling = NoScaling()

  def __post_init__(self):
    if not isinstance(self.window, int) or self.window < 0:
      raise ValueError(
          'PositionsConfig.window must be a number of tokens, or 0 for all, '
          f'not {self.window!r}.'
      )
    if self.base <= 1:
      raise ValueError(
          f'PositionsConfig.base must be above 1, not {self.base!r}.'
      )

  def arrays(self, head_dim: int) -> Positions:
    """Of a head of this width."""
    half = head_dim // 2
    frequencies = self.scaling(self.base ** (-np.arange(half) / half))
    return Positions(
        frequencies.astype(np.float32),
        np.int32(self.window) if self.window else None,
    )


def stack(configs: Sequence[PositionsConfig], head_dim: int) -> Positions:
  """Arrays with a leading axis: one entry a layer."""
  frequencies = [config.arrays(head_dim).frequencies for config in configs]
  windows = [config.window or _EVERYTHING for config in configs]
  return Positions(np.stack(frequencies), np.array(windows, np.int32))

"""AdamW with warm-up, decay, clipping and learning rates by part."""

from collections.abc import Callable
import dataclasses
import re
from typing import Any

import jax
import numpy as np
import optax

from user_llm import train_state

# By name: where layers are scanned, their norms and biases are matrices too.
# A recency's table is a bias by head.
_DECAYED = re.compile(r'(.*/)?(kernel|latents|(?<!recency/)table)')

# What a step computes with: a rate of 1e39 is infinite in it, 1 - 1e-9 is 1.
_FLOAT32 = np.finfo(np.float32)
_POSITIVE = (float(_FLOAT32.tiny), float(_FLOAT32.max), 'above 0')
_FROM_0 = (0.0, float(_FLOAT32.max), 'of at least 0')
_BELOW_1 = (0.0, 1 - float(_FLOAT32.epsneg), 'from 0 to below 1')

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
  """Builds an optimizer (arXiv 1711.05101) and its schedule.

  Attributes:
    learning_rate: At the peak.
    warmup_steps: Linear from 0 to the peak.
    end_factor: Of the peak, where the cosine ends.
    weight_decay: On kernels and embeddings; not on norms, biases and gates.
    b2: Decay of the second moment.
    clip_norm: Of the gradient's global norm.
    scales: (path regex, factor on the learning rate); the first that matches
      the start of a parameter's path decides. For new parts beside pretrained
      ones: (('.*gate', 10.0),).
  """

  learning_rate: float
  warmup_steps: int = 100
  end_factor: float = 0.0
  weight_decay: float = 0.01
  b2: float = 0.98
  clip_norm: float = 1.0
  scales: tuple[tuple[str, float], ...] = ()

  def __post_init__(self):
    for name, macro, limits in (
        ('learning_rate', ' (LEARNING_RATE)', _POSITIVE),
        ('end_factor', '', _FROM_0),
        ('weight_decay', ' (WEIGHT_DECAY)', _FROM_0),
        ('b2', '', _BELOW_1),
        ('clip_norm', '', _POSITIVE),
    ):
      value = getattr(self, name)
      if not _is_within(value, limits):
        raise ValueError(
            f'AdamW.{name}{macro} must be a finite number {limits[-1]} in '
            f'float32, not {value!r}.'
        )
    is_integer = isinstance(self.warmup_steps, int)
    if not is_integer or self.warmup_steps < 0:
      raise ValueError(
          'AdamW.warmup_steps (WARMUP_STEPS) must be an integer of at least 0, '
          f'not {self.warmup_steps!r}.'
      )
    _check_scales(self.scales)

  def schedule(self, num_steps: int) -> Schedule:
    """Learning rate by step: linear warm-up, then cosine to `num_steps`."""
    if num_steps <= self.warmup_steps:
      raise ValueError(
          f'NUM_STEPS={num_steps} leaves no step after '
          f'WARMUP_STEPS={self.warmup_steps}.'
      )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=self.learning_rate,
        warmup_steps=self.warmup_steps,
        decay_steps=num_steps,
        end_value=self.learning_rate * self.end_factor,
    )

  def make(self, num_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(self.clip_norm),
        optax.scale_by_adam(b2=self.b2),
        optax.add_decayed_weights(
            self.weight_decay,
            mask=_is_decayed,
        ),
        _scale_by_path(self.scales),
        optax.scale_by_learning_rate(self.schedule(num_steps)),
    )


def _is_within(value: Any, limits: tuple[float, float, str]) -> bool:
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_number and limits[0] <= value <= limits[1]


def _check_scales(scales: Any) -> None:
  """Raises ValueError if these are no (path regex, factor)s."""
  if not isinstance(scales, (tuple, list)) or not all(
      isinstance(rule, (tuple, list))
      and len(rule) == 2
      and isinstance(rule[0], str)
      and _is_within(rule[1], _FROM_0)
      for rule in scales
  ):
    raise ValueError(
        'AdamW.scales (LEARNING_RATE_SCALES) must be a tuple of (path regex, '
        "finite factor of at least 0), such as (('.*gate', 10.0),), not "
        f'{scales!r}.'
    )
  for regex, _ in scales:
    train_state.compiled('LEARNING_RATE_SCALES', regex)


def _is_decayed(params: Any) -> Any:
  return train_state.unflatten({
      path: _DECAYED.fullmatch(path) is not None
      for path in train_state.flatten(params)
  })


def _scale_by_path(
    scales: tuple[tuple[str, float], ...],
) -> optax.GradientTransformation:
  """Multiplies updates by the factor of the first regex that matches."""
  regexes = [regex for regex, _ in scales]
  factors = [*(factor for _, factor in scales), 1.0]

  def rule(path: str) -> int:
    """Index of a path's factor."""
    matches = (i for i, x in enumerate(regexes) if re.match(x, path))
    return next(matches, len(regexes))

  def init(params: Any) -> optax.EmptyState:
    paths = train_state.flatten(params)
    train_state.check_deciding(
        f'LEARNING_RATE_SCALES={scales} on what trains',
        regexes,
        {rule(path) for path in paths},
        paths,
    )
    return optax.EmptyState()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    flat = train_state.flatten(updates)
    flat = {path: x * factors[rule(path)] for path, x in flat.items()}
    return train_state.unflatten(flat), state

  return optax.GradientTransformation(init, update)

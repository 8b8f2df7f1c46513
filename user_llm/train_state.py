"""The state of a run, and which parameters train.

Gradients, optimizer memory and checkpoints hold only the trainable part.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import re
from typing import Any, NamedTuple

import flax.traverse_util
import jax

Params = Any

# What models round to the compute dtype wherever they read it, by name. Norms,
# biases (a recency's table is one) and gates, which are small, are read in
# float32.
_ROUNDED = re.compile(r'(.*/)?(kernel|(?<!recency/)table)')


class TrainState(NamedTuple):
  """All that a step changes, and the frozen parameters beside it.

  Attributes:
    step: i32[], optimizer steps taken.
    trainable: Nested dict of the parameters that train.
    frozen: Nested dict of the others.
    opt_state: Of the optimizer, over `trainable`.
    recent_losses: f32[spikes.WINDOW], see there.
  """

  step: jax.Array
  trainable: Params
  frozen: Params
  opt_state: Any
  recent_losses: jax.Array


def flatten(params: Params) -> dict[str, Any]:
  """{'encoder/norm/scale': array, ...}."""
  return flax.traverse_util.flatten_dict(params, sep='/')


def unflatten(flat: Mapping[str, Any]) -> Params:
  return flax.traverse_util.unflatten_dict(dict(flat), sep='/')


def split(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
  """Splits parameters into (trainable, frozen) by their paths.

  Args:
    params: Nested dict.
    patterns: Regular expressions, looked for at the start of a path such as
      'decoder/groups/cross_attention/gate'; one that starts with '!' freezes.
      The first that matches decides; what none matches is frozen.

  Raises:
    ValueError: a pattern that decides nothing, or nothing trains.
  """
  if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
    raise ValueError(
        "TRAINABLE must be a tuple of texts, such as ('decoder/.*',), not "
        f'{patterns!r}.'
    )
  rules = [
      (compiled('TRAINABLE', p.removeprefix('!')), not p.startswith('!'))
      for p in patterns
  ]
  deciding = set()
  trainable, frozen = {}, {}
  flat = flatten(params)
  for path, leaf in flat.items():
    trains = False
    for i, (regex, value) in enumerate(rules):
      if regex.match(path):
        deciding.add(i)
        trains = value
        break
    (trainable if trains else frozen)[path] = leaf
  setting = f'TRAINABLE={tuple(patterns)}'
  check_deciding(setting, patterns, deciding, flat)
  if not trainable:
    raise ValueError(f'{setting}: nothing trains; {_starts(flat)}.')
  return unflatten(trainable), unflatten(frozen)


def compiled(setting: str, pattern: str) -> re.Pattern[str]:
  """A path regex of the setting; ValueError if it is none."""
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
        f'{setting}: {pattern!r} is no regular expression ({error}).'
    ) from None


def check_deciding(
    setting: str,
    patterns: Sequence[str],
    deciding: Collection[int],
    paths: Iterable[str],
) -> None:
  """Raises ValueError where a pattern is not the first to match any path.

  Args:
    setting: What holds the patterns, for the message.
    patterns: Of which the first that matches decides.
    deciding: Indices of those that decide.
    paths: Of the parameters.
  """
  idle = [p for i, p in enumerate(patterns) if i not in deciding]
  if idle:
    raise ValueError(
        f'{setting}: {idle} decide no parameter; {_starts(paths)}.'
    )


def _starts(paths: Iterable[str]) -> str:
  modules = sorted({'/'.join(path.split('/')[:2]) for path in paths})
  return f'parameters start with {", ".join(modules)}'


def rounded(path: str, x: Any, dtype: Any) -> Any:
  """A frozen parameter (or its shape) as it is held: large ones in `dtype`.

  Where that is the compute dtype, models read the very same values.
  """
  if not _ROUNDED.fullmatch(path):
    return x
  is_shape = isinstance(x, jax.ShapeDtypeStruct)
  return x.update(dtype=dtype) if is_shape else x.astype(dtype)


def merge(trainable: Params, frozen: Params) -> Params:
  """The inverse of `split`."""
  return unflatten({**flatten(trainable), **flatten(frozen)})

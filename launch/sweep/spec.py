"""The sweep that a TOML file asks for, whole and valid, or a ValueError.

  [sweep]
  name = 'rates'
  base = ['experiments/quickstart_synthetic/pretrain_encoder.gin']
  objective = 'max eval/synthetic_events/encoder_head/recall@10/unseen'
  seeds = [0, 1, 2]      # SEED; default [0]
  retries = 2            # of a trial that fails

  [set]                  # the same in every trial
  NUM_STEPS = 300
  [grid]                 # every combination
  LEARNING_RATE = [1e-3, 3e-3]
  [[zip]]                # values that go together; there may be several
  ENCODER_LAYERS = [2, 4]
  ENCODER_DIM = [64, 128]
  [random]               # n draws
  n = 8
  seed = 7
  WEIGHT_DECAY = {log = [1e-4, 1e-1]}
  [when]                 # only where other macros have these values
  WARMUP_STEPS = {if = {ENCODER_LAYERS = 4}, values = [50, 200]}

Names are UPPER_CASE macros of the gin files. Values are as in job files: a text
that starts with @ or % is gin's; {gin = 'None'} is any other value of gin's.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import re
from typing import Any

from launch import flags
from launch import spec as spec_lib
from launch.sweep import spaces as spaces_lib

# A value as gin writes it.
Text = str
SEED = 'SEED'
_SECTIONS = ('sweep', 'set', 'grid', 'zip', 'random', 'when')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """A scalar of metrics.jsonl, its last value in a run, and its better side."""

  metric: str
  is_max: bool

  def cost(self, value: float) -> float:
    """The lower the better; NaN is the worst."""
    if math.isnan(value):
      return math.inf
    return -value if self.is_max else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class When:
  """Values of a macro, only where others have one of some values each."""

  macro: str
  conditions: Mapping[str, Sequence[Text]]
  values: Sequence[Text]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSpec:
  """See the module. Macros' values are text as gin writes it."""

  name: str
  base: Sequence[str]
  objective: Objective
  seeds: Sequence[int] = (0,)
  retries: int = 2
  fixed: Mapping[str, Text] = dataclasses.field(default_factory=dict)
  grid: Mapping[str, Sequence[Text]] = dataclasses.field(default_factory=dict)
  zips: Sequence[Mapping[str, Sequence[Text]]] = ()
  draws: int = 1
  draw_seed: int = 0
  spaces: Mapping[str, spaces_lib.Space] = dataclasses.field(
      default_factory=dict
  )
  whens: Sequence[When] = ()

  @property
  def macros(self) -> list[str]:
    """All that are named, in the order of the file's sections, SEED last."""
    return [
        *self.fixed,
        *self.grid,
        *(macro for group in self.zips for macro in group),
        *self.spaces,
        *(when.macro for when in self.whens),
        SEED,
    ]


def load(path: str, gin: Mapping[str, Text] | None = None) -> SweepSpec:
  """Reads a file.

  Args:
    path: TOML.
    gin: Further macros of [set], which win.

  Raises:
    ValueError: naming the file, the key and how to mend it.
  """
  values = flags.load_toml(path)
  try:
    spec = _parse(values, gin or {})
    _check(spec)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return spec


def _parse(values: Mapping[str, Any], gin: Mapping[str, Text]) -> SweepSpec:
  _check_keys('section', '', values, _SECTIONS)
  for section in _SECTIONS:
    wanted = list if section == 'zip' else dict
    if not isinstance(values.get(section, wanted()), wanted):
      brackets = '[[zip]]' if section == 'zip' else f'[{section}]'
      raise ValueError(f'{section} must be a section: {brackets}.')
  sweep = values.get('sweep', {})
  known = ('name', 'base', 'objective', 'seeds', 'retries')
  _check_keys('key', '[sweep] ', sweep, known)
  for key in known[:3]:
    if key not in sweep:
      raise ValueError(f'[sweep] {key} is missing.')
  draws = dict(values.get('random', {}))
  numbers = {
      'draws': draws.pop('n', 1), 'draw_seed': draws.pop('seed', 0)
  }
  if draws and 'n' not in values['random']:
    raise ValueError('[random] n is missing: how many draws.')
  if numbers['draws'] != 1 and not draws:
    raise ValueError('[random] has n, and no macro to draw.')
  fixed = {k: _text('set', k, v) for k, v in values.get('set', {}).items()}
  return SweepSpec(
      name=sweep['name'],
      base=sweep['base'],
      objective=_objective(sweep['objective']),
      seeds=sweep.get('seeds', [0]),
      retries=sweep.get('retries', 2),
      fixed={**fixed, **gin},
      grid=_lists('grid', values.get('grid', {})),
      zips=[_zip(group) for group in values.get('zip', [])],
      spaces={k: _space(k, v) for k, v in draws.items()},
      whens=[_when(k, v) for k, v in values.get('when', {}).items()],
      **numbers,
  )


def _check_keys(
    what: str, where: str, values: Mapping[str, Any], known: Sequence[str]
) -> None:
  for key in values:
    if key not in known:
      raise ValueError(
          f'{where}unknown {what} {key!r}; there are: {", ".join(known)}.'
          + spec_lib.suggestion(key, known)
      )


def _objective(text: Any) -> Objective:
  side, _, metric = text.partition(' ') if isinstance(text, str) else ('',) * 3
  if side not in ('max', 'min') or not metric.strip():
    raise ValueError(
        f"[sweep] objective = {text!r}: must be 'max NAME' or 'min NAME', NAME "
        'of metrics.jsonl: eval/<task>/<row>/<metric> or train/loss.'
    )
  return Objective(metric=metric.strip(), is_max=side == 'max')


def _text(section: str, macro: str, value: Any) -> Text:
  """A TOML value as gin writes it."""
  is_gin = isinstance(value, dict) and list(value) == ['gin']
  if is_gin and isinstance(value['gin'], str):
    return value['gin']
  if isinstance(value, str):
    is_gin = value.startswith(('@', '%'))
    return value if is_gin else json.dumps(value, ensure_ascii=False)
  if isinstance(value, list):
    return f'[{", ".join(_text(section, macro, x) for x in value)}]'
  is_number = type(value) in (int, float) and math.isfinite(value)
  if isinstance(value, bool) or is_number:
    return repr(value)
  raise ValueError(
      f'[{section}] {macro}: {value!r} must be a text, a finite number, true, '
      "false, a list of such, or {gin = 'TEXT'}."
  )


def _lists(
    section: str, values: Mapping[str, Any]
) -> dict[str, tuple[Text, ...]]:
  for macro, options in values.items():
    if not isinstance(options, list) or not options:
      raise ValueError(
          f'[{section}] {macro} = {options!r}: must be a list of the values to '
          'try. What is the same everywhere belongs to [set].'
      )
  return {
      macro: tuple(_text(section, macro, option) for option in options)
      for macro, options in values.items()
  }


def _zip(values: Any) -> dict[str, tuple[Text, ...]]:
  if not isinstance(values, dict):
    raise ValueError('zip must be a section: [[zip]].')
  group = _lists('zip', values)
  lengths = {macro: len(options) for macro, options in group.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(
        f'[[zip]] moves its macros together, and they have {lengths} values: '
        'give each as many.'
    )
  return group


def _space(macro: str, value: Any) -> spaces_lib.Space:
  try:
    space = spaces_lib.parse(value)
  except ValueError as error:
    raise ValueError(f'[random] {macro} = {error}') from error
  if isinstance(space, spaces_lib.Choice):
    for option in space.values:
      _text('random', macro, option)
  return space


def _when(macro: str, value: Any) -> When:
  if not isinstance(value, dict) or set(value) != {'if', 'values'}:
    raise ValueError(
        f'[when] {macro} = {value!r}: must be {{if = {{OTHER = VALUE}}, values '
        '= [VALUES]}.'
    )
  if not isinstance(value['if'], dict) or not value['if']:
    raise ValueError(f'[when] {macro}: if must be {{OTHER = VALUE}}.')
  conditions = {}
  for other, wanted in value['if'].items():
    options = wanted if isinstance(wanted, list) else [wanted]
    conditions[other] = tuple(_text('when', macro, x) for x in options)
  return When(
      macro=macro,
      conditions=conditions,
      values=_lists('when', {macro: value['values']})[macro],
  )


def drawn_text(value: Any) -> Text:
  """A drawn value as gin writes it."""
  return _text('random', '', value)


def _check(spec: SweepSpec) -> None:
  """Raises for what a single value does not tell."""
  if not isinstance(spec.name, str) or not spec.name:
    raise ValueError('[sweep] name must be a text.')
  is_list = isinstance(spec.base, list) and spec.base
  if not is_list or not all(isinstance(x, str) for x in spec.base):
    raise ValueError("[sweep] base must be a list of gin files: ['FILE.gin'].")
  for key, value in (
      ('[random] n', spec.draws - 1),
      ('[random] seed', spec.draw_seed),
      ('[sweep] retries', spec.retries),
  ):
    if not _is_count(value):
      raise ValueError(f'{key} must be a whole number, not negative.')
  is_list = isinstance(spec.seeds, list) and spec.seeds
  if not is_list or not all(map(_is_count, spec.seeds)):
    raise ValueError(
        f'[sweep] seeds = {spec.seeds!r} must be a list of whole numbers, none '
        'negative: seeds = [0, 1].'
    )
  if len(set(spec.seeds)) != len(spec.seeds):
    raise ValueError(f'[sweep] seeds = {spec.seeds} has one of them twice.')
  _check_macros(spec)


def _is_count(value: Any) -> bool:
  return type(value) is int and value >= 0


def _check_macros(spec: SweepSpec) -> None:
  seen: set[str] = set()
  for macro in spec.macros:
    if not re.fullmatch(r'[A-Z][A-Z0-9_]*', macro):
      raise ValueError(
          f'{macro!r} is no UPPER_CASE macro.'
          + (f' Did you mean {macro.upper()}?' if macro.isidentifier() else '')
      )
    if macro in seen:
      mend = (
          'seeds belong to [sweep] seeds' if macro == SEED
          else 'keep one of them'
      )
      raise ValueError(f'{macro} is set in two places: {mend}.')
    seen.add(macro)
  known = set(spec.macros) - {SEED} - {when.macro for when in spec.whens}
  for when in spec.whens:
    for other in when.conditions:
      if other not in known:
        raise ValueError(
            f'[when] {when.macro}: nothing before it in this file sets {other}.'
            + spec_lib.suggestion(other, known)
        )
    known.add(when.macro)

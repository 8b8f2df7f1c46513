"""What a table of the paper needs: runs, in order, from TOML files beside this.

A scale says how large and how long everything is; its file may be the user's.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import difflib
import functools
import pathlib
import re
from typing import Any

from launch import flags

_HERE = pathlib.Path(__file__).resolve().parent
_RUN_KEYS = ('gin', 'sizes', 'needs', 'macros', 'text', 'labels', 'mode')
_CHANGES = ('from', 'swap', 'more_gin', 'more_sizes')
_MACRO = re.compile(r'^([A-Z][A-Z0-9_]*) *=', re.MULTILINE)
DECODER = 'DECODER'
DECODER_CHECKPOINT = 'DECODER_CHECKPOINT'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One command of `user_llm.main`.

  Attributes:
    name: Also of its folder.
    gin: Files.
    sizes: Sections of the scale.
    needs: {macro: run whose workdir it is}.
    macros: {macro: value}.
    text: That the events must have; '': none.
    labels: Whether the items must have genres or categories.
    mode: 'train' or 'cost'.
  """

  name: str
  gin: tuple[str, ...]
  sizes: tuple[str, ...]
  needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
  macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  text: str = ''
  labels: bool = False
  mode: str = 'train'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A line of a table: a row of a run's evaluation."""

  title: str
  run: str
  model: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """One table of the paper; without rows it is what a `cost` run wrote.

  With `labels` it is for items that have genres or categories.
  """

  name: str
  title: str
  labels: bool = False
  tasks: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ()
  rows: tuple[Row, ...] = ()
  cost: str = ''

  @property
  def runs(self) -> tuple[str, ...]:
    """Names of those it shows."""
    return tuple(dict.fromkeys(row.run for row in self.rows)) or (self.cost,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
  """How large and how long.

  Attributes:
    name: Of the file.
    decoder: gin file; 'models/decoder_pretrained.gin' needs --weights.
    vocabulary_size: Pieces; None with a pretrained decoder.
    seeds: Every run has each.
    sections: {name: {macro: value}}.
  """

  name: str
  decoder: str
  vocabulary_size: int | None
  seeds: tuple[int, ...]
  sections: Mapping[str, Mapping[str, Any]]

  @property
  def is_pretrained(self) -> bool:
    return 'pretrained' in self.decoder

  def macros(self, run: Run) -> dict[str, Any]:
    """A run's sizes and its own macros; the last of a name wins."""
    found: dict[str, Any] = {}
    for section in run.sizes:
      found |= self.sections[section]
    return found | run.macros


def scales() -> list[str]:
  return sorted(path.stem for path in (_HERE / 'scales').glob('*.toml'))


def load_scale(name: str) -> Scale:
  """Reads a scale by its name, or a file of the user's.

  A file with `from = 'small'` says only what it has otherwise than that scale.

  Raises:
    ValueError: naming the file and the key.
  """
  path = pathlib.Path(name)
  if path.suffix != '.toml':
    path = _scale_path(name, '--scale')
  values = _read(path)
  if 'from' in values:
    values = _changed(_scale_path(values.pop('from'), f'{path}: from'), values)
  sections = {k: v for k, v in values.items() if isinstance(v, dict)}
  known = {'decoder_file': str, 'seeds': list}
  if 'pretrained' not in str(values.get('decoder_file')):
    known['vocabulary_size'] = int
  for key, kind in known.items():
    if not isinstance(values.get(key), kind):
      raise ValueError(f'{path}: {key} must be given, a {kind.__name__}.')
  scale = Scale(
      name=path.stem,
      decoder=values['decoder_file'],
      vocabulary_size=values.get('vocabulary_size'),
      seeds=tuple(values['seeds']),
      sections=sections,
  )
  names = [run for table in load_tables().values() for run in table.runs]
  wanted = {
      section for run in needed(names, scale) for section in run.sizes
  }
  for key in values:
    names = wanted if key in sections else known
    if key not in names:
      raise ValueError(f'{path}: {key} is unknown.{_close(key, names)}')
  known_macros = _macros()
  for section in sections.values():
    for macro in section.keys() - known_macros:
      raise ValueError(
          f'{path}: no gin file has {macro}.{_close(macro, known_macros)}'
      )
  missing = sorted(wanted - sections.keys())
  if missing:
    raise ValueError(f'{path}: section [{missing[0]}] is missing.')
  if not values['seeds'] or not all(type(s) is int for s in values['seeds']):
    raise ValueError(f'{path}: seeds must be whole numbers, one or more.')
  return scale


def _scale_path(name: Any, what: str) -> pathlib.Path:
  if name not in scales():
    raise ValueError(
        f'{what}={name}: one of {", ".join(scales())}'
        f'{", or a TOML file" if what == "--scale" else ""}.'
    )
  return _HERE / 'scales' / f'{name}.toml'


def _changed(base: pathlib.Path, values: Mapping[str, Any]) -> dict[str, Any]:
  """A scale with other values, macro by macro."""
  found = _read(base)
  for key, value in values.items():
    if isinstance(value, dict) and isinstance(found.get(key), dict):
      value = found[key] | value
    found[key] = value
  return found


def load_runs() -> dict[str, Run]:
  """All runs by name, those before that others need or are made from."""
  found: dict[str, Run] = {}
  for name, values in _read(_HERE / 'tables.toml')['runs'].items():
    unknown = values.keys() - {*_RUN_KEYS, *_CHANGES}
    if unknown:
      raise ValueError(f'[runs.{name}]: {", ".join(unknown)} is unknown.')
    fields: dict[str, Any] = {}
    if 'from' in values:
      fields = dataclasses.asdict(found[values['from']])
    fields |= {key: values[key] for key in _RUN_KEYS if key in values}
    swap = values.get('swap', {})
    gin = [swap.get(file, file) for file in fields['gin']]
    fields |= {
        'name': name,
        'gin': (*gin, *values.get('more_gin', ())),
        'sizes': (*fields['sizes'], *values.get('more_sizes', ())),
    }
    found[name] = Run(**fields)
  return found


def load_tables() -> dict[str, Table]:
  tables = {}
  for name, values in _read(_HERE / 'tables.toml')['tables'].items():
    tables[name] = Table(
        name=name,
        title=values['title'],
        labels=values.get('labels', False),
        tasks=tuple(values.get('task', ())),
        metrics=tuple(values.get('metrics', ())),
        rows=tuple(
            Row(title=title, run=run, model=model)
            for title, run, model in values.get('rows', ())
        ),
        cost=values.get('cost', ''),
    )
  return tables


def titled(table: Table, scale: Scale) -> Table:
  """With the macros of their runs in the titles of its rows.

  Example: 'User-LLM, {HISTORY_LENGTH} events' -> 'User-LLM, 50 events'.

  Raises:
    ValueError: the scale lacks such a macro.
  """
  runs, rows = load_runs(), []
  for row in table.rows:
    run = runs[row.run]
    try:
      title = row.title.format_map(scale.macros(run))
    except KeyError as error:
      raise ValueError(
          f'--scale={scale.name}: {error.args[0]} must be given, in '
          f'[{"] or [".join(run.sizes)}].'
      ) from error
    rows.append(dataclasses.replace(row, title=title))
  return dataclasses.replace(table, rows=tuple(rows))


def published() -> dict[str, Any]:
  """Others' numbers; see `published.toml`."""
  return _read(_HERE / 'published.toml')


def needed(names: Sequence[str], scale: Scale) -> list[Run]:
  """The runs with all that they start from, in an order that can be run.

  A pretrained decoder is no run of ours.
  """
  runs, found = load_runs(), {}

  def add(name: str) -> None:
    run = runs[name]
    if scale.is_pretrained:
      needs = {k: v for k, v in run.needs.items() if k != DECODER_CHECKPOINT}
      run = dataclasses.replace(run, needs=needs)
    for other in run.needs.values():
      add(other)
    gin = tuple(scale.decoder if f == DECODER else f for f in run.gin)
    found.setdefault(name, dataclasses.replace(run, gin=gin))

  for name in names:
    add(name)
  return list(found.values())


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return flags.load_toml(str(path))
  except OSError as error:
    raise ValueError(f'{path}: {error}') from error


@functools.cache
def _macros() -> frozenset[str]:
  """Those of all gin files; which a run takes is seen when it starts."""
  return frozenset(
      match[1]
      for path in (_HERE.parents[1] / 'gin').rglob('*.gin')
      for match in _MACRO.finditer(path.read_text(encoding='utf-8'))
  )


def _close(word: str, known: Collection[str]) -> str:
  close = difflib.get_close_matches(word, list(known), n=1)
  return f' Did you mean {close[0]}?' if close else ''

"""Reads what a run has left in its workdir."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import os.path
import pathlib
from typing import Any

import numpy as np

from user_llm import per_example as per_example_lib
from user_llm.report import configs

_NEEDED = (
    'task', 'split', 'step', 'num_examples', 'split_rule', 'split_fingerprint',
    'models',
)
_NOTHING_KEPT = per_example_lib.PerExample(facts={}, values={})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
  """One `eval/<task>/<step>.json`.

  Attributes:
    path: Of the file.
    raw: What is in it.
  """

  path: pathlib.Path
  raw: Mapping[str, Any]

  def __post_init__(self):
    missing = [key for key in _NEEDED if key not in self.raw]
    if missing:
      raise ValueError(
          f'{self.path} has no {", ".join(missing)}: it is no evaluation. '
          'Evaluate again, or delete it.'
      )

  def __getitem__(self, key: str) -> Any:
    return self.raw[key]

  @property
  def protocol(self) -> str:
    return self.raw.get('protocol', '')

  @functools.cached_property
  def per_example(self) -> per_example_lib.PerExample:
    """The file beside it; nothing where an older version evaluated.

    Raises:
      ValueError: It is broken, or belongs to another evaluation.
    """
    path = self.path.with_suffix('.npz')
    if not path.is_file():
      return _NOTHING_KEPT
    found = per_example_lib.read(path)
    # An evaluation of an older version may lack a metric.
    pairs = [
        (value.mean(), self.raw['models'][row][name]['mean'])
        for row in found.values.keys() & self.raw['models'].keys()
        for name, value in found.metrics(row).items()
        if name in self.raw['models'][row]
    ]
    is_ours = (
        len(found) == self.raw['num_examples']
        and found.values.keys() <= self.raw['models'].keys()
        and np.allclose(*zip(*pairs), rtol=1e-5, atol=1e-9, equal_nan=True)
    )
    if not is_ours:
      raise ValueError(
          f'{path} does not belong to {self.path.name} beside it: evaluate '
          'again, or delete it to do without significance and slices.'
      )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
  """One workdir.

  Attributes:
    workdir: The directory.
    name: What it is called; no other run of a report is.
    label: What its seeds are called together; '' if that follows from names.
    identity: The same for runs of one configuration, whatever their seeds.
    macros: Of its configuration, as gin text.
    info: `run.json`.
    history: Lines of `metrics.jsonl`.
    evaluations: All of them.
  """

  workdir: pathlib.Path
  name: str
  label: str
  identity: str
  macros: Mapping[str, str]
  info: Mapping[str, Any]
  history: tuple[dict[str, float], ...]
  evaluations: tuple[Evaluation, ...]

  @property
  def state(self) -> str:
    """'trained', or 'unfinished, at step 20'."""
    if (self.workdir / 'DONE').exists():
      return 'trained'
    steps = max((line['step'] for line in self.history), default=0)
    return f'unfinished, at step {steps:,}'

  @property
  def latest(self) -> list[Evaluation]:
    """The newest evaluation of each task; the test split before others."""
    newest: dict[str, Evaluation] = {}
    for evaluation in self.evaluations:
      old = newest.get(evaluation['task'])
      if old is None or _rank(evaluation) >= _rank(old):
        newest[evaluation['task']] = evaluation
    return list(newest.values())


def together(names: Sequence[str], label: str = '') -> str:
  """What runs of several seeds are called: their label, 'lora_*', '3 runs'."""
  start = os.path.commonprefix(names)
  if label or len(names) == 1:
    return label or names[0]
  return f'{start}*' if start else f'{len(names)} runs'


def _rank(evaluation: Evaluation) -> tuple[bool, int]:
  return evaluation['split'] == 'test', evaluation['step']


def load_run(workdir: str | pathlib.Path) -> Run:
  """Reads one workdir; anything but the directory itself may be missing."""
  folder = pathlib.Path(workdir).resolve()
  if not folder.is_dir():
    raise ValueError(f'--workdirs: {workdir} is not a directory.')
  info = read_json(folder / 'run.json') if _is_run(folder) else {}
  return Run(
      workdir=folder,
      name=info.get('name', folder.name),
      label='',
      identity=configs.identity(folder),
      macros=configs.macros(folder),
      info=info,
      history=_history(folder / 'metrics.jsonl'),
      evaluations=tuple(
          Evaluation(path=path, raw=read_json(path))
          for path in sorted(folder.glob('eval/*/*.json'))
      ),
  )


def _history(path: pathlib.Path) -> tuple[dict[str, float], ...]:
  lines = path.read_text('utf-8').splitlines() if path.is_file() else []
  if lines:
    try:
      json.loads(lines[-1])
    except json.JSONDecodeError:
      lines.pop()  # The run was killed in the middle of it, or writes it now.
  return tuple(_parse(path, line) for line in lines)


def _is_run(folder: pathlib.Path) -> bool:
  return (folder / 'run.json').is_file()


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object of a file; raises ValueError where it is none."""
  found = _parse(path, path.read_text(encoding='utf-8'))
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds no JSON object.')
  return found


def _parse(path: pathlib.Path, text: str) -> Any:
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is no valid JSON: {error}.') from error

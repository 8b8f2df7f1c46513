"""A sweep's folder: all its state is files, so any number of workers share it.

  sweep.json             what is to be done: trials, objective, retries
  base.gin               the gin files alone, as they were at the start
  results.csv, results.md, best.gin
  trials/<8 hex>/        trial.json, config.gin, lease-<n>, attempts.jsonl,
                         pid-<n>, trial.log, run/ (the workdir), result.json
"""

from collections.abc import Mapping, Sequence
import ast
import dataclasses
import difflib
import hashlib
import json
import math
import pathlib
from typing import Any

from launch import files
from launch.sweep import attempt
from launch.sweep import expand
from launch.sweep import spec as spec_lib
from launch.sweep import check as check_lib

_PLAN, _BASE, _CONFIG = 'sweep.json', 'base.gin', 'config.gin'
_TRIAL, _RESULT, _CHECKS = 'trial.json', 'result.json', 'checks.json'
DONE, DIVERGED, FAILED = 'done', 'diverged', 'failed'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """One training and its folder.

  Attributes:
    path: The folder; its name is the trial's.
    overrides: 'NAME=VALUE' of gin.
    bindings: {macro: plain value, or gin's text}, SEED included.
    gin_files: What is overridden.
  """

  path: pathlib.Path
  overrides: Sequence[str]
  bindings: Mapping[str, Any]
  gin_files: Sequence[str]

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def workdir(self) -> pathlib.Path:
    return self.path / attempt.RUN

  @property
  def config(self) -> str:
    return (self.path / _CONFIG).read_text(encoding='utf-8')

  def result(self) -> dict[str, Any] | None:
    """What became of it; None as long as that is open."""
    path = self.path / _RESULT
    if not path.is_file():
      return None
    return json.loads(path.read_text(encoding='utf-8'))

  def write_result(self, **values: Any) -> None:
    files.write(self.path / _RESULT, json.dumps(values, indent=1) + '\n')

  def forget_failure(self) -> None:
    """Lets a failed trial be tried again as often as a new one."""
    result = self.result()
    if result is not None and result['status'] == FAILED:
      rows = [{**r, 'ended': 'forgiven'} for r in attempt.rows(self.path)]
      text = ''.join(json.dumps(row) + '\n' for row in rows)
      files.write(self.path / attempt.ATTEMPTS, text)
      (self.path / _RESULT).unlink()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What the workers of a folder do.

  Attributes:
    name: Of the sweep.
    objective: What is compared.
    retries: Of a trial that fails.
    varying: Macros besides SEED that differ among trials.
    trials: In the order in which they are begun.
  """

  name: str
  objective: spec_lib.Objective
  retries: int
  varying: Sequence[str]
  trials: Sequence[Trial]


def prepare(
    folder: pathlib.Path,
    spec: spec_lib.SweepSpec,
    base: check_lib.Checked,
    variants: Sequence[check_lib.Checked],
) -> Plan:
  """Makes what is missing of a sweep's folder; trials of before stay.

  Args:
    folder: Made if need be.
    spec: What is asked for.
    base: The gin files alone.
    variants: All trials; without config if they were checked before.

  Raises:
    ValueError: the folder has trials of other gin files.
  """
  check_base(folder, spec, base.config)
  folder.mkdir(parents=True, exist_ok=True)
  files.write(folder / _BASE, base.config)  # First: no trial is ever without it.
  names = [expand.trial_id(v.values, base.values) for v in variants]
  varying = expand.varying([v.values for v in variants], spec.macros)
  for name, variant in zip(names, variants):
    path = folder / 'trials' / name
    path.mkdir(parents=True, exist_ok=True)
    if variant.config:
      files.write(path / _CONFIG, variant.config)
    trial = {
        'bindings': {k: plain(v) for k, v in variant.values.items()},
        'varying': varying,
        'seed': plain(variant.values[spec_lib.SEED]),
        'overrides': check_lib.overrides(dict(variant.values)),
        'gin_files': list(spec.base),
        'base': hashlib.sha256(base.config.encode()).hexdigest(),
    }
    files.write(path / _TRIAL, json.dumps(trial, indent=1) + '\n')
  plan = {
      'name': spec.name,
      'objective': dataclasses.asdict(spec.objective),
      'retries': spec.retries,
      'varying': varying,
      'trials': list(dict.fromkeys(names)),
  }
  files.write(folder / _PLAN, json.dumps(plan, indent=1) + '\n')
  return load(folder)


def check(
    folder: pathlib.Path,
    spec: spec_lib.SweepSpec,
    variants: Sequence[expand.Bindings],
    checker: check_lib.Checker,
) -> tuple[check_lib.Checked, list[check_lib.Checked]]:
  """Checks the gin files, and the variants that were not checked before.

  A worker that joins others then needs none of the devices they work on.

  Raises:
    ValueError: the folder has trials of other gin files, or some cannot run.
  """
  path = folder / _CHECKS
  known = json.loads(path.read_text()) if path.is_file() else {}
  prepared = _prepared(folder)
  known = {
      key: values
      for key, values in known.items()
      if tuple(check_lib.overrides(values)) in prepared
  }
  keys = [json.dumps(check_lib.overrides(variant)) for variant in variants]
  new = [v for key, v in zip(keys, variants) if key not in known]
  base, checked = checker(spec.base, new)
  check_base(folder, spec, base.config)
  check_lib.raise_errors(new, checked)
  found = iter(checked)
  rows = [
      check_lib.Checked(error=None, values=known[key])
      if key in known
      else next(found)
      for key in keys
  ]
  values = {key: dict(row.values) for key, row in zip(keys, rows)}
  folder.mkdir(parents=True, exist_ok=True)
  files.write(path, json.dumps({**known, **values}) + '\n')
  return base, rows


def _prepared(folder: pathlib.Path) -> set[tuple[str, ...]]:
  """The overrides of each trial whose config is there.

  One that was checked has none if its worker was killed before `prepare`.
  """
  return {
      tuple(json.loads(path.read_text(encoding='utf-8'))['overrides'])
      for path in folder.glob(f'trials/*/{_TRIAL}')
      if (path.parent / _CONFIG).is_file()
  }


def load(folder: pathlib.Path) -> Plan:
  """The plan as it is now: another worker may have extended it."""
  path = folder / _PLAN
  if not path.is_file():
    raise ValueError(f'{folder} is not the folder of a sweep: no {_PLAN}.')
  values = json.loads(path.read_text(encoding='utf-8'))
  values['objective'] = spec_lib.Objective(**values['objective'])
  values['trials'] = [_load(folder / 'trials' / n) for n in values['trials']]
  return Plan(**values)


def _load(path: pathlib.Path) -> Trial:
  values = json.loads((path / _TRIAL).read_text(encoding='utf-8'))
  fields = ('overrides', 'bindings', 'gin_files')
  return Trial(path=path, **{key: values[key] for key in fields})


def plain(text: str) -> Any:
  """A value of gin's as JSON has it; what is no literal stays text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def check_base(
    folder: pathlib.Path, spec: spec_lib.SweepSpec, config: str
) -> None:
  """Raises ValueError if the folder has trials of other gin files."""
  path = folder / _BASE
  if not path.is_file():
    return
  old = path.read_text(encoding='utf-8')
  lines = difflib.unified_diff(
      old.splitlines(), config.splitlines(), n=0, lineterm=''
  )
  diff = [l for l in lines if not l.startswith(('---', '+++', '@@'))]
  if diff:
    raise ValueError(
        f'{folder} has trials of another config than {", ".join(spec.base)} is '
        'now (- then, + now):\n  ' + '\n  '.join(diff) + '\nPut it back, or '
        'give another --out.'
    )


def last_scalars(workdir: pathlib.Path) -> dict[str, float]:
  """The last value of each name in a run's metrics.jsonl."""
  path = workdir / 'metrics.jsonl'
  scalars: dict[str, float] = {}
  text = path.read_text(encoding='utf-8') if path.is_file() else ''
  for line in text.splitlines():
    try:
      scalars |= json.loads(line)
    except json.JSONDecodeError:
      continue  # The run was killed in the middle of this line.
  return scalars


def value_of(result: Mapping[str, Any], objective: spec_lib.Objective) -> float:
  """The objective; NaN of a trial that diverged.

  Raises:
    ValueError: the run ended well and has no such scalar.
  """
  scalars = result['scalars']
  if result['status'] == DIVERGED:
    return math.nan
  if objective.metric not in scalars:
    names = [name for name in scalars if name != 'step']
    close = difflib.get_close_matches(objective.metric, names, n=1)
    raise ValueError(
        f'objective: a finished trial has no {objective.metric!r}.'
        + (f' Did you mean {close[0]}?' if close else '')
        + ' There are:\n  ' + '\n  '.join(sorted(names) or ['nothing'])
        + '\nMend [sweep] objective and start again: what is done stays done.'
    )
  return scalars[objective.metric]

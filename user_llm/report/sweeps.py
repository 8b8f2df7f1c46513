"""Reads the folder of a sweep: `trials/<id>/run` and `trial.json` beside it."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib

from user_llm.report import runs as runs_lib

TRIALS = 'trials'
TRIAL_FILE = 'trial.json'
_SEED = 'SEED'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unfinished:
  """A trial of which there are no results.

  Attributes:
    name: The values that tell it from others.
    state: What there is of it.
  """

  name: str
  state: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """All trials of a sweep.

  Attributes:
    varying: The macros that vary besides the seed.
    runs: Trials with evaluations, called by these macros' values.
    unfinished: The others.
  """

  varying: tuple[str, ...]
  runs: tuple[runs_lib.Run, ...]
  unfinished: tuple[Unfinished, ...]


def is_sweep(folder: str) -> bool:
  return (pathlib.Path(folder) / TRIALS).is_dir()


def load(folder: str) -> Sweep:
  """Reads a sweep.

  Raises:
    ValueError: It has no trials, or a trial's file is broken.
  """
  root = pathlib.Path(folder).resolve()
  trials = sorted(p for p in (root / TRIALS).iterdir() if p.is_dir())
  if not trials:
    raise ValueError(f'{root / TRIALS} is empty: the sweep has no trials yet.')
  varying: dict[str, None] = {}
  runs, unfinished = [], []
  for trial in trials:
    if not (trial / TRIAL_FILE).is_file():
      unfinished.append(
          Unfinished(name=trial.name, state=f'has no {TRIAL_FILE} yet')
      )
      continue
    bindings, its_varying = _read(trial / TRIAL_FILE)
    varying |= dict.fromkeys(its_varying)
    label = ', '.join(f'{k}={bindings[k]}' for k in its_varying) or root.name
    seed = f'{_SEED}={bindings[_SEED]}' if _SEED in bindings else trial.name
    name = f'{label}, {seed}'
    workdir = trial / 'run'
    if not workdir.is_dir():
      unfinished.append(Unfinished(name=name, state='not started'))
      continue
    run = runs_lib.load_run(workdir)
    if not run.evaluations:
      state = f'{run.state}, not evaluated'
      unfinished.append(Unfinished(name=name, state=state))
      continue
    identity = {k: v for k, v in bindings.items() if k != _SEED}
    runs.append(
        dataclasses.replace(
            run,
            name=name,
            label=label,
            identity=f'{root} {json.dumps(identity, sort_keys=True)}',
            macros={**run.macros, **bindings},
        )
    )
  return Sweep(
      varying=tuple(varying), runs=tuple(runs), unfinished=tuple(unfinished)
  )


def _read(path: pathlib.Path) -> tuple[dict[str, str], list[str]]:
  """Bindings, as text, and the names of those that vary."""
  raw = runs_lib.read_json(path)
  bindings, varying = raw.get('bindings'), raw.get('varying')
  if not isinstance(bindings, Mapping) or not isinstance(varying, list):
    raise ValueError(
        f'{path} needs "bindings", an object, and "varying", a list.'
    )
  if missing := [name for name in varying if name not in bindings]:
    raise ValueError(
        f'{path}: {", ".join(missing)} of "varying" are not in "bindings".'
    )
  return {name: str(value) for name, value in bindings.items()}, varying

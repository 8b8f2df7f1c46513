"""`--sampler optuna`: each draw of [random] learns from those that have ended.

The study lies in the sweep's folder, so that all workers share it. The points
that it was asked for are the sweep: a trial is named, leased, checked and
resumed as any other. Needs `pip install user_llm[optuna]`.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
import statistics
from typing import Any

from launch import exit_codes
from launch.sweep import check as check_lib
from launch.sweep import expand
from launch.sweep import folder as folder_lib
from launch.sweep import spaces
from launch.sweep import spec as spec_lib
from launch.sweep import worker as worker_lib

_JOURNAL = 'optuna.journal'


def run(
    spec: spec_lib.SweepSpec,
    worker: worker_lib.Worker,
    checker: check_lib.Checker,
) -> int:
  """Asks, runs and tells until [random] n points are done.

  Returns:
    The exit code; see `worker.Worker.run`.

  Raises:
    ValueError: optuna is missing, the sweep has more than [random] to search,
      or what `worker.Worker.run` raises.
  """
  if not spec.spaces or spec.grid or spec.zips or spec.whens:
    raise ValueError(
        '--sampler=optuna searches [random] alone: give its macros spaces '
        'there, and leave [grid], [[zip]] and [when] out.'
    )
  study = _study(spec, worker.folder)
  while True:
    is_last = len(_asked(spec, study)) >= spec.draws
    if not is_last:
      study.sampler = _sampler(spec.draw_seed + len(study.trials))
      _ask(spec, study)
    asked = _asked(spec, study)
    variants = [
        {**_point(spec, trial.params), spec_lib.SEED: str(seed)}
        for trial in asked
        for seed in spec.seeds
    ]
    base, checked = folder_lib.check(worker.folder, spec, variants, checker)
    plan = folder_lib.prepare(worker.folder, spec, base, checked)
    worker.waits_for_others = is_last
    code = worker.run()
    names = [expand.trial_id(row.values, base.values) for row in checked]
    for i, trial in enumerate(asked):
      own = names[i * len(spec.seeds) : (i + 1) * len(spec.seeds)]
      _tell(study, trial, [t for t in plan.trials if t.name in own], plan)
    if is_last or code == exit_codes.PREEMPTED:
      return code


def _asked(spec: spec_lib.SweepSpec, study: Any) -> list[Any]:
  """The points of all workers; without one that is still being asked for."""
  return [t for t in study.trials if set(t.params) == set(spec.spaces)]


def _sampler(seed: int) -> Any:
  import optuna  # pylint: disable=g-import-not-at-top

  # Points that others are at work on count as bad: no two try the same.
  return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _study(spec: spec_lib.SweepSpec, folder: pathlib.Path) -> Any:
  try:
    import optuna  # pylint: disable=g-import-not-at-top
    from optuna.storages import journal  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ValueError(
        "--sampler=optuna needs optuna: pip install '.[optuna]'."
    ) from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  folder.mkdir(parents=True, exist_ok=True)
  # Not SQLite: on shared file systems its locks fail.
  backend = journal.JournalFileBackend(str(folder / _JOURNAL))
  return optuna.create_study(
      study_name=spec.name,
      storage=optuna.storages.JournalStorage(backend),
      direction='maximize' if spec.objective.is_max else 'minimize',
      load_if_exists=True,
  )


def _ask(spec: spec_lib.SweepSpec, study: Any) -> None:
  trial = study.ask()
  for macro, space in spec.spaces.items():
    if isinstance(space, spaces.Choice):
      texts = [spec_lib.drawn_text(value) for value in space.values]
      trial.suggest_categorical(macro, texts)
      continue
    is_whole = type(space.low) is int and type(space.high) is int
    suggest = trial.suggest_int if is_whole else trial.suggest_float
    is_log = isinstance(space, spaces.Log)
    suggest(macro, space.low, space.high, log=is_log)


def _point(
    spec: spec_lib.SweepSpec, params: Mapping[str, Any]
) -> expand.Bindings:
  return {
      **spec.fixed,
      **{
          macro: value if isinstance(value, str) else repr(value)
          for macro, value in params.items()
      },
  }


def _tell(
    study: Any,
    trial: Any,
    trainings: Sequence[folder_lib.Trial],
    plan: folder_lib.Plan,
) -> None:
  """Tells the mean over seeds of a point whose trainings have all ended."""
  ends = [training.result() for training in trainings]
  if trial.state.is_finished() or None in ends:
    return
  is_failed = any(end['status'] != folder_lib.DONE for end in ends)
  values = [] if is_failed else [
      folder_lib.value_of(end, plan.objective) for end in ends
  ]
  # Without a value it counts as failed; another worker may have told it.
  mean = statistics.fmean(values) if values else None
  is_good = mean is not None and math.isfinite(mean)
  study.tell(
      trial.number,
      mean if is_good else None,
      state=None if is_good else _fail_state(),
      skip_if_finished=True,
  )


def _fail_state() -> Any:
  import optuna  # pylint: disable=g-import-not-at-top

  return optuna.trial.TrialState.FAIL

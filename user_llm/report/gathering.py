"""All that a report is about, from the folders that it is given."""

from collections.abc import Sequence
import collections
import dataclasses
import itertools

from user_llm.report import comparability
from user_llm.report import cost_quality
from user_llm.report import results
from user_llm.report import runs as runs_lib
from user_llm.report import significance
from user_llm.report import sweeps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What is shown.

  Attributes:
    runs: The workdirs, also those of sweeps' trials.
    unfinished: Trials without results.
    varying: The macros that vary in sweeps.
    costs: What requests cost.
    tables: Their results side by side.
    questions: What may be compared.
    comparisons: Of each table's rows with one of them, or None.
  """

  runs: tuple[runs_lib.Run, ...]
  unfinished: tuple[sweeps.Unfinished, ...]
  varying: tuple[str, ...]
  costs: tuple[cost_quality.Costs, ...]
  tables: tuple[results.Table, ...]
  questions: tuple[comparability.Question, ...]
  comparisons: tuple[significance.Comparison | None, ...]


def gather(workdirs: Sequence[str], against: str | None = None) -> Report:
  """Reads everything.

  Args:
    workdirs: Of runs; folders of sweeps; cost.json files or their folders.
    against: The row that others are compared with; None: see
      `significance.compare`.

  Raises:
    ValueError: A workdir does not exist or holds a broken file, or no table has
      the row `against`.
  """
  runs, unfinished, costs = [], [], []
  varying: dict[str, None] = {}
  for workdir in workdirs:
    if path := cost_quality.cost_path(workdir):
      costs.append(cost_quality.load(path))
    elif sweeps.is_sweep(workdir):
      sweep = sweeps.load(workdir)
      runs += sweep.runs
      unfinished += sweep.unfinished
      varying |= dict.fromkeys(sweep.varying)
    else:
      runs.append(runs_lib.load_run(workdir))
  runs = _with_names(runs)
  tables = results.make_tables(runs)
  return Report(
      runs=tuple(runs),
      unfinished=tuple(unfinished),
      varying=tuple(varying),
      costs=tuple(costs),
      tables=tuple(tables),
      comparisons=tuple(significance.compare_all(tables, against)),
      questions=tuple(comparability.questions(runs)),
  )


def _with_names(runs: Sequence[runs_lib.Run]) -> list[runs_lib.Run]:
  """Runs of one name are called by their folders too, as many as it takes."""
  runs = list({run.workdir.resolve(): run for run in runs}.values())
  names = [run.name for run in runs]
  for depth in itertools.count(2):
    counts = collections.Counter(names)
    if len(counts) == len(runs):
      break
    names = [
        '/'.join(run.workdir.resolve().parts[-depth:])
        if counts[name] > 1
        else name
        for name, run in zip(names, runs)
    ]
  return [
      dataclasses.replace(run, name=name) for name, run in zip(names, runs)
  ]

"""All that a report is about, from the folders that it is given."""

from collections.abc import Sequence
import collections
import dataclasses

from user_llm.report import comparability
from user_llm.report import results
from user_llm.report import runs as runs_lib
from user_llm.report import significance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What is shown.

  Attributes:
    runs: The workdirs.
    tables: Their results side by side.
    questions: What may be compared.
    comparisons: Of each table's rows with one of them, or None.
  """

  runs: tuple[runs_lib.Run, ...]
  tables: tuple[results.Table, ...]
  questions: tuple[comparability.Question, ...]
  comparisons: tuple[significance.Comparison | None, ...]


def gather(workdirs: Sequence[str], against: str | None = None) -> Report:
  """Reads everything.

  Args:
    workdirs: Of runs.
    against: The row that others are compared with; None: see
      `significance.compare`.

  Raises:
    ValueError: A workdir does not exist or holds a broken file, or no table has
      the row `against`.
  """
  runs = _with_names([runs_lib.load_run(workdir) for workdir in workdirs])
  tables = results.make_tables(runs)
  return Report(
      runs=tuple(runs),
      tables=tuple(tables),
      comparisons=tuple(significance.compare_all(tables, against)),
      questions=tuple(comparability.questions(runs)),
  )


def _with_names(runs: Sequence[runs_lib.Run]) -> list[runs_lib.Run]:
  """Runs of one name are called by their folders too."""
  counts = collections.Counter(run.name for run in runs)
  return [
      dataclasses.replace(run, name='/'.join(run.workdir.parts[-2:]))
      if counts[run.name] > 1
      else run
      for run in runs
  ]

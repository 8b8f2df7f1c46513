"""Tables of what a sweep has found so far: plain files, always written anew."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import math
import pathlib
import statistics
from typing import Any

from launch import files
from launch.sweep import folder as folder_lib
from launch.sweep import lease as lease_lib
from launch.sweep import protocol
from launch.sweep import spec as spec_lib

MARKDOWN = 'results.md'
_CSV, _BEST = 'results.csv', 'best.gin'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """The trials that differ in their seed alone.

  Attributes:
    trials: All of them.
    results: Of each; None of those that are open.
    values: The objective of each that ended, NaN if it diverged.
  """

  trials: Sequence[folder_lib.Trial]
  results: Sequence[Mapping[str, Any] | None]
  values: Sequence[float]

  @property
  def mean(self) -> float:
    return statistics.fmean(self.values) if self.values else math.nan

  @property
  def stderr(self) -> float:
    """Of the mean, over seeds; NaN of fewer than two."""
    if len(self.values) < 2 or any(map(math.isnan, self.values)):
      return math.nan
    return statistics.stdev(self.values) / math.sqrt(len(self.values))

  @property
  def secs(self) -> float:
    """Of a trial that ended, on average."""
    secs = [result['secs'] for result in self.results if result is not None]
    return statistics.fmean(secs) if secs else math.nan

  @property
  def is_whole(self) -> bool:
    return len(self.values) == len(self.trials)


def ranked(plan: folder_lib.Plan) -> list[Point]:
  """The points, best first.

  One that diverged with any seed is behind the others, and one whose seeds have
  not all ended is behind those that are whole: it may only have been lucky.
  """
  groups: dict[str, list[folder_lib.Trial]] = {}
  for trial in plan.trials:
    point = {k: v for k, v in trial.bindings.items() if k != spec_lib.SEED}
    groups.setdefault(str(sorted(point.items())), []).append(trial)
  points = [_point(trials, plan.objective) for trials in groups.values()]

  def order(point: Point) -> tuple[bool, bool, bool, float]:
    return (
        not point.values,
        math.isnan(point.mean),
        not point.is_whole,
        plan.objective.cost(point.mean),
    )

  return sorted(points, key=order)


def _point(
    trials: Sequence[folder_lib.Trial], objective: spec_lib.Objective
) -> Point:
  ends = [trial.result() for trial in trials]
  values = [
      folder_lib.value_of(result, objective)
      for result in ends
      if result is not None and result['status'] != folder_lib.FAILED
  ]
  return Point(trials=trials, results=ends, values=values)


def write(folder: pathlib.Path, plan: folder_lib.Plan) -> None:
  """Writes the three files.

  Raises:
    ValueError: the objective is no scalar of a finished trial.
  """
  points = ranked(plan)
  files.write(folder / _CSV, _csv(plan, points))
  files.write(folder / MARKDOWN, _markdown(plan, points))
  if points and not math.isnan(points[0].mean):
    files.write(folder / _BEST, _best(plan, points[0]))


def _csv(plan: folder_lib.Plan, points: Sequence[Point]) -> str:
  """One line a trial, best point first."""
  out = io.StringIO()
  rows = csv.writer(out, lineterminator='\n')
  rows.writerow([
      'trial', *plan.varying, spec_lib.SEED, 'status', plan.objective.metric,
      'secs', 'attempts', 'reason',
  ])
  for point in points:
    for trial, result in zip(point.trials, point.results):
      row = [trial.bindings.get(k, '') for k in (*plan.varying, spec_lib.SEED)]
      if result is None:
        rows.writerow([trial.name, *row, 'open', '', '', '', ''])
        continue
      value = ''
      if result['status'] != folder_lib.FAILED:
        value = repr(folder_lib.value_of(result, plan.objective))
      rows.writerow([
          trial.name, *row, result['status'], value, result['secs'],
          result['attempts'], result.get('reason', ''),
      ])
  return out.getvalue()


def _markdown(plan: folder_lib.Plan, points: Sequence[Point]) -> str:
  """One line a point, the best in bold."""
  metric = plan.objective.metric
  side = 'more' if plan.objective.is_max else 'less'
  header = [*plan.varying, metric, 'seeds', 'wall time', 'trials']
  lines = [
      f'# {plan.name}',
      '',
      f'{progress(plan)}. {metric}: {side} is better; mean ± standard error '
      'over seeds; wall time of a trial.',
      '',
      _row(header),
      _row(['---'] * len(header)),
  ]
  for i, point in enumerate(points):
    value = _value(point)
    if i == 0 and not math.isnan(point.mean):
      value = f'**{value}**'
    lines.append(_row([
        *(_cell(point.trials[0].bindings.get(k, '-')) for k in plan.varying),
        value,
        f'{len(point.values)} of {len(point.trials)}',
        duration(point.secs),
        ' '.join(trial.name for trial in point.trials),
    ]))
  for text in protocol.lines(plan):
    lines += ['', text]
  failures = [
      f'- {trial.name}: {result["reason"]}: {" ".join(result["log"][-1:])}'
      for point in points
      for trial, result in zip(point.trials, point.results)
      if result is not None and 'reason' in result
  ]
  if failures:
    lines += ['', '## Failed or diverged', '', *failures]
  return '\n'.join(lines) + '\n'


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _cell(value: Any) -> str:
  return str(value).replace('|', '\\|')


def _value(point: Point) -> str:
  if not point.values:
    return '-'
  if math.isnan(point.stderr):
    return f'{point.mean:.4g}'
  return f'{point.mean:.4g} ± {point.stderr:.2g}'


def _best(plan: folder_lib.Plan, point: Point) -> str:
  """The whole config of the best point, with its first seed."""
  trial = point.trials[0]
  return (
      f'# The best of the sweep {plan.name}: trial {trial.name}, '
      f'{plan.objective.metric}\n# {_value(point)} over {len(point.values)} '
      'seeds.\n# Run: python -m user_llm.main train --gin_file=THIS_FILE '
      f'--workdir=...\n{trial.config}'
  )


def progress(plan: folder_lib.Plan) -> str:
  """'12 of 50 done, 1 failed, 37 left, about 4 min'; asked between trials."""
  ends = [trial.result() for trial in plan.trials]
  done = [result for result in ends if result is not None]
  failed = sum(result['status'] == folder_lib.FAILED for result in done)
  elsewhere = sum(
      lease_lib.is_held(trial.path)
      for trial, end in zip(plan.trials, ends)
      if end is None
  )
  left = len(ends) - len(done)
  parts = [f'{len(done) - failed} of {len(ends)} done']
  if failed:
    parts.append(f'{failed} failed')
  if left:
    parts.append(f'{left} left')
  if elsewhere:
    parts.append(f'{elsewhere} of them with other workers')
  if left and done:
    mean = statistics.fmean(result['secs'] for result in done)
    parts.append(f'about {duration(mean * left / (elsewhere + 1))}')
  return ', '.join(parts)


def duration(secs: float) -> str:
  """'9.5 s', '12 min', '1.5 h'; '-' of NaN."""
  if math.isnan(secs):
    return '-'
  for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
    if secs >= 2 * size:
      return f'{secs / size:.1f} {unit}'
  return f'{secs:.1f} s'

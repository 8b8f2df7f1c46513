"""Learning curves of runs."""

from collections.abc import Mapping, Sequence

import matplotlib.axes
import matplotlib.ticker

from user_llm.report import plots
from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import runs as runs_lib
from user_llm.report import tables

_LOSS = 'train/loss'
# Of evaluations of the test split: in their files, not in metrics.jsonl.
_TEST = 'test'
# Lines that can still be told apart.
_MAX_LINES = len(plots.COLOURS)
_STYLES = ('-', '--', ':', '-.')


def learning_curves(run: runs_lib.Run) -> str | None:
  """Training loss and, if measured on the way, one metric a task and model."""
  lines = [*run.history, *_tested(run)]
  losses = _series(lines, _LOSS)
  curves = {
      key: points
      for key in _evaluation_keys(lines)
      if len(points := _series(lines, key)) > 1
  }
  if not losses and not curves:
    return None
  num_axes = bool(losses) + bool(curves)

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    if losses:
      _line(axes[0], losses, plots.COLOURS[0], None)
      axes[0].set_title('training loss', loc='left', fontsize=10.5)
    if curves:
      ax = axes[-1]
      for i, (key, points) in enumerate(curves.items()):
        _line(ax, points, plots.COLOURS[i], _curve_label(key))
      ax.set_title('evaluations', loc='left', fontsize=10.5)
      ax.legend(fontsize=9)
    for ax in axes:
      ax.set_xlabel('step')
      ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))

  return plots.draw_svg(4.8 * num_axes, 2.7, num_axes, draw)


def all_losses(runs: Sequence[runs_lib.Run]) -> str | None:
  """The training losses of several runs; the seeds of one look the same."""
  groups: dict[str, list[runs_lib.Run]] = {}
  for run in runs:
    if len(_series(run.history, _LOSS)) > 1:
      groups.setdefault(run.identity, []).append(run)
  if sum(map(len, groups.values())) < 2:
    return None

  names = [
      runs_lib.together([run.name for run in group], group[0].label)
      for group in groups.values()
  ]
  num_columns = plots.columns(names)

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    (ax,) = axes
    for i, (name, group) in enumerate(zip(names, groups.values())):
      style = _STYLES[i // _MAX_LINES % len(_STYLES)]
      for k, run in enumerate(group):
        label = None if k else name
        colour = plots.COLOURS[i % _MAX_LINES]
        _line(ax, _series(run.history, _LOSS), colour, label, style)
    ax.set_title('training loss', loc='left', fontsize=10.5)
    ax.set_xlabel('step')
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    ax.figure.legend(loc='outside lower left', ncols=num_columns, fontsize=9)

  height = 3.2 + 0.19 * -(-len(groups) // num_columns)
  return plots.draw_svg(9.6, height, 1, draw)


def _series(
    lines: Sequence[Mapping[str, float]], key: str
) -> list[tuple[float, float]]:
  return [(line['step'], line[key]) for line in lines if key in line]


def _tested(run: runs_lib.Run) -> list[dict[str, float]]:
  """Test evaluations by step, as `evaluate` with FOLLOW makes them."""
  found = (e for e in run.evaluations if e['split'] == 'test')
  return [
      {'step': evaluation['step']}
      | {
          f'{_TEST}/{evaluation["task"]}/{row}/{name}': value['mean']
          for row, values in evaluation['models'].items()
          for name, value in values.items()
      }
      for evaluation in sorted(found, key=lambda e: e['step'])
  ]


def _evaluation_keys(history: Sequence[Mapping[str, float]]) -> list[str]:
  """Keys of the models' curves; the floors and ceilings do not move."""
  still = (*rows_lib.FLOORS, *rows_lib.CEILINGS)
  keys = {
      key: None
      for row in history
      for key in row
      if key.startswith(('eval/', f'{_TEST}/'))
      and key.split('/')[2] not in still
  }
  preferred = ('recall@10/unseen', 'accuracy')
  chosen = [key for key in keys if key.endswith(preferred)]
  return (chosen or list(keys))[: len(plots.COLOURS)]


def _curve_label(key: str) -> str:
  split, task, model, metric = key.split('/', 3)
  name = tables.MODEL_LABELS.get(model, model)
  suffix = ', test split' if split == _TEST else ''
  return f'{name}, {results.split_task(task)[1]}: {metric}{suffix}'


def _line(
    ax: matplotlib.axes.Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    label: str | None,
    style: str = '-',
) -> None:
  x, y = zip(*points)
  marker = 'o' if len(points) < 25 else None
  ax.plot(
      x, y, style, color=colour, lw=1.6, marker=marker, ms=3.5, label=label
  )

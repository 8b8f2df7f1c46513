"""Charts as inline SVG that takes its text colour from the page."""

from collections.abc import Callable, Sequence
import io
import re
from typing import Any

import matplotlib

matplotlib.use('svg')

# pylint: disable=g-import-not-at-top,wrong-import-position
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from user_llm.report import results
from user_llm.report import tables

# Replaced by the page's own colours, so that light and dark both work.
_INK = '#010203'
COLOURS = ('#4269d0', '#e8743b', '#3ca951', '#9c6bdf', '#ff8ab7', '#6cc5b0')
_FLOOR_COLOURS = {'popularity': '#c3c7cf', 'markov': '#969dab'}
# Beginnings of the metrics that have bars.
_DRAWN = ('recall@', 'bits_per_byte')


def style(ink: str) -> dict[str, Any]:
  """Matplotlib's settings of all charts, with the colour of their text."""
  return {
      'svg.fonttype': 'none',
      'svg.hashsalt': 'user_llm',
      'font.size': 10,
      'text.color': ink,
      'axes.edgecolor': ink,
      'axes.labelcolor': ink,
      'xtick.color': ink,
      'ytick.color': ink,
      'grid.color': ink,
      'grid.alpha': 0.12,
      'axes.grid': True,
      'axes.grid.axis': 'y',
      'axes.axisbelow': True,
      'axes.spines.top': False,
      'axes.spines.right': False,
      'axes.spines.left': False,
      'ytick.major.size': 0,
      'figure.facecolor': 'none',
      'axes.facecolor': 'none',
      'legend.frameon': False,
  }


def _draw(
    width: float,
    height: float,
    num_axes: int,
    draw: Callable[[Sequence[matplotlib.axes.Axes]], None],
) -> str:
  """Makes a figure of axes side by side; returns '<svg ...>...</svg>'."""
  with matplotlib.rc_context(style(_INK)):
    figure = matplotlib.figure.Figure(
        figsize=(width, height), layout='constrained'
    )
    draw(figure.subplots(1, num_axes, squeeze=False)[0])
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  svg = buffer.getvalue()
  svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor')
  # The width comes from the page; the view box keeps the proportions.
  tag, rest = svg.split('>', 1)
  return re.sub(r' (width|height)="[^"]*"', '', tag) + '>' + rest


def bars(table: results.Table) -> str | None:
  """The main metrics of every model, if they are to be drawn.

  Floors are grey, and ceilings dashed lines.
  """
  metrics = [m for m in table.metrics if m.startswith(_DRAWN)]
  if not metrics:
    return None
  models = [row for row in table.rows if not row.is_ceiling]
  ceilings = [row for row in table.rows if row.is_ceiling]
  colours = _model_colours(models)

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    for ax, policy in zip(axes, table.policies):
      for i, row in enumerate(models):
        _bars(ax, row, metrics, policy, i, len(models), colours[row.model])
      for row in ceilings:
        _ceiling(ax, row, metrics, policy)
      ax.set_xticks(range(len(metrics)), metrics)
      ax.tick_params(axis='x', length=0)
      ax.set_title(
          tables.POLICY_LABELS[policy], loc='left', fontsize=10.5, pad=10
      )
      ax.margins(x=0.03)
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
      ax.set_ylim(0, top)
    handles, labels = axes[0].get_legend_handles_labels()
    # Lines come first in a legend; here they are the ceilings, the last rows.
    num_lines = len(ceilings) if len(handles) > len(models) else 0
    handles = handles[num_lines:] + handles[:num_lines]
    labels = labels[num_lines:] + labels[:num_lines]
    axes[0].figure.legend(
        handles, labels, loc='outside lower left', ncols=6, fontsize=9.5
    )

  return _draw(9.6, 3.5, len(table.policies), draw)


def _model_colours(rows: Sequence[results.Row]) -> dict[str, str]:
  strong = [row.model for row in rows if not row.is_floor]
  return {
      **{m: COLOURS[i % len(COLOURS)] for i, m in enumerate(strong)},
      **_FLOOR_COLOURS,
  }


def _bars(
    ax: matplotlib.axes.Axes,
    row: results.Row,
    metrics: Sequence[str],
    policy: str,
    index: int,
    num_models: int,
    colour: str,
) -> None:
  width = 0.8 / num_models
  for k, metric in enumerate(metrics):
    value = row.metrics.get(tables.metric_key(metric, policy))
    if value is None:
      continue
    x = k + (index - (num_models - 1) / 2) * width
    ax.bar(
        x,
        value.mean,
        width * 0.88,
        color=colour,
        yerr=value.stderr,
        error_kw={'ecolor': _INK, 'elinewidth': 1, 'alpha': 0.7},
        label=tables.label(row.model) if k == 0 else None,
    )


def _ceiling(
    ax: matplotlib.axes.Axes,
    row: results.Row,
    metrics: Sequence[str],
    policy: str,
) -> None:
  found = [
      (k, row.metrics[key].mean)
      for k, metric in enumerate(metrics)
      if (key := tables.metric_key(metric, policy)) in row.metrics
  ]
  if found:
    x, y = zip(*found)
    ax.hlines(
        y,
        np.array(x) - 0.45,
        np.array(x) + 0.45,
        colors=_INK,
        linestyles=(0, (4, 3)),
        linewidth=1.3,
        label=tables.label(row.model),
    )


def learning_curves(run: results.Run) -> str | None:
  """Training loss and, if measured on the way, one metric a task and model."""
  losses = _series(run, 'train/loss')
  curves = {
      key: _series(run, key) for key in _evaluation_keys(run.history)
  }
  if not losses and not curves:
    return None
  num_axes = bool(losses) + bool(curves)

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    if losses:
      _line(axes[0], losses, COLOURS[0], None)
      axes[0].set_title('training loss', loc='left', fontsize=10.5)
    if curves:
      ax = axes[-1]
      for i, (key, points) in enumerate(curves.items()):
        _line(ax, points, COLOURS[i % len(COLOURS)], _curve_label(key))
      ax.set_title('evaluations', loc='left', fontsize=10.5)
      ax.legend(fontsize=9)
    for ax in axes:
      ax.set_xlabel('step')
      ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))

  return _draw(4.8 * num_axes, 2.7, num_axes, draw)


def _series(run: results.Run, key: str) -> list[tuple[float, float]]:
  return [(row['step'], row[key]) for row in run.history if key in row]


def _evaluation_keys(history: Sequence[dict[str, float]]) -> list[str]:
  """Keys of the models' curves; the floors and ceilings do not move."""
  still = (*results.FLOORS, *results.CEILINGS)
  keys = {
      key: None
      for row in history
      for key in row
      if key.startswith('eval/') and key.split('/')[2] not in still
  }
  preferred = ('recall@10/unseen', 'accuracy')
  chosen = [key for key in keys if key.endswith(preferred)]
  return (chosen or list(keys))[: len(COLOURS)]


def _curve_label(key: str) -> str:
  _, task, model, metric = key.split('/', 3)
  return f'{tables.label(model)}, {results.split_task(task)[1]}: {metric}'


def _line(
    ax: matplotlib.axes.Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    label: str | None,
) -> None:
  x, y = zip(*points)
  marker = 'o' if len(points) < 25 else None
  ax.plot(x, y, color=colour, lw=1.6, marker=marker, ms=3.5, label=label)

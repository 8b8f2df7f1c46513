"""Charts as inline SVG that takes its text colour from the page."""

from collections.abc import Callable, Iterable, Sequence
import io
import re
from typing import Any

import matplotlib

matplotlib.use('svg')

# pylint: disable=g-import-not-at-top,wrong-import-position
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker

from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import tables

# Of an inch: text of 10 points is then as large as the page's small text.
_PIXELS = 100
# Replaced by the page's own colours, so that light and dark both work.
INK = '#010203'
COLOURS = (
    '#4269d0', '#e8743b', '#3ca951', '#9c6bdf', '#ff8ab7', '#6cc5b0',
    '#cfa618', '#9c6b4e', '#97bbf5', '#b5483a',
)
FLOOR_COLOUR = '#a3a9b5'
# The metrics that have bars, as far as a table has them and room.
_DRAWN = (
    'recall@1', 'recall@10', 'ndcg@10', 'accuracy', 'rougeL', 'bits_per_byte',
)
_MAX_DRAWN = 3


def style(ink: str) -> dict[str, Any]:
  """Matplotlib's settings of all charts, with the colour of their text."""
  return {
      'svg.fonttype': 'none',
      'svg.hashsalt': 'user_llm',
      'font.size': 10,
      'text.color': ink,
      # Labels are names and titles: '$10 to $25' is no formula.
      'text.parse_math': False,
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


def draw_svg(
    width: float,
    height: float,
    num_axes: int,
    draw: Callable[[Sequence[matplotlib.axes.Axes]], None],
) -> str:
  """Makes a figure of axes side by side; returns '<svg ...>...</svg>'."""
  with matplotlib.rc_context(style(INK)):
    figure = matplotlib.figure.Figure(
        figsize=(width, height), layout='constrained'
    )
    draw(figure.subplots(1, num_axes, squeeze=False)[0])
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  svg = buffer.getvalue()
  svg = svg[svg.index('<svg') :].replace(INK, 'currentColor')
  # The page may make it narrower; the view box keeps the proportions.
  tag, rest = svg.split('>', 1)
  tag = re.sub(r' (width|height)="[^"]*"', '', tag)
  return f'{tag} style="max-width: {round(_PIXELS * width)}px">{rest}'


def bars(table: results.Table) -> str | None:
  """The main metrics of every model; None where there are none.

  Floors are grey, ceilings hollow.
  """
  metrics = [
      metric
      for metric in table.metrics(table.policies[0])
      if metric.split('/')[0] in _DRAWN
  ][:_MAX_DRAWN]
  if not metrics:
    return None
  colours = row_colours(table.rows)

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    for ax, metric in zip(axes, metrics):
      for y, row in enumerate(table.rows):
        if metric in row.metrics:
          _bar(ax, y, row, metric, colours[row])
      ax.set_yticks(range(len(table.rows)))
      ax.set_yticklabels(
          list(map(tables.short_label, table.rows)) if ax is axes[0] else []
      )
      ax.set_ylim(len(table.rows) - 0.4, -0.6)
      ax.set_xlim(left=0)
      ax.grid(axis='y', visible=False)
      ax.grid(axis='x', visible=True)
      ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
      ax.set_title(tables.metric_label(metric), loc='left', fontsize=10.5)

  return draw_svg(9.6, 0.75 + 0.27 * len(table.rows), len(metrics), draw)


def plain_numbers() -> matplotlib.ticker.Formatter:
  """1000 rather than 10³."""
  return matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:,g}')


def scale_by_range(ax: matplotlib.axes.Axes, values: Sequence[float]) -> None:
  """Makes the horizontal axis logarithmic where values differ by much."""
  locator = matplotlib.ticker.MaxNLocator(4)
  if min(values) > 0 and max(values) > 8 * min(values):
    ax.set_xscale('log')
    subs = (1.0, 2.0, 5.0) if max(values) < 25 * min(values) else (1.0,)
    locator = matplotlib.ticker.LogLocator(subs=subs, numticks=12)
  ax.xaxis.set_major_locator(locator)
  ax.xaxis.set_major_formatter(plain_numbers())
  ax.minorticks_off()


def share_limits(axes: Sequence[matplotlib.axes.Axes]) -> None:
  """Gives all axes the same vertical limits, with numbers on the first."""
  lows, highs = zip(*(ax.get_ylim() for ax in axes))
  for ax in axes:
    ax.set_ylim(min(lows), max(highs))
    ax.tick_params(axis='y', labelleft=ax is axes[0])


def legend_below(axes: Sequence[matplotlib.axes.Axes]) -> None:
  """One legend of all axes; of points with errors the points alone."""
  found = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      found.setdefault(label, handle[0])
  axes[0].figure.legend(
      found.values(), found, loc='outside lower left', ncols=columns(found),
      fontsize=9.5,
  )


def columns(labels: Iterable[str]) -> int:
  """How many columns a legend of these has room for."""
  return max(1, min(4, 110 // (max(map(len, labels)) + 9)))


def row_colours(rows: Sequence[rows_lib.Row]) -> dict[rows_lib.Row, str]:
  """Of each row; all floors and ceilings have the same grey."""
  strong = [row for row in rows if row.is_model]
  return {
      **dict.fromkeys(rows, FLOOR_COLOUR),
      **{row: COLOURS[i % len(COLOURS)] for i, row in enumerate(strong)},
  }


def _bar(
    ax: matplotlib.axes.Axes,
    y: int,
    row: rows_lib.Row,
    metric: str,
    colour: str,
) -> None:
  value = row.metrics[metric]
  ax.barh(
      y,
      value.mean,
      0.72,
      color='none' if row.is_ceiling else colour,
      edgecolor=INK if row.is_ceiling else 'none',
      linestyle='--',
      linewidth=1.1,
      xerr=value.stderr,
      error_kw={'ecolor': INK, 'elinewidth': 1, 'alpha': 0.7},
  )

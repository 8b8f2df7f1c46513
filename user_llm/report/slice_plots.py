"""Charts of slices: recall by history length, popularity and genre."""

from collections.abc import Sequence

import matplotlib.axes

from user_llm.report import plots
from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import slices as slices_lib
from user_llm.report import tables

_MAX_MODELS = 6
_MAX_FLOORS = 2
# Of charts with a line a label.
_MAX_DOTS = 5
_FLOOR_STYLES = (':', '--')


def draw(table: results.Table, slices: slices_lib.Slices) -> list[str]:
  """One chart of all slicings that have an order, one of each other."""
  if not slices.slicings:
    return []
  rows = _shown(table, slices)
  ordered = [s for s in slices.slicings if s.is_ordered]
  charts = [_lines(table, slices.metric, ordered, rows)] if ordered else []
  charts += [
      _dots(table, slices.metric, slicing, rows[:_MAX_DOTS])
      for slicing in slices.slicings
      if not slicing.is_ordered
  ]
  return charts


def _shown(
    table: results.Table, slices: slices_lib.Slices
) -> list[rows_lib.Row]:
  """The best models and floors: more lines cannot be told apart."""
  found = table.by_quality(list(slices.slicings[0].estimates))
  models = [row for row in found if row.is_model][:_MAX_MODELS]
  return models + [row for row in found if row.is_floor][:_MAX_FLOORS]


def _looks(
    table: results.Table, rows: Sequence[rows_lib.Row]
) -> dict[rows_lib.Row, tuple[str, str]]:
  """Colour and line style."""
  colours = plots.row_colours(table.rows)
  floors = [row for row in rows if row.is_floor]
  return {
      row: (
          colours[row],
          _FLOOR_STYLES[floors.index(row)] if row.is_floor else '-',
      )
      for row in rows
  }


def _lines(
    table: results.Table,
    metric: str,
    slicings: Sequence[slices_lib.Slicing],
    rows: Sequence[rows_lib.Row],
) -> str:
  looks = _looks(table, rows)

  def draw_all(axes: Sequence[matplotlib.axes.Axes]) -> None:
    for ax, slicing in zip(axes, slicings):
      for i, row in enumerate(rows):
        shift = 0.05 * (i - (len(rows) - 1) / 2)
        _points(ax, slicing, row, shift, looks[row], is_flat=False)
      ticks = zip(slicing.names, slicing.counts)
      ax.set_xticks(
          range(len(slicing.names)), [f'{name}\nn={n:,}' for name, n in ticks]
      )
      ax.tick_params(axis='x', length=0, labelsize=9)
      ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
      ax.set_title(
          f'{tables.metric_label(metric)} by {slicing.title}', loc='left',
          fontsize=10.5,
      )
    plots.legend_below(axes)

  return plots.draw_svg(4.8 * len(slicings), 3.6, len(slicings), draw_all)


def _dots(
    table: results.Table,
    metric: str,
    slicing: slices_lib.Slicing,
    rows: Sequence[rows_lib.Row],
) -> str:
  looks = _looks(table, rows)

  def draw_all(axes: Sequence[matplotlib.axes.Axes]) -> None:
    (ax,) = axes
    for i, row in enumerate(rows):
      shift = 0.7 * (i - (len(rows) - 1) / 2) / len(rows)
      _points(ax, slicing, row, shift, (looks[row][0], 'none'), is_flat=True)
    ticks = zip(slicing.names, slicing.counts)
    ax.set_yticks(
        range(len(slicing.names)), [f'{name}  n={n:,}' for name, n in ticks]
    )
    ax.set_ylim(len(slicing.names) - 0.4, -0.6)
    ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    ax.grid(axis='x', visible=True)
    ax.set_title(
        f'{tables.metric_label(metric)} by {slicing.title}', loc='left',
        fontsize=10.5,
    )
    plots.legend_below(axes)

  height = 1.3 + 0.09 * (len(rows) + 1) * len(slicing.names)
  return plots.draw_svg(9.6, height, 1, draw_all)


def _points(
    ax: matplotlib.axes.Axes,
    slicing: slices_lib.Slicing,
    row: rows_lib.Row,
    shift: float,
    look: tuple[str, str],
    is_flat: bool,
) -> None:
  where = [i + shift for i in range(len(slicing.names))]
  means = [e.mean for e in slicing.estimates[row]]
  errors = [e.stderr for e in slicing.estimates[row]]
  colour, style = look
  x, y = (means, where) if is_flat else (where, means)
  ax.errorbar(
      x, y, **{'xerr' if is_flat else 'yerr': errors}, color=colour,
      linestyle=style, marker='o', ms=4.5, lw=1.6, elinewidth=0.9,
      label=tables.short_label(row),
  )

"""What a macro does to the leading metric, over the rows of a table."""

from collections.abc import Mapping, Sequence
import math

import matplotlib.axes

from user_llm.report import plots
from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import runs as runs_lib
from user_llm.report import tables

HISTORY_LENGTH = 'HISTORY_LENGTH'
_MAX_AXES = 4
# Longer values are cut in a chart.
_MAX_CHARACTERS = 16

Macros = Mapping[rows_lib.Row, Mapping[str, str]]


def row_macros(
    table: results.Table, runs: Sequence[runs_lib.Run]
) -> Macros:
  """The macros of the models that were trained, as of their first runs."""
  by_name = {run.name: run.macros for run in runs}
  metric = table.leading
  return {
      row: by_name[row.runs[0]]
      for row in table.rows
      if row.is_model and metric in row.metrics
  }


def main_effects(
    table: results.Table, macros: Macros, varying: Sequence[str]
) -> str | None:
  """A dot a row by the values of each macro, and a line through their means.

  A macro that not all rows have tells kinds of runs apart; it has no effect.
  """
  varying = [
      name
      for name in varying
      if all(name in of_row for of_row in macros.values())
      and len({of_row[name] for of_row in macros.values()}) > 1
  ][:_MAX_AXES]
  if not varying:
    return None
  metric = table.leading

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    for ax, name in zip(axes, varying):
      values = sorted({m[name] for m in macros.values()}, key=_order)
      found = {
          value: [
              row.metrics[metric].mean
              for row, m in macros.items()
              if m[name] == value
          ]
          for value in values
      }
      for x, means in enumerate(found.values()):
        ax.plot(
            [x] * len(means), means, 'o', ms=5, alpha=0.55, mew=0,
            color=plots.COLOURS[0],
        )
      ax.plot(
          range(len(values)), [sum(m) / len(m) for m in found.values()],
          color=plots.COLOURS[1], lw=1.8,
      )
      ax.set_xticks(range(len(values)), list(map(_short, values)), fontsize=9)
      ax.tick_params(axis='x', length=0)
      ax.margins(x=0.15)
      ax.set_title(name, loc='left', fontsize=10)
    axes[0].set_ylabel(tables.metric_label(metric))
    plots.share_limits(axes)

  return plots.draw_svg(max(4.8, 2.8 * len(varying)), 3.0, len(varying), draw)


def history_lengths(table: results.Table, macros: Macros) -> str | None:
  """The metric against HISTORY_LENGTH, a line for what else is the same.

  As the figure of arXiv 2402.13598 has it. A checkpoint goes with its length.
  None where no two rows differ in their length alone.
  """
  lines: dict[tuple[str, ...], dict[int, rows_lib.Row]] = {}
  for row, of_row in macros.items():
    if of_row.get(HISTORY_LENGTH, '').isdigit():
      others = sorted(
          f'{name}={value}'
          for name, value in of_row.items()
          if name not in (HISTORY_LENGTH, 'SEED')
          and not name.endswith('_CHECKPOINT')
      )
      line = lines.setdefault((row.model, *others), {})
      line[int(of_row[HISTORY_LENGTH])] = row
  lines = {key: line for key, line in lines.items() if len(line) > 1}
  if not lines:
    return None
  names = _names(list(lines.values()), macros)
  metric = table.leading

  def draw(axes: Sequence[matplotlib.axes.Axes]) -> None:
    (ax,) = axes
    for i, (name, line) in enumerate(zip(names, lines.values())):
      lengths = sorted(line)
      values = [line[length].metrics[metric] for length in lengths]
      ax.errorbar(
          lengths, [v.mean for v in values],
          yerr=[v.stderr or 0 for v in values], marker='o', ms=4.5, lw=1.6,
          elinewidth=0.9, color=plots.COLOURS[i % len(plots.COLOURS)],
          label=name,
      )
    ax.set_xticks(sorted(set().union(*lines.values())))
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.set_xlabel('events of the history that the model may see')
    ax.set_title(
        f'{tables.metric_label(metric)} by HISTORY_LENGTH', loc='left',
        fontsize=10.5,
    )
    plots.legend_below(axes)

  return plots.draw_svg(9.6, 3.8, 1, draw)


def _names(
    lines: Sequence[Mapping[int, rows_lib.Row]], macros: Macros
) -> list[str]:
  """Of lines: what tells them from each other."""
  rows = [next(iter(line.values())) for line in lines]
  names = sorted({name for row in rows for name in macros[row]})
  apart = [
      name
      for name in names
      if name not in (HISTORY_LENGTH, 'SEED')
      and not name.endswith('_CHECKPOINT')
      and len({macros[row].get(name) for row in rows}) > 1
  ]
  return [
      ', '.join([
          tables.model_label(row),
          *(f'{name}={_short(macros[row].get(name, ""))}' for name in apart),
      ])
      for row in rows
  ]


def _order(value: str) -> tuple[float, str]:
  """Numbers by size, before other texts."""
  try:
    return float(value), ''
  except ValueError:
    return math.inf, value


def _short(value: str) -> str:
  value = value.strip('\'"')
  if len(value) <= _MAX_CHARACTERS:
    return value
  return f'{value[: _MAX_CHARACTERS - 1]}…'

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

# A longer history as text needs more room; the batch is what memory leaves.
_TEXT_SIZES = ('PROMPT_TOKENS', 'PROMPT_EVENTS', 'TEXT_LENGTH', 'BATCH_SIZE')

Macros = Mapping[rows_lib.Row, Mapping[str, str]]
# Macros and their values.
_Settings = frozenset[tuple[str, str]]


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

  As the figure of arXiv 2402.13598 has it. A checkpoint goes with its length,
  and so do the sizes of a text prompt, which the figure then names. None where
  no two rows differ in their length alone.
  """
  lines = {k: line for k, line in _lines(macros).items() if len(line) > 1}
  if not lines:
    return None
  names = _names(lines, macros)
  metric = table.leading
  sizes = [
      name
      for name in _TEXT_SIZES
      if any(
          len({macros[row].get(name) for row in line.values()}) > 1
          for line in lines.values()
      )
  ]

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
    too = f'\n(text prompts differ in {", ".join(sizes)} too)' if sizes else ''
    ax.set_xlabel(f'events of the history that the model may see{too}')
    ax.set_title(
        f'{tables.metric_label(metric)} by HISTORY_LENGTH', loc='left',
        fontsize=10.5,
    )
    plots.legend_below(axes)

  return plots.draw_svg(9.6, 3.8, 1, draw)


def _lines(macros: Macros) -> dict[_Settings, dict[int, rows_lib.Row]]:
  """Rows by HISTORY_LENGTH, of all that is the same in them.

  The sizes of text prompts are not, unless rows of one length differ in them.
  Rows of one length that differ in their checkpoint alone would be one point, and
  are none.
  """
  found: dict[_Settings, list[tuple[int, _Settings, rows_lib.Row]]] = {}
  for row, of_row in macros.items():
    if of_row.get(HISTORY_LENGTH, '').isdigit():
      settings = _settings(row, of_row)
      sizes = frozenset(
          (name, value)
          for name, value in settings
          if name in _TEXT_SIZES and _is_text_prompt(of_row)
      )
      member = int(of_row[HISTORY_LENGTH]), sizes, row
      found.setdefault(settings - sizes, []).append(member)
  lines: dict[_Settings, dict[int, rows_lib.Row]] = {}
  for settings, members in found.items():
    if len({member[:2] for member in members}) < len(members):
      continue
    lengths = {length for length, _, _ in members}
    is_one = len(lengths) == len({member[:2] for member in members})
    for length, sizes, row in members:
      line = lines.setdefault(settings if is_one else settings | sizes, {})
      line[length] = row
  return lines


def _settings(row: rows_lib.Row, of_row: Mapping[str, str]) -> _Settings:
  """What the rows of a line have in common."""
  return frozenset(
      (name, value)
      for name, value in {**of_row, 'model': row.model}.items()
      if name not in (HISTORY_LENGTH, 'SEED')
      and not name.endswith('_CHECKPOINT')
  )


def _is_text_prompt(of_row: Mapping[str, str]) -> bool:
  """Whether the history is read as text alone."""
  return 'PROMPT_TOKENS' in of_row and 'ENCODER' not in of_row


def _names(
    lines: Mapping[_Settings, Mapping[int, rows_lib.Row]], macros: Macros
) -> list[str]:
  """Of lines: what tells them from others of their kind."""
  kinds = {}
  for settings, line in lines.items():
    row = next(iter(line.values()))
    is_text = _is_text_prompt(macros[row])
    kinds[settings] = 'Text prompt' if is_text else tables.model_label(row)
  names = []
  for settings, kind in kinds.items():
    alike = frozenset.intersection(*(s for s in kinds if kinds[s] == kind))
    apart = sorted(settings - alike)
    names.append(
        ', '.join([kind, *(f'{name}={_short(value)}' for name, value in apart)])
    )
  return names


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

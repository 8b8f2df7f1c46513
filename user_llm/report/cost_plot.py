"""Charts of what a request costs: cost.svg and cost.png."""

import pathlib

import matplotlib

matplotlib.use('svg')

# pylint: disable=g-import-not-at-top,wrong-import-position
import matplotlib.axes
import matplotlib.figure

from user_llm.report import costs
from user_llm.report import plots

_INK = '#30333a'
_TEXT_COLOUR = '#8a909c'


def write(directory: pathlib.Path, comparison: costs.Comparison) -> None:
  """Left the time of a prefill by events, right the ratios at the most."""
  with matplotlib.rc_context(plots.style(_INK)):
    figure = matplotlib.figure.Figure(figsize=(10.5, 5.6), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(4, 5))
    colours = _colours(comparison)
    _draw_times(left, comparison, colours)
    _draw_ratios(right, comparison, colours)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower left', ncols=4, fontsize=9.5
    )
    figure.savefig(directory / 'cost.svg', metadata={'Date': None})
    figure.savefig(directory / 'cost.png', dpi=160, facecolor='white')


def _colours(comparison: costs.Comparison) -> dict[str, str]:
  """By model, in the order of the others."""
  names = dict.fromkeys(cost.model for cost in comparison.others)
  return dict(zip(names, plots.COLOURS))


def _draw_times(
    ax: matplotlib.axes.Axes,
    comparison: costs.Comparison,
    colours: dict[str, str],
) -> None:
  text = list(comparison.text.values())
  lines = {text[0].model: text}
  for cost in comparison.others:
    lines.setdefault(cost.model, []).append(cost)
  for model, line in lines.items():
    events = [cost.events for cost in line]
    milliseconds = [cost.prefill.median_secs * 1e3 for cost in line]
    ax.plot(
        events, milliseconds, marker='o', ms=4.5, lw=1.8,
        color=colours.get(model, _TEXT_COLOUR), label=model,
    )
  # The others' lines are too close to each other for a number each.
  cheapest = min(
      (line[-1] for line in lines.values()), key=lambda c: c.prefill.median_secs
  )
  for cost in (text[-1], cheapest):
    milliseconds = cost.prefill.median_secs * 1e3
    ax.annotate(
        f'{milliseconds:,.0f}', (cost.events, milliseconds), xytext=(7, 0),
        textcoords='offset points', va='center', fontsize=9,
    )
  ax.set_yscale('log')
  ax.minorticks_off()
  ax.yaxis.set_major_formatter(plots.plain_numbers())
  ax.set_xticks(list(comparison.text))
  ax.margins(x=0.12)
  ax.set_xlabel('events of the history')
  ax.set_title(
      'prefill, ms (user encoder included)', loc='left', fontsize=10.5
  )


def _draw_ratios(
    ax: matplotlib.axes.Axes,
    comparison: costs.Comparison,
    colours: dict[str, str],
) -> None:
  events = max(comparison.text)
  text = comparison.text[events]
  others = [cost for cost in comparison.others if cost.events == events]
  names = list(costs.quantities(text))
  height = 0.8 / len(others)
  for i, cost in enumerate(others):
    ratios = list(costs.ratios(text, cost).values())
    y = [k + (i - (len(others) - 1) / 2) * height for k in range(len(names))]
    ax.barh(y, ratios, height * 0.88, color=colours[cost.model])
    for where, ratio in zip(y, ratios):
      ax.annotate(
          costs.times(ratio), (ratio, where), xytext=(4, 0),
          textcoords='offset points', va='center', fontsize=8,
      )
  ax.set_yticks(range(len(names)), names)
  ax.invert_yaxis()
  ax.set_xscale('log')
  ax.minorticks_off()
  ax.xaxis.set_major_formatter(plots.plain_numbers())
  ax.grid(axis='y', visible=False)
  ax.grid(axis='x', visible=True)
  ax.margins(x=0.1)
  # Where both cost the same.
  ax.set_xlim(left=min(1, ax.get_xlim()[0]))
  ax.set_title(
      f'text prompt / User-LLM, {costs.told(text)} events', loc='left',
      fontsize=10.5,
  )

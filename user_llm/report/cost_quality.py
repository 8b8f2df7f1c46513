"""Quality against cost: parameters and steps, or what a request costs."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import matplotlib.axes

from user_llm.report import effects
from user_llm.report import plots
from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import runs as runs_lib
from user_llm.report import tables

COST_FILE = 'cost.json'
_RESAMPLERS = {
    'ResamplerConfig()': ', Perceiver', 'NoResamplerConfig()': '',
}
_NEEDED = (
    'model', 'events', 'llm_tokens', 'prefill_flops', 'request_flops',
    'kv_bytes', 'request',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
  """A `cost.json` of `main cost`.

  Attributes:
    path: Of the file.
    facts: What was measured, on what.
    rows: One a model and number of events, as they are in the file.
  """

  path: pathlib.Path
  facts: Mapping[str, Any]
  rows: tuple[Mapping[str, Any], ...]

  @property
  def longest(self) -> dict[str, Mapping[str, Any]]:
    """By model, of the longest history."""
    events = max(row['events'] for row in self.rows)
    return {r['model']: r for r in self.rows if r['events'] == events}

  @property
  def about(self) -> str:
    """Whose costs these are."""
    some = next(iter(self.longest.values()))
    return f"{some['events']} events; {self.facts.get('about', '')}"


def cost_path(given: str) -> pathlib.Path | None:
  """The cost.json that is meant, if it is one."""
  path = pathlib.Path(given)
  if path.is_file():
    return path
  return path / COST_FILE if (path / COST_FILE).is_file() else None


def load(path: pathlib.Path) -> Costs:
  """Reads a cost.json; raises ValueError where it is none."""
  raw = runs_lib.read_json(path)
  rows = raw.get('costs')
  if (
      not isinstance(rows, list) or not rows
      or any(key not in row for row in rows for key in _NEEDED)
  ):
    raise ValueError(
        f'{path} is no {COST_FILE} of `python -m user_llm.main cost`.'
    )
  return Costs(path=path, facts=raw.get('facts', {}), rows=tuple(rows))


def cost_name(macros: Mapping[str, str]) -> str:
  """What `gin/runs/cost.gin` calls the model of a configuration.

  '' for those that it does not measure: a summary before the text, embeddings
  with text beside them, the last event alone.
  """
  has_text = macros.get('PROMPT_TOKENS', '0') != '0'
  if macros.get('SUMMARY_LABELS', '0') != '0':
    return ''
  if 'ENCODER' not in macros:
    return 'text prompt'
  resampler = _RESAMPLERS.get(macros.get('RESAMPLER', '').rpartition('.')[2])
  if has_text or resampler is None:
    return ''
  is_soft = any(name.startswith('SOFT_PROMPT_') for name in macros)
  return f'User-LLM{resampler}' + (', soft prompt' if is_soft else '')


def draw(
    table: results.Table,
    runs: Sequence[runs_lib.Run],
    costs: Sequence[Costs],
) -> str | None:
  """The leading metric against cost, as far as rows differ in it.

  That of a request, if a cost.json tells it; else that of the training.
  """
  macros = effects.row_macros(table, runs)
  by_name = {run.name: run for run in runs}
  found = {
      row: {
          name: cost
          for some in costs
          if row.model == 'user_llm' and cost_name(of_row) in some.longest
          for name, cost in _of_request(some.longest[cost_name(of_row)]).items()
      }
      for row, of_row in macros.items()
  }
  names = _that_differ(found)
  if not names:
    found = {row: _of_run(by_name[row.runs[0]]) for row in macros}
    names = _that_differ(found)
  if not names:
    return None
  metric = table.leading
  colours = plots.row_colours(table.rows)

  def draw_all(axes: Sequence[matplotlib.axes.Axes]) -> None:
    for ax, name in zip(axes, names):
      for row, of_row in found.items():
        if name in of_row:
          _point(ax, of_row[name], row, metric, colours[row])
      plots.scale_by_range(ax, [c[name] for c in found.values() if name in c])
      ax.set_xlabel(name)
      ax.margins(x=0.12)
    plots.share_limits(axes)
    axes[0].set_title(
        f'{tables.metric_label(metric)} against cost', loc='left', fontsize=10.5
    )
    plots.legend_below(axes)

  return plots.draw_svg(9.6, 3.6, len(names), draw_all)


def _that_differ(
    found: Mapping[rows_lib.Row, Mapping[str, float]],
) -> list[str]:
  """The costs that not all rows have alike: others explain nothing."""
  names = {name: None for costs in found.values() for name in costs}
  return [
      name
      for name in names
      if len({c[name] for c in found.values() if name in c}) > 1
  ]


def _of_run(run: runs_lib.Run) -> dict[str, float]:
  out = {}
  if run.info.get('num_trainable'):
    out['million parameters that train'] = run.info['num_trainable'] / 1e6
  timed = [
      (line['step'], line['train/wall_secs'])
      for line in run.history
      if 'train/wall_secs' in line
  ]
  # The first steps compile.
  if len(timed) > 1:
    steps, secs = (b - a for a, b in zip(timed[0], timed[-1]))
    if steps > 0 and secs > 0:
      out['seconds a training step'] = secs / steps
  return out


def _of_request(cost: Mapping[str, Any]) -> dict[str, float]:
  new, flops = max(cost['request_flops'].items(), key=lambda x: int(x[0]))
  return {
      'LLM tokens of a request': cost['llm_tokens'],
      f'GFLOP, {new} new tokens': flops / 1e9,
      f'ms, {new} new tokens': 1e3 * cost['request'][new]['median_secs'],
  }


def _point(
    ax: matplotlib.axes.Axes,
    x: float,
    row: rows_lib.Row,
    metric: str,
    colour: str,
) -> None:
  value = row.metrics[metric]
  ax.errorbar(
      x, value.mean, yerr=value.stderr or 0, marker='o', ms=6, color=colour,
      elinewidth=0.8, linestyle='none', label=tables.short_label(row),
  )

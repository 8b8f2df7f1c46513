"""One self-contained HTML page about one or more runs."""

from collections.abc import Sequence
import pathlib
from typing import Any

import jinja2

from user_llm.report import comparability
from user_llm.report import cost_quality
from user_llm.report import curves
from user_llm.report import difference_tables
from user_llm.report import effects
from user_llm.report import gathering
from user_llm.report import plots
from user_llm.report import results
from user_llm.report import runs as runs_lib
from user_llm.report import significance
from user_llm.report import slice_plots
from user_llm.report import slices as slices_lib
from user_llm.report import tables

_TEMPLATE = 'page.html.j2'
_MAX_EXAMPLES = 6
_MAX_HISTORY = 12
# Runs of a table whose example users are shown.
_MAX_GROUPS = 2


def render(report: gathering.Report, title: str) -> str:
  """The page as text; it needs neither network nor other files."""
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True,
      trim_blocks=True,
      lstrip_blocks=True,
      undefined=jinja2.StrictUndefined,
  )
  environment.filters['row_label'] = tables.label
  environment.globals.update(
      model_label=tables.model_label,
      cell=tables.cell,
      metric_label=tables.metric_label,
      policy_label=tables.policy_label,
      errors_note=tables.errors_note,
      difference_title=difference_tables.title,
      difference_parts=difference_tables.parts,
      difference_note=difference_tables.NOTE,
      is_significant=difference_tables.is_significant,
  )
  runs = report.runs
  return environment.get_template(_TEMPLATE).render(
      title=title,
      tables=[
          _table(table, comparison, report)
          for table, comparison in zip(report.tables, report.comparisons)
      ],
      losses=curves.all_losses(runs),
      runs=[
          {
              'run': run,
              'facts': _facts(run),
              'curves': curves.learning_curves(run),
          }
          for run in runs
      ],
      varying=_varying(runs),
      unfinished=report.unfinished,
      costs=report.costs,
      examples=_example_groups(report),
  )


def _table(
    table: results.Table,
    comparison: significance.Comparison | None,
    report: gathering.Report,
) -> dict[str, Any]:
  macros = effects.row_macros(table, report.runs)
  slices = slices_lib.make(table)
  return {
      'effects': effects.main_effects(table, macros, report.varying),
      'lengths': effects.history_lengths(table, macros),
      'costs': cost_quality.draw(table, report.runs, report.costs),
      'slices': slices,
      'slice_charts': slice_plots.draw(table, slices),
      'comparison': comparison,
      'differences': {
          policy: metrics
          for policy in table.policies
          if (metrics := _compared(table, comparison, policy))
      },
      'refusals': difference_tables.told_refusals(comparison)
      if comparison
      else [],
      'table': table,
      'bars': plots.bars(table),
      'question': comparability.of_table(table, report.questions),
  }


def _compared(
    table: results.Table,
    comparison: significance.Comparison | None,
    policy: str,
) -> list[str]:
  """The metrics of a policy in which some row was compared."""
  found = comparison.differences.values() if comparison else ()
  return [m for m in table.metrics(policy) if any(m in row for row in found)]


def _varying(
    runs: Sequence[runs_lib.Run],
) -> dict[str, list[str]]:
  """By macro that is not the same in all runs that have it: of each run."""
  names = sorted({name for run in runs for name in run.macros})
  values = {name: [run.macros.get(name, '') for run in runs] for name in names}
  return {
      name: found
      for name, found in values.items()
      if len(set(found) - {''}) > 1
  }


def _facts(run: runs_lib.Run) -> list[tuple[str, str]]:
  """What `run.json` says, ready to be read."""
  info = run.info
  facts = [
      ('state', run.state),
      ('parameters', _count(info.get('num_params'))),
      ('trainable', _count(info.get('num_trainable'))),
      ('seed', info.get('seed')),
      ('time', _duration(info.get('wall_secs'))),
      ('started', str(info.get('started', ''))[:16].replace('T', ' ')),
      ('split', info.get('split_fingerprint')),
      ('hardware', info.get('hardware')),
  ]
  return [(name, str(v)) for name, v in facts if v not in (None, '')]


def _count(number: int | None) -> str | None:
  return None if number is None else f'{number:,}'


def _duration(secs: float | None) -> str | None:
  """3725.2 -> '1 h 2 min'."""
  if secs is None:
    return None
  minutes, seconds = divmod(round(secs), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def _example_groups(report: gathering.Report) -> list[dict[str, Any]]:
  """Example users: of each table's runs, those of its best rows first."""
  shown = {
      name
      for table in report.tables
      for row in table.by_quality(
          [row for row in table.rows if row.is_model]
      )[:_MAX_GROUPS]
      for name in row.runs[:1]
  }
  return [
      {
          'task': ': '.join(results.split_task(evaluation['task'])),
          'run': run.name,
          'cards': [_card(e) for e in examples[:_MAX_EXAMPLES]],
      }
      for run in report.runs
      if run.name in shown
      for evaluation in run.latest
      if (examples := evaluation.raw.get('examples'))
  ]


def _card(example: dict[str, Any]) -> dict[str, Any]:
  """One user: the newest events first, and each answer marked if right."""
  history = list(reversed(example['history']))
  answers = [
      {**answer, 'is_hit': answer['text'] == example['truth']}
      for answer in example['answers']
  ]
  return {
      'user': example['user'],
      'history': history[:_MAX_HISTORY],
      'num_more': max(0, len(history) - _MAX_HISTORY),
      'question': example['question'],
      'answers': answers,
      'truth': example['truth'],
      'is_hit': any(answer['is_hit'] for answer in answers),
  }

"""One self-contained HTML page about one or more runs."""

from collections.abc import Sequence
import pathlib
from typing import Any

import jinja2

from user_llm.report import plots
from user_llm.report import results
from user_llm.report import tables

_TEMPLATE = 'page.html.j2'
_MAX_EXAMPLES = 6
_MAX_HISTORY = 12


def render(runs: Sequence[results.Run], title: str) -> str:
  """The page as text; it needs neither network nor other files."""
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True,
      trim_blocks=True,
      lstrip_blocks=True,
      undefined=jinja2.StrictUndefined,
  )
  environment.globals.update(
      label=tables.label,
      cell=tables.cell,
      metric_keys=tables.metric_keys,
      is_best=tables.is_best,
      policy_labels=tables.POLICY_LABELS,
  )
  joined = results.make_tables(runs)
  return environment.get_template(_TEMPLATE).render(
      title=title,
      tables=[
          {
              'table': table,
              'bars': plots.bars(table),
              'protocols': sorted({r.protocol for r in table.rows} - {''}),
          }
          for table in joined
      ],
      runs=[
          {
              'name': run.name,
              'facts': _facts(run),
              'command': run.info.get('command'),
              'curves': plots.learning_curves(run),
          }
          for run in runs
      ],
      examples=[
          group for run in runs for group in _example_groups(run) if group
      ],
  )


def _facts(run: results.Run) -> list[tuple[str, str]]:
  """What `run.json` says, ready to be read."""
  info = run.info
  facts = [
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


def _example_groups(run: results.Run) -> list[dict[str, Any]]:
  """The example users of each of the run's evaluations."""
  return [
      {
          'task': ': '.join(results.split_task(evaluation['task'])),
          'run': run.name,
          'cards': [_card(e) for e in evaluation['examples'][:_MAX_EXAMPLES]],
      }
      for evaluation in results.latest_evaluations(run)
      if evaluation.get('examples')
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

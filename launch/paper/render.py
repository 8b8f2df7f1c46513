"""A table of ours in Markdown, with others' numbers beside."""

from collections.abc import Mapping, Sequence
import csv
import fnmatch
import json
import math
import pathlib
import re
import statistics
from typing import Any

from launch.paper import spec as spec_lib
from launch.paper import workflow

_TRUST = (
    'Published numbers, {source}: other data, split and model than ours. [A] in '
    "the paper's abstract or quoted from its text; [B] from a text that "
    'reprints it.'
)

_COST_COLUMN = re.compile(
    r'model|events|events_held|llm_tokens|prefill_flops|request_flops/\d+|'
    r'kv_bytes|prefill/median_secs|request/\d+/median_secs'
)


def table(
    table_spec: spec_lib.Table,
    folder: pathlib.Path,
    seeds: Sequence[int],
    failed: Mapping[pathlib.Path, str],
) -> str:
  """Markdown; what is missing says why.

  Args:
    table_spec: Which.
    folder: Of the runs.
    seeds: Whose means are shown.
    failed: By workdir, why.
  """
  lines = [f'## {table_spec.title}', '']
  if table_spec.cost:
    return '\n'.join([*lines, *_cost(table_spec, folder, seeds, failed)])
  metrics = table_spec.metrics
  heads = [_metric_name(metric) for metric in metrics]
  lines += _cells(['', *heads, 'n', 'published'])
  lines.append('|' + '---|' * (len(heads) + 3))
  notes: dict[str, None] = {}
  examples: dict[str, dict[str, None]] = {}
  for row in table_spec.rows:
    paths = [workflow.workdir(folder, row.run, seed) for seed in seeds]
    reasons = [failed[path] for path in paths if path in failed]
    if reasons:
      lines += _cells([row.title, *[''] * len(heads), '', reasons[0]])
      continue
    found = [_evaluation(path, table_spec.tasks) for path in paths]
    found = [evaluation for evaluation in found if evaluation is not None]
    values = [_model(e, row.model) for e in found]
    values = [v for v in values if v]
    if not values:
      lines += _cells([row.title, *[''] * len(heads), '', 'no evaluation'])
      continue
    for e in found:
      examples.setdefault(_examples(e), {})[row.title] = None
      notes[
          f'{e["task"]}: {e["split"]} split, {e["split_rule"]}, fingerprint '
          f'`{e["split_fingerprint"]}`, {e["protocol"]}.'
      ] = None
    if len({_examples(e) for e in found}) > 1:
      reason = 'no mean: its seeds are of different examples'
      lines += _cells([row.title, *[''] * len(heads), '', reason])
      continue
    lines += _cells([
        row.title,
        *(_estimate([v[m] for v in values if m in v]) for m in metrics),
        f'{found[0]["num_examples"]:,}',
        _published(table_spec.name, row.title),
    ])
  about = (
      '± is the standard error over the n examples'
      if len(seeds) == 1
      else f'Mean of {len(seeds)} seeds, ± sd / √{len(seeds)}; where all seeds '
      'agree (floors, oracles), ± is the standard error over the n examples'
  )
  trust = _TRUST.format(source=spec_lib.published()['source'])
  if len(examples) > 1:
    told = '; '.join(f'{k} ({", ".join(v)})' for k, v in examples.items())
    lines[2:2] = [
        f'**Not comparable**: rows are of different examples: {told}.', ''
    ]
  return '\n'.join([*lines, '', f'{about}. {trust}', '', *notes, ''])


def _examples(evaluation: Mapping[str, Any]) -> str:
  """What rows must share to be compared."""
  return (
      f'{evaluation["split"]} split, fingerprint '
      f'`{evaluation["split_fingerprint"]}`, n = '
      f'{evaluation["num_examples"]:,}'
  )


def _cells(texts: Sequence[str]) -> list[str]:
  return [f'| {" | ".join(texts)} |']


def _metric_name(metric: str) -> str:
  name, _, policy = metric.partition('/')
  names = {'answer_nats': '-log p, nats', 'prompt_events': 'events told'}
  return names.get(name, name) + (f', {policy}' if policy else '')


def _evaluation(
    path: pathlib.Path, tasks: Sequence[str]
) -> dict[str, Any] | None:
  """The newest of the test split."""
  for task in tasks:
    found = sorted(
        (int(file.stem), file)
        for file in path.glob(f'eval/*_{task}/*.json')
        if file.stem.isdigit() and not _is_future(file, task)
    )
    if found:
      return json.loads(found[-1][1].read_text(encoding='utf-8'))
  return None


def _is_future(file: pathlib.Path, task: str) -> bool:
  return f'_future_{task}' in file.parent.name


def _model(evaluation: Mapping[str, Any], pattern: str) -> dict[str, Any]:
  names = fnmatch.filter(evaluation['models'], pattern)
  return evaluation['models'][names[0]] if names else {}


def _estimate(found: Sequence[Mapping[str, float]]) -> str:
  """Of floors, the same with every seed, it keeps the error over examples."""
  if not found:
    return ''
  means = [value['mean'] for value in found]
  mean, stderr = statistics.fmean(means), found[0].get('stderr')
  if len(set(means)) > 1:
    stderr = statistics.stdev(means) / math.sqrt(len(means))
  return f'{mean:.3f}' + (f' ± {stderr:.3f}' if stderr is not None else '')


def _published(table_name: str, row: str) -> str:
  texts = []
  for numbers in spec_lib.published()['numbers']:
    if (numbers['table'], numbers['row']) == (table_name, row):
      texts += [
          f'{numbers["metric"]} {value:g} ({data}) [{numbers["trust"]}]'
          for data, value in numbers['on'].items()
      ]
  return '; '.join(texts)


def _shorter(cell: str) -> str:
  """'0.0123456' -> '0.0123', '13200000' -> '13,200,000'."""
  try:
    number = float(cell)
  except ValueError:
    return cell
  return f'{number:,.0f}' if abs(number) >= 1000 else f'{number:.4g}'


def _cost(
    table_spec: spec_lib.Table,
    folder: pathlib.Path,
    seeds: Sequence[int],
    failed: Mapping[pathlib.Path, str],
) -> list[str]:
  path = workflow.workdir(folder, table_spec.cost, seeds[0])
  if path in failed:
    return [failed[path], '']
  document = json.loads((path / 'cost.json').read_text(encoding='utf-8'))
  lines = [f'{document["facts"]["about"]}.', '']
  with (path / 'cost.csv').open(encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  heads = [name for name in rows[0] if _COST_COLUMN.fullmatch(name)]
  lines += [*_cells(heads), '|' + '---|' * len(heads)]
  for row in rows:
    lines += _cells([_shorter(row[name]) for name in heads])
  lines.append('')
  for numbers in spec_lib.published()['numbers']:
    if numbers['table'] == table_spec.name:
      lines += [
          f'Published: {numbers["row"]}: {value:g} ({data}) '
          f'[{numbers["trust"]}].'
          for data, value in numbers['on'].items()
      ]
  return [*lines, *_token_ratios(rows), '']


def _token_ratios(rows: Sequence[Mapping[str, str]]) -> list[str]:
  """Ours beside the published one, of the longest history."""
  text = max(
      (row for row in rows if row['model'] == rows[0]['model']),
      key=lambda row: int(row['events']),
  )
  events, held = text['events'], text['events_held']
  fits = '' if held == events else f' ({held} fit)'
  return [
      f'Ours: tokens of a {text["model"]} of {events} events{fits} / of '
      f'{row["model"]}: {float(row["ratios/LLM tokens"]):.1f}.'
      for row in rows
      if row['events'] == events and row is not text
  ]

"""Result tables as text: for the terminal and as Markdown."""

from collections.abc import Sequence
import pathlib

from rich import box
from rich import console as rich_console
from rich import table as rich_table

from user_llm.report import results

MODEL_LABELS = {
    'user_llm': 'User-LLM (text)',
    'encoder_head': 'Encoder head',
    'dual_encoder': 'Dual encoder',
    'popularity': 'Popularity',
    'markov': 'Markov',
    'favourite_so_far': 'Favourite so far',
    'most_frequent_genre': 'Most frequent genre',
    'most_frequent_category': 'Most frequent category',
    'most_frequent_answer': 'Most frequent text',
    'copy_title': "The item's title",
    'bayes_optimal': 'Bayes-optimal',
    'counting_oracle': 'Counting oracle',
    'base_decoder': 'Decoder before training',
}
POLICY_LABELS = {
    'unseen': 'seen items removed',
    'all': 'all items',
    '': '',
}


def label(model: str) -> str:
  """'user_llm' -> 'User-LLM (text)'."""
  return MODEL_LABELS.get(model, model)


def metric_keys(table: results.Table, policy: str) -> list[str]:
  """The keys of a policy's columns: ['recall@1/unseen', ...]."""
  return [metric_key(m, policy) for m in table.metrics]


def metric_key(metric: str, policy: str) -> str:
  return f'{metric}/{policy}' if policy else metric


def cell(row: results.Row, metric: str) -> str:
  """'0.196 ±0.013', or '' if the model has no such metric."""
  if metric not in row.metrics:
    return ''
  value = row.metrics[metric]
  text = f'{value.mean:.3f}'
  return text if value.stderr is None else f'{text} ±{value.stderr:.3f}'


def compact_cell(row: results.Row, metric: str) -> str:
  """'.196±.013': five of them fit on a terminal of 80 columns."""
  parts = cell(row, metric).replace('±', '').split()
  return '±'.join(part.removeprefix('0') for part in parts)


def is_best(table: results.Table, row: results.Row, metric: str) -> bool:
  """Whether no other model but the ceilings is better."""
  return (
      not row.is_ceiling
      and metric in row.metrics
      and row.metrics[metric].mean == table.best(metric)
  )


def caption(table: results.Table) -> str:
  """The split in one line."""
  return (
      f'{table.split} split, {table.split_rule}, fingerprint '
      f'{table.split_fingerprint}'
  )


def print_results(
    workdirs: Sequence[str], console: rich_console.Console | None = None
) -> None:
  """Prints one table for each dataset, question and policy."""
  console = console or rich_console.Console()
  tables = results.make_tables([results.load_run(w) for w in workdirs])
  if not tables:
    console.print('No evaluations yet: no eval/<task>/<step>.json was found.')
  for table in tables:
    for policy in table.policies:
      console.print(_rich_table(table, policy), '')


def _rich_table(table: results.Table, policy: str) -> rich_table.Table:
  suffix = f', {POLICY_LABELS[policy]}' if policy else ''
  n = table.rows[0].num_examples
  out = rich_table.Table(
      title=f'{table.title}{suffix}',
      caption=caption(table) + ('' if table.has_mixed_counts else f', n = {n}'),
      box=box.SIMPLE_HEAD,
      show_edge=False,
      min_width=66,
      title_style='bold',
  )
  out.add_column('model', no_wrap=True)
  shown = metric_keys(table, policy)
  for name in table.metrics:
    out.add_column(name, justify='right', no_wrap=True)
  if table.has_mixed_counts:
    out.add_column('n', justify='right')
  for row in table.rows:
    style = 'dim' if row.is_ceiling or row.is_floor else None
    cells = [
        f'[bold]{compact_cell(row, metric)}[/bold]'
        if is_best(table, row, metric)
        else compact_cell(row, metric)
        for metric in shown
    ]
    if table.has_mixed_counts:
      cells.append(str(row.num_examples))
    out.add_row(label(row.model), *cells, style=style)
  return out


def to_markdown(tables: Sequence[results.Table]) -> str:
  """The tables as one Markdown document."""
  parts = ['# Results\n']
  for table in tables:
    parts.append(f'## {table.title}\n')
    parts.append(f'{caption(table)}\n')
    for policy in table.policies:
      if policy:
        parts.append(f'{POLICY_LABELS[policy].capitalize()}:\n')
      parts.append(_markdown_table(table, policy))
    protocols = sorted({row.protocol for row in table.rows if row.protocol})
    parts.extend(f'Protocol: {protocol}\n' for protocol in protocols)
  return '\n'.join(parts)


def _markdown_table(table: results.Table, policy: str) -> str:
  shown = metric_keys(table, policy)
  names = list(table.metrics)
  lines = [
      '| ' + ' | '.join(['model', *names, 'n', 'run', 'step']) + ' |',
      '|---' * (len(names) + 4) + '|',
  ]
  for row in table.rows:
    cells = [
        f'**{cell(row, metric)}**'
        if is_best(table, row, metric)
        else cell(row, metric)
        for metric in shown
    ]
    line = [label(row.model), *cells]
    line += [str(row.num_examples), row.run, str(row.step)]
    lines.append('| ' + ' | '.join(line) + ' |')
  return '\n'.join(lines) + '\n'


def write_markdown(path: str, tables: Sequence[results.Table]) -> None:
  pathlib.Path(path).write_text(to_markdown(tables), encoding='utf-8')

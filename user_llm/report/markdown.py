"""Results as one Markdown document."""

from user_llm.report import comparability
from user_llm.report import difference_tables
from user_llm.report import gathering
from user_llm.report import results
from user_llm.report import tables


def to_markdown(report: gathering.Report) -> str:
  """The tables as one Markdown document."""
  parts = ['# Results\n']
  for table, comparison in zip(report.tables, report.comparisons):
    question = comparability.of_table(table, report.questions)
    parts += [f'## {table.title}\n', f'{tables.caption(table)}\n']
    for policy in table.policies:
      if title := tables.policy_label(table, policy):
        parts.append(f'{title.capitalize()}:\n')
      parts.append(_markdown_table(table, policy))
    parts += [f'{tables.errors_note(table)}. {question.verdict}\n']
    if comparison is not None:
      parts.append(difference_tables.to_markdown(table, comparison))
    parts += [f'Protocol: {protocol}\n' for protocol in table.protocols]
  if report.unfinished:
    parts.append('## Unfinished trials\n')
    trials = [[trial.name, trial.state] for trial in report.unfinished]
    parts.append(tables.markdown_lines(['trial', 'state'], trials))
  return '\n'.join(parts)


def _markdown_table(table: results.Table, policy: str) -> str:
  shown = table.metrics(policy)
  rows = []
  for row in table.rows:
    if row.metrics.keys().isdisjoint(shown):
      continue
    cells = [
        f'**{tables.cell(row, metric)}**'
        if table.is_best(row, metric)
        else tables.cell(row, metric)
        for metric in shown
    ]
    seeds = str(len(row.seeds) or '')
    rows.append([
        tables.label(row), *cells,
        str(row.num_examples), seeds, row.run, str(row.step),
    ])
  names = map(tables.metric_label, shown)
  return tables.markdown_lines(
      ['model', *names, 'n', 'seeds', 'run', 'step'], rows
  )

"""Prints result tables on a terminal."""

from rich import box
from rich import console as rich_console
from rich import table as rich_table

from user_llm.report import comparability
from user_llm.report import difference_tables
from user_llm.report import gathering
from user_llm.report import results
from user_llm.report import tables


def print_report(
    report: gathering.Report, console: rich_console.Console
) -> None:
  """Prints one table for each dataset, question and policy."""
  for run in report.runs:
    if not run.evaluations:
      console.print(
          f'{run.name}: No evaluations yet: no eval/<task>/<step>.json was '
          'found.', style='dim', markup=False,
      )
  for trial in report.unfinished:
    console.print(
        f'Trial {trial.name}: {trial.state}.', style='dim', markup=False
    )
  for table, comparison in zip(report.tables, report.comparisons):
    for policy in table.policies:
      console.print(_rich_table(table, policy), '')
    question = comparability.of_table(table, report.questions)
    style = 'bold red' if question.differences else 'dim'
    console.print(question.verdict, '', style=style, markup=False)
    for protocol in table.protocols:
      console.print(f'Protocol: {protocol}', '', style='dim', markup=False)
    if comparison is None:
      continue
    if comparison.differences:
      console.print(difference_tables.to_rich(table, comparison), '')
    for line in difference_tables.told_refusals(comparison):
      console.print(line, '', style='dim', markup=False)


def _rich_table(table: results.Table, policy: str) -> rich_table.Table:
  suffix = tables.policy_label(table, policy)
  n = table.rows[0].num_examples
  out = rich_table.Table(
      title=f'{table.title}, {suffix}' if suffix else table.title,
      caption=tables.caption(table)
      + ('' if table.has_mixed_counts else f', n = {n}')
      + f'\n{tables.errors_note(table)}',
      box=box.SIMPLE_HEAD,
      show_edge=False,
      collapse_padding=True,
      pad_edge=False,
      min_width=66,
      title_style='bold',
  )
  shown = table.metrics(policy)
  rows = [row for row in table.rows if not row.metrics.keys().isdisjoint(shown)]
  out.add_column('model', overflow='fold')
  for metric in shown:
    out.add_column(tables.metric_label(metric), justify='right', no_wrap=True)
  if table.has_mixed_counts:
    out.add_column('n', justify='right')
  if table.has_seeds:
    out.add_column('seeds', justify='right')
  for row in rows:
    style = 'dim' if row.is_ceiling or row.is_floor else None
    cells = [
        f'[bold]{tables.compact_cell(row, metric)}[/bold]'
        if table.is_best(row, metric)
        else tables.compact_cell(row, metric)
        for metric in shown
    ]
    if table.has_mixed_counts:
      cells.append(str(row.num_examples))
    if table.has_seeds:
      cells.append(str(len(row.seeds) or ''))
    out.add_row(tables.short_label(row), *cells, style=style)
  return out

"""Differences from a reference row as text."""

from rich import box
from rich import table as rich_table

from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import significance
from user_llm.report import tables

NOTE = (
    'mean difference over the same examples, 95 % interval and two-sided p of '
    f'a paired bootstrap, {significance.RESAMPLES:,} resamples of the '
    'examples, seed fixed; rows of several seeds go in with each example\'s '
    'mean over the seeds; p is not corrected for the number of comparisons'
)


def title(comparison: significance.Comparison) -> str:
  return f'Difference from {tables.label(comparison.reference)}'


def is_significant(difference: significance.Difference) -> bool:
  """Whether the interval leaves out zero."""
  return difference.low > 0 or difference.high < 0


def parts(difference: significance.Difference) -> tuple[str, str, str]:
  """('+0.021', '[-0.003, +0.045]', 'p .094')."""
  p = difference.p_value
  told = '< .001' if p < 0.001 else f'{p:.3f}'.removeprefix('0')
  return (
      f'{difference.mean:+.3f}',
      f'[{difference.low:+.3f}, {difference.high:+.3f}]',
      f'p {told}',
  )


def cell(
    comparison: significance.Comparison, row: rows_lib.Row, metric: str
) -> str:
  """'+0.021 [-0.003, +0.045] p .094'; bold if significant."""
  found = comparison.differences.get(row, {}).get(metric)
  if found is None:
    return ''
  text = ' '.join(parts(found))
  return f'**{text}**' if is_significant(found) else text


def told_refusals(comparison: significance.Comparison) -> list[str]:
  """Why rows are not compared; one line for all of one reason."""
  reference = tables.label(comparison.reference)
  if not comparison.reference.values:
    return [
        f'No differences from {reference}: its evaluation kept none of its '
        'examples (an older one, without its .npz).'
    ]
  by_reason: dict[str, list[str]] = {}
  for row, reason in comparison.refusals.items():
    by_reason.setdefault(reason, []).append(tables.label(row))
  return [
      f'Not compared with {reference}: {", ".join(labels)}: {reason}.'
      for reason, labels in by_reason.items()
  ]


def to_rich(
    table: results.Table, comparison: significance.Comparison
) -> rich_table.Table:
  """Of the leading metric alone: a terminal is narrow."""
  metric = table.leading
  out = rich_table.Table(
      title=f'{title(comparison)}: {tables.metric_label(metric)}',
      caption=NOTE,
      box=box.SIMPLE_HEAD,
      show_edge=False,
      title_style='bold',
  )
  out.add_column('model', overflow='fold')
  out.add_column('difference', justify='right', no_wrap=True)
  out.add_column('95 % interval', justify='right', no_wrap=True)
  out.add_column('p', no_wrap=True)
  for row, found in comparison.differences.items():
    if metric in found:
      style = 'bold' if is_significant(found[metric]) else None
      out.add_row(tables.short_label(row), *parts(found[metric]), style=style)
  return out


def to_markdown(
    table: results.Table, comparison: significance.Comparison
) -> str:
  """One Markdown table a policy, and what was refused."""
  out = []
  for policy in table.policies:
    metrics = [
        metric
        for metric in table.metrics(policy)
        if any(metric in found for found in comparison.differences.values())
    ]
    if not metrics:
      continue
    suffix = tables.policy_label(table, policy)
    out.append(title(comparison) + (f', {suffix}' if suffix else '') + ':\n')
    out.append(
        tables.markdown_lines(
            ['model', *map(tables.metric_label, metrics)],
            [
                [
                    tables.label(row),
                    *(cell(comparison, row, metric) for metric in metrics),
                ]
                for row in comparison.differences
            ],
        )
    )
  if out:
    out.append(f'({NOTE})\n')
  out += [f'{line}\n' for line in told_refusals(comparison)]
  return '\n'.join(out)

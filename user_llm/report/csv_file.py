"""Results as CSV: one line a model, metric and seen policy."""

from collections.abc import Iterator
import csv
import io
import pathlib
from typing import Any

from user_llm import atomic
from user_llm.report import comparability
from user_llm.report import gathering
from user_llm.report import results
from user_llm.report import rows as rows_lib
from user_llm.report import significance


def write(path: pathlib.Path, report: gathering.Report) -> None:
  """Writes all tables into one file; the first line has the columns' names."""
  lines = list(_lines(report))
  text = io.StringIO(newline='')
  if lines:
    writer = csv.DictWriter(text, lines[0])
    writer.writeheader()
    writer.writerows(lines)
  atomic.write_text(path, text.getvalue())


def _lines(report: gathering.Report) -> Iterator[dict[str, Any]]:
  for table, comparison in zip(report.tables, report.comparisons):
    question = comparability.of_table(table, report.questions)
    for row in table.rows:
      for metric in row.metrics:
        yield {
            'dataset': table.dataset,
            'question': table.kind,
            'task': row.task,
            'split': table.split,
            'split_rule': table.split_rule,
            'split_fingerprint': table.split_fingerprint,
            'comparable': not question.differences,
            'protocol': row.protocol,
            'model': row.model,
            'runs': ' '.join(row.runs),
            'seeds': ' '.join(map(str, row.seeds)),
            'step': row.step,
            'num_examples': row.num_examples,
            **_measured(table, row, metric),
            **_compared(comparison, row, metric),
        }


def _measured(
    table: results.Table, row: rows_lib.Row, metric: str
) -> dict[str, Any]:
  name, _, policy = metric.partition('/')
  value = row.metrics[metric]
  return {
      'metric': name,
      'policy': policy,
      'mean': value.mean,
      'stderr': value.stderr,
      'stderr_over': 'seeds' if row.has_seeds else 'examples',
      'is_best': table.is_best(row, metric),
  }


def _compared(
    comparison: significance.Comparison | None, row: rows_lib.Row, metric: str
) -> dict[str, Any]:
  names = ('against', 'difference', 'ci_low', 'ci_high', 'p_value', 'refused')
  out: dict[str, Any] = dict.fromkeys(names, '')
  if comparison is None or row is comparison.reference:
    return out
  reference = comparison.reference
  out['against'] = f'{reference.model}/{reference.run}'
  out['refused'] = comparison.refusals.get(row, '')
  if found := comparison.differences.get(row, {}).get(metric):
    out |= {
        'difference': found.mean,
        'ci_low': found.low,
        'ci_high': found.high,
        'p_value': found.p_value,
    }
  return out

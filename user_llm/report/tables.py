"""What the cells of result tables say, wherever they are shown."""

from collections.abc import Sequence

from user_llm.report import results
from user_llm.report import rows as rows_lib

MODEL_LABELS = {**rows_lib.TRAINED, **rows_lib.FLOORS, **rows_lib.CEILINGS}
_METRIC_LABELS = {
    'answer_nats': '-log p, nats',
    'prompt_events': 'events told',
    'prompt_truncated': 'prompts cut',
}
_POLICY_LABELS = {'unseen': 'seen items removed', 'all': 'all items'}


def model_label(row: rows_lib.Row) -> str:
  """'User-LLM (text)'."""
  return MODEL_LABELS.get(row.model, row.model)


def label(row: rows_lib.Row) -> str:
  """'User-LLM (text)', and its run where there are several."""
  name = model_label(row)
  return f'{name} · {row.detail}' if row.detail else name


def short_label(row: rows_lib.Row) -> str:
  """The run alone, where there are several."""
  return row.detail if row.is_model and row.detail else label(row)


def metric_label(metric: str) -> str:
  """'recall@10/unseen' -> 'recall@10'."""
  name = metric.split('/')[0]
  return _METRIC_LABELS.get(name, name)


def policy_label(table: results.Table, policy: str) -> str:
  """'seen items removed'; '' where the table has no such choice."""
  if not policy and len(table.policies) > 1:
    return 'beside the ranking'
  return _POLICY_LABELS.get(policy, '')


def cell(row: rows_lib.Row, metric: str) -> str:
  """'0.196 ±0.013', or '' if the model has no such metric."""
  if metric not in row.metrics:
    return ''
  value = row.metrics[metric]
  text = f'{value.mean:.3f}'
  return text if value.stderr is None else f'{text} ±{value.stderr:.3f}'


def compact_cell(row: rows_lib.Row, metric: str) -> str:
  """'.196±.013': five of them fit on a terminal of 80 columns."""
  parts = cell(row, metric).replace('±', '').split()
  return '±'.join(part.removeprefix('0') for part in parts)


def caption(table: results.Table) -> str:
  """The split in one line."""
  return (
      f'{table.split} split, {table.split_rule}, fingerprint '
      f'{table.split_fingerprint}'
  )


def errors_note(table: results.Table) -> str:
  """What the standard errors are of."""
  note = '± is the standard error over the n examples of a run'
  if table.has_seeds:
    note += (
        '; of rows with several seeds it is that of the seeds\' means, sd / '
        '√seeds'
    )
  return note


def markdown_lines(
    head: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
  """A Markdown table."""
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  for row in rows:
    cells = (cell.replace('|', r'\|') for cell in row)
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'

"""Whether a checkpoint is of this run's model, data and vocabulary."""

from collections.abc import Mapping
import difflib
from typing import Any

_SHOWN = 20
_MENDS = {
    'catalogue': 'DATA_DIR must be the dataset that it was trained on',
    'events': (
        'DATA_DIR must be the dataset that it was trained on, or set '
        '--gin.ALLOW_DATA_CHANGE=True'
    ),
    'split_rule': (
        'SPLIT_RULE must be the one that it was trained with; by another it '
        'may have seen the events that are held out'
    ),
    'vocabulary': (
        'VOCABULARY must be the file that it was trained with; the same '
        '`python -m user_llm.data.vocabulary --data_dir DIR --output FILE '
        '--size N` on the same dataset makes it again'
    ),
    'frozen': 'INIT_FROM must name the checkpoints that it was started from',
}


def check_identity(
    found: Mapping[str, str], wanted: Mapping[str, str], where: str
) -> None:
  """Raises ValueError where two runs are not about the same data."""
  for key in sorted(found.keys() & wanted.keys()):
    if found[key] != wanted[key]:
      raise ValueError(
          f'{where} was made with {key} {found[key]}, and this run has '
          f'{wanted[key]}: {_MENDS[key]}.'
      )


def check_same_keys(
    found: Mapping[str, Any], wanted: Mapping[str, Any], where: str
) -> None:
  """Raises ValueError with a table of all differences in names and shapes.

  Args:
    found: The checkpoint's parameters (or their shapes) by path.
    wanted: The model's.
    where: Names the checkpoint.
  """
  left_over = sorted(found.keys() - wanted.keys())
  rows = []
  for path in sorted(found.keys() | wanted.keys()):
    if path not in found:
      hint = _nearest(path, left_over)
      rows.append((path, 'missing', _shape(wanted[path]), hint))
    elif path not in wanted:
      rows.append((path, _shape(found[path]), 'unexpected', ''))
    elif _shape(found[path]) != _shape(wanted[path]):
      rows.append((path, _shape(found[path]), _shape(wanted[path]), ''))
  if not rows:
    return
  table = [('parameter', 'checkpoint', 'MODEL', ''), *rows[:_SHOWN]]
  widths = [max(len(row[i]) for row in table) for i in range(3)]
  lines = [
      '  '.join([*(text.ljust(w) for text, w in zip(row, widths)), row[3]])
      for row in table
  ]
  if len(rows) > _SHOWN:
    lines.append(f'and {len(rows) - _SHOWN} more')
  raise ValueError(
      f'The checkpoint {where} does not fit MODEL ({len(rows)} differences). '
      "Give what it was trained with, its workdir's config.gin, or another "
      '--workdir.\n  ' + '\n  '.join(line.rstrip() for line in lines)
  )


def _shape(array: Any) -> str:
  return str(tuple(array.shape))


def _nearest(path: str, names: list[str]) -> str:
  close = difflib.get_close_matches(path, names, n=1, cutoff=0.8)
  return f'{close[0]} renamed?' if close else ''

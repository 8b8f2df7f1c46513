"""Workdirs with evaluations, as runs leave them, for tests of the report."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

import numpy as np

from user_llm import evaluator
from user_llm import metrics as metrics_lib
from user_llm import per_example

CONFIG = '''
# Macros:
SEED = {seed}
LEARNING_RATE = 0.001
LEARNING_RATE_SCALES = \\
    (('a', 1.0),
     ('b', 2.0))
train.train.seed = %SEED
'''


def facts(num_examples: int, first_user: int = 0) -> dict[str, np.ndarray]:
  """Of that many users: 1, 2, 3, ... events; popular items, then rare ones."""
  n = np.arange(num_examples, dtype=np.int32)
  return {
      'user': n + first_user,
      'label_position': n + 1,
      'label_item': n % 7 + 1,
      'history_events': n + 1,
      'label_count': num_examples - 1 - n,
      'label_popularity': (n / num_examples).astype(np.float32),
      'labels/genre': np.array([('A\nB', 'B', '')[i % 3] for i in n]),
  }


def write(
    workdir: pathlib.Path,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    task: str = 'x_next_item',
    seed: int = 0,
    split: str = 'test',
    step: int = 10,
    config: str = CONFIG,
    first_user: int = 0,
    fingerprint: str = 'abc',
    split_rule: str = 'leave_one_out',
    protocol: str = evaluator.RANKING_PROTOCOL,
    kept: bool = True,
) -> pathlib.Path:
  """One evaluation with its per-example file, and the run's config.

  Args:
    workdir: Is made if need be.
    values: As `PerExample.values`.
    task: Of the evaluation, as what follows.
    seed: Of the run.
    split: See `Evaluation`.
    step: See `Evaluation`.
    config: Of the run, with `{seed}`; '' for none.
    first_user: Of those evaluated.
    fingerprint: See `Evaluation`.
    split_rule: See `Evaluation`.
    protocol: See `Evaluation`.
    kept: Whether the per-example file is written.

  Returns:
    The path of the JSON file.
  """
  arrays = {
      row: {name: np.asarray(value) for name, value in found.items()}
      for row, found in values.items()
  }
  num = len(next(iter(next(iter(arrays.values())).values())))
  found = evaluator.Evaluation(
      task=task,
      split=split,
      num_examples=num,
      split_rule=split_rule,
      split_fingerprint=fingerprint,
      protocol=protocol,
      models={r: metrics_lib.estimates(v) for r, v in arrays.items()},
      per_example=per_example.PerExample(
          facts=facts(num, first_user), values=arrays
      ),
  )
  path = found.write(str(workdir), step, seed)
  if not kept:
    path.with_suffix('.npz').unlink()
  if config:
    (workdir / 'config.gin').write_text(config.format(seed=seed))
  return path


def write_metrics(workdir: pathlib.Path, rows: Sequence[Any]) -> None:
  """`metrics.jsonl`."""
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (workdir / 'metrics.jsonl').write_text(lines)

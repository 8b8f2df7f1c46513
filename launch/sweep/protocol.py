"""What a sweep's numbers are of: examples, split and ranking protocol.

The words are those of `user_llm.report`; launch knows text only.
"""

from collections.abc import Iterator
import json
from typing import Any

from launch.sweep import folder as folder_lib

_POLICIES = {'unseen': ', seen items removed', 'all': ', all items'}


def lines(plan: folder_lib.Plan) -> list[str]:
  """Paragraphs of Markdown, from the trials' eval/<task>/<step>-<split>.json.

  None where the objective is no metric of an evaluation.
  """
  splits: dict[str, dict[str, None]] = {}
  protocols: dict[str, None] = {}
  for trial in plan.trials:
    for found in _evaluations(trial, plan.objective.metric):
      split = (
          f'{found["split"]} split, {found["split_rule"]}, fingerprint '
          f'{found["split_fingerprint"]}, n = {found["num_examples"]:,}'
      )
      splits.setdefault(split, {})[trial.name] = None
      protocols[f'Protocol: {found["protocol"]}'] = None
  policy = _POLICIES.get(plan.objective.metric.rsplit('/', 1)[-1], '')
  if len(splits) < 2:
    return [*(f'{split}{policy}.' for split in splits), *protocols]
  return [
      '**NOT comparable: the trials were evaluated on different examples.**',
      *(f'- {split}{policy}: {" ".join(of)}' for split, of in splits.items()),
      *protocols,
  ]


def _evaluations(
    trial: folder_lib.Trial, metric: str
) -> Iterator[dict[str, Any]]:
  """Those of the training, which have 'eval/<task>/<row>/<metric>'.

  The test split's have no split in their name; they are not what is compared.
  """
  kind, *parts = metric.split('/', 3)
  if kind != 'eval' or len(parts) < 3:
    return
  task, row, name = parts
  for path in sorted((trial.workdir / 'eval' / task).glob('*-*.json')):
    found = json.loads(path.read_text(encoding='utf-8'))
    if name in found['models'].get(row, {}):
      yield found

"""Evaluators: the same objects in training and in the eval binary.

An evaluator runs over one split of one dataset and returns an `Evaluation`: a
row of metrics for the model, rows for the floors and ceilings on the very same
examples, and a few examples to read. It is written as JSON, one file a task
and step, with what the metrics are means of beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any, Protocol

import jax
import numpy as np

from user_llm import atomic
from user_llm import baselines
from user_llm import metrics as metrics_lib
from user_llm import partitioning
from user_llm import per_example as per_example_lib
from user_llm import trainer as trainer_lib
from user_llm.data import example_facts
from user_llm.data import examples as examples_lib
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import host_batches
from user_llm.runtime import transient
from user_llm.runtime import watchdog

Row = Mapping[str, metrics_lib.Estimate]
# Per-example values by name, see `per_example.PerExample`.
Values = Mapping[str, np.ndarray]

RANKING_PROTOCOL = (
    'full ranking over the catalogue; ties count against the model; "unseen": '
    "the history's items are removed from the candidates, \"all\": they stay"
)
# JSON beside a synthetic dataset: what its known rules allow.
CEILING_FILE = 'bayes.json'
# Batch keys of prompts with the history as text.
TOLD = ('num_prompt_events', 'history_end')
NUM_SHOWN = 8
SHOWN_HISTORY = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """What one evaluator found.

  Attributes:
    task: Name of the task, also that of the folder.
    split: 'validation' or 'test'.
    num_examples: How many were evaluated.
    split_rule: Name of the rule.
    split_fingerprint: Of the held-out events.
    protocol: How the numbers are to be read.
    models: Metrics by row: the model's, then floors and ceilings.
    per_example: What they are means of.
    examples: To be read: user, history, question, answers, truth.
  """

  task: str
  split: str
  num_examples: int
  split_rule: str
  split_fingerprint: str
  protocol: str
  models: Mapping[str, Row]
  per_example: per_example_lib.PerExample
  examples: tuple[Mapping[str, Any], ...] = ()

  def scalars(self) -> dict[str, float]:
    """Means under flat names: 'eval/<task>/<row>/<metric>'."""
    return {
        f'eval/{self.task}/{row}/{name}': value.mean
        for row, values in self.models.items()
        for name, value in values.items()
    }

  @transient.retried
  def write(self, workdir: str, step: int, seed: int) -> pathlib.Path:
    """Writes `eval/<task>/<step>.json` and `.npz`, each whole or not at all.

    That is the test split's; another split's name is added: `500-validation`.
    """
    folder = pathlib.Path(workdir) / 'eval' / self.task
    folder.mkdir(parents=True, exist_ok=True)
    suffix = '' if self.split == 'test' else f'-{self.split}'
    path = folder / f'{step}{suffix}.json'
    raw = {
        **{k: v for k, v in vars(self).items() if k != 'per_example'},
        'step': step,
        'seed': seed,
        'models': {
            row: {name: value._asdict() for name, value in values.items()}
            for row, values in self.models.items()
        },
    }
    self.per_example.write(path.with_suffix('.npz'))
    with atomic.write(path) as file:
      file.write((json.dumps(raw, indent=1) + '\n').encode())
    return path


class Evaluator(Protocol):
  """Anything that measures parameters."""

  def check(
      self, objective: objective_lib.Objective, batch_size: int
  ) -> None:
    """Raises ValueError where it cannot measure this objective."""

  def evaluate(
      self,
      objective: objective_lib.Objective,
      params: Any,
      mesh: jax.sharding.Mesh,
      *,
      full: bool = True,
  ) -> Evaluation:
    """Measures; `full` adds floors and examples to the model's row."""


class Examples(Protocol):
  """What `predictions` reads: `pipeline.Dataset.eval_batches`."""

  def eval_batches(
      self, *, split: str, batch_size: int, host: int, num_hosts: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields a split once, in order; every host as many batches."""


def joined(*, groups: Sequence[Sequence[Evaluator]]) -> list[Evaluator]:
  """All evaluators of several lists: what gin files cannot append."""
  return [evaluator for group in groups for evaluator in group]


def check_split(
    dataset: pipeline.Dataset,
    split: str,
    objective: objective_lib.Objective,
    batch_size: int,
) -> None:
  """Raises ValueError where a split is empty or lacks what is read from it."""
  spec = dataset.batch_spec(split, batch_size)
  trainer_lib.select_batch(spec, objective.predict_keys)


def predictions(
    predict: Any,
    params: Any,
    dataset: Examples,
    split: str,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
  """(batch, predictions) of a split on every host, without padding rows.

  `predict(params, batch)` is compiled by the caller; `batch_size` is rounded up
  to what the mesh can share, the last batch is padded to it, and what belongs
  to the padding is dropped here.
  """
  host, num_hosts = host_batches.share(mesh)
  batches = dataset.eval_batches(
      split=split,
      batch_size=partitioning.batch_rows(batch_size, mesh),
      host=host,
      num_hosts=num_hosts,
  )
  for part in batches:
    batch, out = host_batches.run(lambda x: (x, predict(params, x)), part, mesh)
    watchdog.beat()
    real = batch['example_id'] >= 0
    yield (
        {key: value[real] for key, value in batch.items()},
        {key: value[real] for key, value in out.items()},
    )


@functools.lru_cache(maxsize=8)
def compiled_predict(objective: objective_lib.Objective) -> Any:
  """`objective.predict`, jitted once an objective."""
  return jax.jit(objective.predict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingEvaluator:
  """Ranks every item as the next event by the scores of an encoder.

  Attributes:
    dataset: An `events` task.
    split: 'validation' or 'test'.
    batch_size: Rows a step, over all devices; rounded up to what they can
      share.
    row: The model's name in the table; `report.rows.TRAINED` has its label.
  """

  dataset: pipeline.Dataset
  split: str = 'validation'
  batch_size: int = 128
  row: str = 'encoder_head'

  def check(
      self, objective: objective_lib.Objective, batch_size: int
  ) -> None:
    """See `Evaluator.check`."""
    check_split(self.dataset, self.split, objective, batch_size)

  def evaluate(
      self,
      objective: objective_lib.Objective,
      params: Any,
      mesh: jax.sharding.Mesh,
      *,
      full: bool = True,
  ) -> Evaluation:
    """See `Evaluator.evaluate`."""
    ranks: dict[str, list[np.ndarray]] = {'all': [], 'unseen': []}
    nats, example_ids = [], []
    examples: list[Mapping[str, Any]] = []
    for batch, out in predictions(
        compiled_predict(objective),
        params,
        self.dataset,
        self.split,
        self.batch_size,
        mesh,
    ):
      for policy, parts in ranks.items():
        parts.append(out[f'rank_{policy}'])
      nats.append(-out['label_score'])
      example_ids.append(batch['example_id'])
      if full and not examples:
        examples = self._examples(batch, out)
    values = {
        self.row: as_values(ranks)
        # -log p(item): comparable with a language model's -log p(title).
        | {'answer_nats': np.concatenate(nats)}
    }
    ceilings = {}
    if full:
      values |= item_floors(self.dataset, self.split)
      ceilings = item_ceilings(self.dataset, self.split)
    return Evaluation(
        task=self.dataset.name,
        split=self.split,
        num_examples=sum(map(len, nats)),
        split_rule=self.dataset.split_rule.name,
        split_fingerprint=self.dataset.fingerprint,
        protocol=RANKING_PROTOCOL,
        models=estimates(values) | ceilings,
        per_example=per_example_lib.PerExample(
            facts=facts_of(
                self.dataset, self.split, np.concatenate(example_ids)
            ),
            values=values,
        ),
        examples=tuple(examples),
    )

  def _examples(
      self, batch: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
  ) -> list[Mapping[str, Any]]:
    titles = [''] + [item.title for item in self.dataset.catalogue]
    return [
        {
            **history_of(self.dataset, self.split, batch, i),
            'question': 'next event',
            'answers': [
                {'text': titles[item], 'score': float(score)}
                for item, score in zip(
                    out['top_unseen'][i], out['score_unseen'][i]
                )
            ],
            'truth': titles[batch['label_item'][i]],
        }
        for i in range(min(NUM_SHOWN, len(batch['label_item'])))
    ]


def history_of(
    dataset: pipeline.Dataset,
    split: str,
    batch: Mapping[str, np.ndarray],
    i: int,
) -> dict[str, Any]:
  """User and the titles of the last events of row i of a batch."""
  items = batch['user_item'][i]
  return {
      'user': dataset.user_of_example(split, int(batch['example_id'][i])),
      'history': [
          dataset.catalogue[item - 1].title
          for item in items[items > 0][-SHOWN_HISTORY:]
      ],
  }


def question_of(
    dataset: pipeline.Dataset, batch: Mapping[str, np.ndarray], i: int
) -> str:
  """The question that row i of a batch is asked."""
  tokens = batch['prompt_tokens'][i, 0]
  # Without bos: where that is eos too, seqio decodes nothing behind it.
  return dataset.tokenizer.decode(tokens[tokens > 0][1:].tolist())


def facts_of(
    dataset: pipeline.Dataset, split: str, example_ids: np.ndarray
) -> dict[str, np.ndarray]:
  """See `example_facts.of_labels`."""
  return example_facts.of_labels(
      dataset.log, dataset.split_rule, dataset.table(split), example_ids
  )


def as_values(ranks: Mapping[str, Sequence[np.ndarray]]) -> Values:
  """Ranks by seen policy, batch by batch or whole, as int32 'rank/<policy>'."""
  return {
      f'{metrics_lib.RANK}/{policy}': np.concatenate(parts).astype(np.int32)
      for policy, parts in ranks.items()
  }


def estimates(values: Mapping[str, Values]) -> dict[str, Row]:
  """The metrics of each row."""
  return {row: metrics_lib.estimates(found) for row, found in values.items()}


def history_told(batches: Sequence[Mapping[str, np.ndarray]]) -> Values:
  """What prompts with the history as text hold of it; else nothing.

  Args:
    batches: Of an evaluation, with `num_prompt_events` and `history_end`.

  Returns:
    'prompt_events', the events told; 'prompt_truncated', whether a prompt
    leaves out an event which the model might have seen.
  """
  if 'num_prompt_events' not in batches[0]:
    return {}
  told, visible = (
      np.concatenate([batch[key][:, 0] for batch in batches]) for key in TOLD
  )
  return {'prompt_events': told, 'prompt_truncated': told < visible}


def item_floors(dataset: pipeline.Dataset, split: str) -> dict[str, Values]:
  """Popularity and first-order Markov."""
  return {
      name: as_values({policy: [found] for policy, found in ranks.items()})
      for name, ranks in baselines.item_ranks(dataset, split).items()
  }


def item_ceilings(dataset: pipeline.Dataset, split: str) -> dict[str, Row]:
  """The Bayes-optimal ranking where it is known: of all examples."""
  ceiling = pathlib.Path(dataset.data_dir) / CEILING_FILE
  is_whole = not isinstance(dataset.table(split), examples_lib.Subset)
  if split == 'test' and is_whole and ceiling.is_file():
    known = json.loads(ceiling.read_text()).get(dataset.split_rule.name)
    if known and known['split_fingerprint'] == dataset.fingerprint:
      return {
          'bayes_optimal': {
              name: metrics_lib.Estimate(value['mean'], value['stderr'])
              for name, value in known['metrics'].items()
          }
      }
  return {}

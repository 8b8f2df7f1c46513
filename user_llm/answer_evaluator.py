"""Evaluates a `ConditionedLM` by the answers that it writes."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from user_llm import baselines
from user_llm import evaluator as evaluator_lib
from user_llm import metrics as metrics_lib
from user_llm import per_example as per_example_lib
from user_llm.data import example_facts
from user_llm.data import pipeline
from user_llm.decoding import trie
from user_llm.objectives import conditioned_lm
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import host_batches

GENERATED_PROTOCOL = (
    'the answer is generated as text by beam search over the trie of all '
    'possible answers'
)
_SHOWN_ANSWERS = 5


@functools.lru_cache(maxsize=16)
def possible_answers(dataset: pipeline.Dataset) -> trie.Answers:
  """The trie of all answers that a task has."""
  table = dataset.answers
  rows = [row[row > 0][:-1] for row in table.tokens[1:]]
  eos_id = dataset.tokenizer.eos_id
  return trie.make_answers(table.texts, rows, eos_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerEvaluator:
  """Beam search over all possible answers of 'next_item' or a favourite task.

  Items of one title are one answer and share its rank; what is not among the
  beams has no rank.

  Attributes:
    dataset: The task.
    split: 'validation' or 'test'.
    batch_size: Users a step, over all devices; rounded up to what they can
      share.
    beam_size: Beams, thus answers; of 'next_item' as many as are measured.
    row: The model's name in the table.
  """

  dataset: pipeline.Dataset
  split: str = 'validation'
  batch_size: int = 64
  beam_size: int = 20
  row: str = 'user_llm'

  def __post_init__(self):
    if not self.dataset.has_answers:
      raise ValueError(
          f'AnswerEvaluator needs a task with answers, not '
          f'{self.dataset.task!r}.'
      )
    if not isinstance(self.beam_size, int) or self.beam_size < 1:
      raise ValueError(f'BEAM_SIZE must be positive, not {self.beam_size!r}.')
    if self.dataset.task == 'next_item' and self.beam_size < metrics_lib.TOP:
      raise ValueError(
          f'BEAM_SIZE={self.beam_size} is too small: among the next items the '
          f'first {metrics_lib.TOP} are measured.'
      )

  def check(
      self, objective: conditioned_lm.ConditionedLM, batch_size: int
  ) -> None:
    """See `evaluator.Evaluator.check`."""
    evaluator_lib.check_split(self.dataset, self.split, objective, batch_size)
    objective_lib.check_length(
        objective,
        self.num_tokens,
        self.dataset.name,
        self.dataset.history_length,
    )

  @property
  def num_tokens(self) -> int:
    """Those that a prompt and its answer may have."""
    return self.dataset.num_tokens(self.split)

  @property
  def answers(self) -> trie.Answers:
    return possible_answers(self.dataset)

  @property
  def num_beams(self) -> int:
    return min(self.beam_size, len(self.answers.texts))

  @functools.cached_property
  def search(self) -> Any:
    """Jitted (objective, params, batch) -> `beam_search_answers`."""

    def run(
        objective: conditioned_lm.ConditionedLM,
        params: Any,
        batch: Mapping[str, jax.Array],
    ) -> dict[str, jax.Array]:
      batch = dict(batch)
      if self.dataset.task != 'next_item':
        batch.pop('seen_item', None)
      elif 'label_item' in batch:
        # The label stays a candidate even where it was seen before.
        label_B1 = batch['label_item'][:, None]
        seen_BS = batch['seen_item']
        batch['seen_item'] = jnp.where(seen_BS == label_B1, 0, seen_BS)
      return conditioned_lm.beam_search_answers(
          objective, params, batch, self.answers, self.num_beams
      )

    return jax.jit(run, static_argnums=0)

  def answer(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      batch: Mapping[str, np.ndarray],
      mesh: jax.sharding.Mesh,
      num_answers: int,
  ) -> list[list[dict[str, Any]]]:
    """The best answers of each row: [{'text': ..., 'score': log p}, ...].

    Every process gives the whole batch, and gets all answers.
    """
    found = host_batches.run(
        functools.partial(self.search, objective, params),
        host_batches.mine(batch, mesh),
        mesh,
    )
    return self._as_text(found, num_answers)

  def _as_text(
      self, found: Mapping[str, np.ndarray], num_answers: int
  ) -> list[list[dict[str, Any]]]:
    prefix = 'unseen_' if 'unseen_answers' in found else ''
    return [
        answers_as_text(self.answers, answers_K, scores_K, num_answers)
        for answers_K, scores_K in zip(
            found[f'{prefix}answers'], found[f'{prefix}scores']
        )
    ]

  @functools.cached_property
  def predict(self) -> Any:
    """Jitted `search`, and -log p of the true answers."""

    def run(
        objective: conditioned_lm.ConditionedLM,
        params: Any,
        batch: Mapping[str, jax.Array],
    ) -> dict[str, jax.Array]:
      nats_B1 = objective.predict(params, batch)['answer_nats']
      found = self.search(objective, params, batch)
      return {**found, 'answer_nats': nats_B1[:, 0]}

    return jax.jit(run, static_argnums=0)

  def evaluate(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      mesh: jax.sharding.Mesh,
      *,
      full: bool = True,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator.evaluate`."""
    labels, nats, examples, told, example_ids = [], [], [], [], []
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        '': [], 'unseen_': []
    }
    for batch, out in evaluator_lib.predictions(
        functools.partial(self.predict, objective),
        params,
        self.dataset,
        self.split,
        self.batch_size,
        mesh,
    ):
      labels.append(self._labels(batch))
      example_ids.append(batch['example_id'])
      told.append({k: batch[k] for k in evaluator_lib.TOLD if k in batch})
      nats.append(out['answer_nats'])
      for prefix, parts in found.items():
        if f'{prefix}answers' in out:
          parts.append((out[f'{prefix}answers'], out[f'{prefix}scores']))
      if full and not examples:
        examples = self._examples(batch, out)
    truth = np.concatenate(labels)
    values = {
        self.row: {
            **self._values(truth, found),
            'answer_nats': np.concatenate(nats),
            **evaluator_lib.history_told(told),
        }
    }
    ceilings = {}
    if full:
      values |= self._floors(truth)
      if self.dataset.task == 'next_item':
        ceilings = evaluator_lib.item_ceilings(self.dataset, self.split)
    return evaluator_lib.Evaluation(
        task=self.dataset.name,
        split=self.split,
        num_examples=len(truth),
        split_rule=self.dataset.split_rule.name,
        split_fingerprint=self.dataset.fingerprint,
        protocol=self._protocol(),
        models=evaluator_lib.estimates(values) | ceilings,
        per_example=per_example_lib.PerExample(
            facts=self._facts(np.concatenate(example_ids), truth),
            values=values,
        ),
        examples=tuple(examples),
    )

  def _protocol(self) -> str:
    num_shared = int((self.answers.num_items > 1).sum())
    shared = f', {num_shared} of which give several items one rank'
    how = GENERATED_PROTOCOL + (shared if num_shared else '')
    return f'{how}, {self.num_beams} beams; {self._measure()}'

  def _measure(self) -> str:
    if self.dataset.task == 'next_item':
      return evaluator_lib.RANKING_PROTOCOL
    if self.dataset.task.startswith('future'):
      events = baselines.future_events(self.dataset, self.split)
      return f'accuracy; the future has {events:.1f} events on average'
    return 'accuracy'

  def _labels(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ids of the true answers, from 1."""
    return batch[self.dataset.asking.label]

  def _facts(
      self, example_ids: np.ndarray, truth: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Of a favourite task the labels are the answers, not the next item's."""
    facts = evaluator_lib.facts_of(self.dataset, self.split, example_ids)
    if self.dataset.task == 'next_item':
      return facts
    del facts['label_count'], facts['label_popularity']
    texts = [self.dataset.answers.texts[label - 1] for label in truth]
    labels = f'{example_facts.LABELS}{self.dataset.label_name}'
    return facts | {labels: np.array(texts, str)}

  def _values(
      self,
      truth: np.ndarray,
      found: Mapping[str, list[tuple[np.ndarray, np.ndarray]]],
  ) -> evaluator_lib.Values:
    answer_N = self.answers.of_item[truth]
    ranks = {
        policy: [
            answer_ranks(*map(np.concatenate, zip(*found[prefix])), answer_N)
        ]
        for policy, prefix in (('all', ''), ('unseen', 'unseen_'))
        if found[prefix]
    }
    if self.dataset.task == 'next_item':
      return evaluator_lib.as_values(ranks)
    return {'accuracy': ranks['all'][0] == 1}

  def _floors(self, truth: np.ndarray) -> dict[str, evaluator_lib.Values]:
    if self.dataset.task == 'next_item':
      return evaluator_lib.item_floors(self.dataset, self.split)
    return {
        name: {'accuracy': found == truth}
        for name, found in baselines.favourites(
            self.dataset, self.split
        ).items()
    }

  def _examples(
      self, batch: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]
  ) -> list[Mapping[str, Any]]:
    answers = self._as_text(out, _SHOWN_ANSWERS)
    truth = self._labels(batch)
    return [
        {
            **evaluator_lib.history_of(self.dataset, self.split, batch, i),
            'question': evaluator_lib.question_of(self.dataset, batch, i),
            'answers': answers[i],
            'truth': self.dataset.answers.texts[truth[i] - 1],
        }
        for i in range(min(evaluator_lib.NUM_SHOWN, len(truth)))
    ]


def answers_as_text(
    answers: trie.Answers, found_K: np.ndarray, scores_K: np.ndarray, limit: int
) -> list[dict[str, Any]]:
  """The best answers of one user: [{'text': ..., 'score': log p}, ...]."""
  return [
      {'text': answers.texts[a], 'score': round(float(score), 4)}
      for a, score in zip(found_K[:limit], scores_K[:limit])
      if a >= 0
  ]


def answer_ranks(
    found_NK: np.ndarray, scores_NK: np.ndarray, truth_N: np.ndarray
) -> np.ndarray:
  """Ranks from 1; ties count against the truth.

  What was not found ranks last of all that could be.

  Example: found [[4, 2, 7]], scores [[-1, -2, -3]], truth [2] -> [2]; with
  scores [[-1, -2, -2]] -> [3]; truth [5] -> [2**31 - 1].
  """
  hit_NK = found_NK == truth_N[:, None]
  score_N1 = np.max(
      scores_NK, axis=1, keepdims=True, where=hit_NK, initial=-np.inf
  )
  # Not `>=`: a NaN must not come out as the best rank.
  ahead_NK = ~(scores_NK < score_N1) & ~hit_NK
  return np.where(
      hit_NK.any(axis=1), 1 + ahead_NK.sum(axis=1), np.iinfo(np.int32).max
  )

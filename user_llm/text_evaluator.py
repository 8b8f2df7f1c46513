"""Evaluates a `ConditionedLM` by the texts that it writes freely."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from rouge_score import rouge_scorer
import seqio

from user_llm import baselines
from user_llm import evaluator as evaluator_lib
from user_llm import per_example as per_example_lib
from user_llm.data import pipeline
from user_llm.decoding import beam_search
from user_llm.decoding import generate
from user_llm.objectives import conditioned_lm
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import host_batches

ROUGE = ('rouge1', 'rouge2', 'rougeL')
_PROTOCOL = (
    'texts are generated freely ({}); rouge: F1 of the rouge-score package with '
    'stemming, which reads words of a-z and 0-9 only; exact_match: of the '
    'whole text'
)
# What a decoder gives for bytes that are no character.
_BROKEN = '\ufffd'


@functools.lru_cache(maxsize=8)
def compiled_texts(
    objective: conditioned_lm.ConditionedLM,
    generation: generate.GenerationConfig,
    eos_id: int,
    num_texts: int = 1,
) -> Any:
  """Jitted (params, batch) -> `conditioned_lm.generate_texts`."""

  def run(params: Any, batch: Mapping[str, jax.Array]) -> generate.Texts:
    return conditioned_lm.generate_texts(
        objective, params, batch, generation, eos_id=eos_id,
        num_texts=num_texts,
    )

  return jax.jit(run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEvaluator:
  """Compares generated reviews with the users' own.

  By their words alone: -log p is of as much of a review as TEXT_LENGTH holds
  beside its prompt, which is not the same for models of other prompts.

  Attributes:
    dataset: The task 'review_generation'.
    split: 'validation' or 'test'.
    batch_size: Users a step, over all devices; rounded up to what they can
      share.
    generation: How a text is chosen.
    row: The model's name in the table.
  """

  dataset: pipeline.Dataset
  split: str = 'validation'
  batch_size: int = 64
  generation: generate.GenerationConfig = generate.GenerationConfig()
  row: str = 'user_llm'

  def __post_init__(self):
    if self.dataset.task != 'review_generation':
      raise ValueError(
          f"TextEvaluator needs the task 'review_generation', not "
          f'{self.dataset.task!r}.'
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
    """Those that a prompt and its text may have."""
    prompt = self.dataset.asking.longest_prompt
    return max(
        self.dataset.num_tokens(self.split),
        prompt + self.generation.max_tokens,
    )

  def answer(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      batch: Mapping[str, np.ndarray],
      mesh: jax.sharding.Mesh,
      num_answers: int,
  ) -> list[list[dict[str, Any]]]:
    """See `AnswerEvaluator.answer`."""
    write = compiled_texts(
        objective, self.generation, self.dataset.tokenizer.eos_id, num_answers
    )
    return self._as_text(
        host_batches.run(
            functools.partial(write, params),
            host_batches.mine(batch, mesh),
            mesh,
        )
    )

  def _as_text(self, found: generate.Texts) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                'text': to_text(self.dataset.tokenizer, tokens_U),
                'score': round(float(score), 4),
            }
            for tokens_U, score in zip(tokens_NU, score_N)
            if score > beam_search.NO_SCORE
        ]
        for tokens_NU, score_N in zip(found.tokens, found.score)
    ]

  def evaluate(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      mesh: jax.sharding.Mesh,
      *,
      full: bool = True,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator.evaluate`."""
    example_ids, examples, told = [], [], []
    answers: list[list[dict[str, Any]]] = []
    write = compiled_texts(
        objective, self.generation, self.dataset.tokenizer.eos_id
    )
    for batch, out in evaluator_lib.predictions(
        lambda params, batch: write(params, batch)._asdict(),
        params,
        self.dataset,
        self.split,
        self.batch_size,
        mesh,
    ):
      found = self._as_text(generate.Texts(out['tokens'], out['score']))
      if full and not examples:
        examples = self._examples(batch, found)
      example_ids.append(batch['example_id'])
      told.append({k: batch[k] for k in evaluator_lib.TOLD if k in batch})
      answers += found
    ids = np.concatenate(example_ids)
    events = self.dataset.label_events(self.split, ids)
    truths = self._truths(events)
    values = {
        self.row: {
            **text_values([texts[0]['text'] for texts in answers], truths),
            **evaluator_lib.history_told(told),
        }
    }
    if full:
      values |= self._floors(events, truths)
    how = vars(self.generation).items()
    return evaluator_lib.Evaluation(
        task=self.dataset.name,
        split=self.split,
        num_examples=len(truths),
        split_rule=self.dataset.split_rule.name,
        split_fingerprint=self.dataset.fingerprint,
        protocol=_PROTOCOL.format(', '.join(f'{k} {v}' for k, v in how)),
        models=evaluator_lib.estimates(values),
        per_example=per_example_lib.PerExample(
            facts=evaluator_lib.facts_of(self.dataset, self.split, ids),
            values=values,
        ),
        examples=tuple(examples),
    )

  def _truths(self, events: np.ndarray) -> list[str]:
    texts = self.dataset.log.texts(self.dataset.review_text)
    return [text.decode() for text in texts[events]]

  def _floors(
      self, events: np.ndarray, truths: Sequence[str]
  ) -> dict[str, evaluator_lib.Values]:
    items = self.dataset.log.values['item'][events]
    titles = [self.dataset.catalogue[item - 1].title for item in items]
    most_frequent = baselines.most_frequent_text(self.dataset)
    return {
        'most_frequent_answer': text_values(
            [most_frequent] * len(truths), truths
        ),
        'copy_title': text_values(titles, truths),
    }

  def _examples(
      self,
      batch: Mapping[str, np.ndarray],
      answers: Sequence[Sequence[Mapping[str, Any]]],
  ) -> list[Mapping[str, Any]]:
    num = min(evaluator_lib.NUM_SHOWN, len(answers))
    truths = self._truths(
        self.dataset.label_events(self.split, batch['example_id'][:num])
    )
    return [
        {
            **evaluator_lib.history_of(self.dataset, self.split, batch, i),
            'question': evaluator_lib.question_of(self.dataset, batch, i),
            'answers': answers[i],
            'truth': truths[i],
        }
        for i in range(num)
    ]


def to_text(vocabulary: seqio.Vocabulary, tokens_U: np.ndarray) -> str:
  """Decodes a generated text as a whole, as characters may span tokens.

  Args:
    vocabulary: Of the tokens.
    tokens_U: i32; 0 is padding. Where there is no eos the text was cut, and a
      last character of which bytes are missing is left out.
  """
  ids = [int(token) for token in tokens_U if token > 0]
  text = vocabulary.decode(ids)
  return text if vocabulary.eos_id in ids else text.rstrip(_BROKEN)


def text_values(
    texts: Sequence[str], truths: Sequence[str]
) -> dict[str, np.ndarray]:
  """rouge1, rouge2, rougeL (F1, 0 to 1) and exact_match of each example.

  Example: 'the cats sat' for 'the cat sat down' shares 3 words, 2 pairs and the
  whole sequence: rouge1 = rougeL = 2 * 3 / (3 + 4), rouge2 = 2 * 2 / (2 + 3).
  """
  scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
  found = [scorer.score(truth, text) for truth, text in zip(truths, texts)]
  out = {
      name: np.array([f[name].fmeasure for f in found], np.float64)
      for name in ROUGE
  }
  same = [text.strip() == truth.strip() for text, truth in zip(texts, truths)]
  return out | {'exact_match': np.array(same, bool)}

"""Text given a user: the language-model loss on the answer's tokens.

Without a user encoder it is language-model pretraining, or the text prompt.

Shapes: B users, P targets a user, T tokens, V vocabulary (padded).
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from user_llm.decoding import beam_search
from user_llm.decoding import generate
from user_llm.decoding import trie
from user_llm.models import kv_cache
from user_llm.models import user_llm
from user_llm.objectives import objective as objective_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionedLM:
  """-log p(answer | question, user), see `objective.Objective`.

  Attributes:
    model: The parts of the model.
  """

  model: user_llm.UserLLMConfig

  @property
  def module(self) -> user_llm.UserLLM:
    return user_llm.UserLLM(self.model)

  @property
  def batch_keys(self) -> tuple[str, ...]:
    return (
        *self.model.user_keys, 'input_tokens', 'target_tokens', 'loss_weights'
    )

  @property
  def predict_keys(self) -> tuple[str, ...]:
    return self.batch_keys

  def init(
      self, rng: jax.Array, batch: objective_lib.Batch
  ) -> objective_lib.Params:
    """Parameters with their logical names."""
    return self.module.init(rng, batch)['params']

  def _score(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-log p(token), is it the most likely, and its weight: f32[B, P, T]."""
    logits_BPTV = self.module.apply(
        {'params': params},
        batch,
        rngs=None if rng is None else {'dropout': rng},
    )
    is_target = (
        jnp.arange(logits_BPTV.shape[-1]) == batch['target_tokens'][..., None]
    )
    # Not a gather, whose gradient is a slow scatter on CPU.
    target_BPT = jnp.sum(jnp.where(is_target, logits_BPTV, 0), axis=-1)
    nats_BPT = jax.nn.logsumexp(logits_BPTV, axis=-1) - target_BPT
    correct_BPT = target_BPT >= jnp.max(logits_BPTV, axis=-1)
    return nats_BPT, correct_BPT, batch['loss_weights']

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    """Mean over answer tokens; `answer_nats` is -log p of whole answers."""
    nats_BPT, correct_BPT, weights_BPT = self._score(params, batch, rng)
    total = jnp.sum(nats_BPT * weights_BPT)
    weight = jnp.sum(weights_BPT)
    answers = jnp.sum(jnp.any(weights_BPT > 0, axis=-1), dtype=jnp.float32)
    return objective_lib.Loss(
        total,
        weight,
        {
            'accuracy': (jnp.sum(correct_BPT * weights_BPT), weight),
            'answer_nats': (total, answers),
        },
    )

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """f32[B, P] `answer_nats`, -log p(answer) of the batch's own answers."""
    nats_BPT, _, weights_BPT = self._score(params, batch, None)
    return {'answer_nats': jnp.sum(nats_BPT * weights_BPT, axis=-1)}


def beam_search_answers(
    objective: ConditionedLM,
    params: objective_lib.Params,
    batch: objective_lib.Batch,
    answers: trie.Answers,
    beam_size: int,
) -> dict[str, jax.Array]:
  """The likeliest of the possible answers, by exact log p.

  Jittable in `params` and `batch`; the rest is static. Users and prompts are
  read once, whatever is searched.

  Args:
    objective: Of the model.
    params: Of the model.
    batch: `prompt_tokens` i32[B, 1, T] padded in front, the keys of
      `UserLLMConfig.user_keys`, and, for the second policy, `seen_item`
      i32[B, S].
    answers: The candidates.
    beam_size: Answers K, and beams.

  Returns:
    `answers` i32[B, K] (numbers in `answers.texts`, -1: no more) and `scores`
    f32[B, K]; with `seen_item` also `unseen_answers` and `unseen_scores`,
    without those all of whose items are seen.
  """
  logits_BV, cache, extend = _read(
      objective, params, batch, beam_size, answers.max_length - 1
  )
  policies = {'': jnp.ones((logits_BV.shape[0], len(answers.texts)), bool)}
  if 'seen_item' in batch:
    policies['unseen_'] = answers.unseen(batch['seen_item'])
  found = {}
  for prefix, allowed_BA in policies.items():
    found[f'{prefix}answers'], found[f'{prefix}scores'] = (
        beam_search.beam_search(
            answers, allowed_BA, logits_BV, cache, extend, kv_cache.reorder,
            beam_size,
        )
    )
  return found


def generate_texts(
    objective: ConditionedLM,
    params: objective_lib.Params,
    batch: objective_lib.Batch,
    config: generate.GenerationConfig,
    *,
    eos_id: int,
    num_texts: int = 1,
) -> generate.Texts:
  """Free answers; jittable as `beam_search_answers`.

  Args:
    objective: Of the model.
    params: Of the model.
    batch: `prompt_tokens` i32[B, 1, T] padded in front, `example_id` i32[B],
      and the keys of `UserLLMConfig.user_keys`.
    config: How they are chosen.
    eos_id: Ends an answer.
    num_texts: See `generate.generate`.

  Returns:
    Texts of each user.
  """
  logits_BV, cache, extend = _read(
      objective, params, batch, config.rows(num_texts),
      max(1, config.max_tokens - 1),
  )
  return generate.generate(
      config, logits_BV, cache, extend, kv_cache.reorder, eos_id=eos_id,
      example_id_B=batch['example_id'], num_texts=num_texts,
  )


def _read(
    objective: ConditionedLM,
    params: objective_lib.Params,
    batch: objective_lib.Batch,
    rows: int,
    capacity: int,
) -> tuple[
    jax.Array,
    kv_cache.Cache,
    Callable[
        [jax.Array, kv_cache.Cache], tuple[jax.Array, kv_cache.Cache]
    ],
]:
  """Reads users and prompts: first logits, cache, and what extends it."""
  variables = {'params': params}
  logits_BV, context, cache = objective.module.apply(
      variables, batch, rows, capacity, method='prefill'
  )

  def extend(tokens_R: jax.Array, cache: kv_cache.Cache):
    return objective.module.apply(
        variables, tokens_R, context, cache, method='extend'
    )

  return logits_BV, cache, extend

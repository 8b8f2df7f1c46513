"""Text given a user: the language-model loss on the answer's tokens.

Without a user encoder it is language-model pretraining, or the text prompt.

Shapes: B users, P targets a user, T tokens, V vocabulary (padded).
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from user_llm import losses
from user_llm.decoding import beam_search
from user_llm.decoding import generate
from user_llm.decoding import trie
from user_llm.models import decoder_layers
from user_llm.models import kv_cache
from user_llm.models import user_encoder
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
  def encoder(self) -> user_encoder.UserEncoderConfig | user_llm.NoUserConfig:
    return self.model.user_encoder

  @property
  def context_length(self) -> int:
    return self.model.decoder.context_length

  def prefix_tokens(self, num_events: int) -> int:
    """Tokens that a user of `num_events` takes of the decoder's context."""
    if not self.model.has_user or not num_events:
      return 0
    tokens = self.model.resampler.num_tokens(num_events)
    return self.model.reader.prefix_tokens(tokens)

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

  def unstacked(
      self, params: objective_lib.Params
  ) -> tuple['ConditionedLM', objective_lib.Params]:
    """The same model in a form that reads and writes texts faster."""
    fields = dataclasses.replace(self.model.decoder, stacked=False)
    model = dataclasses.replace(self.model, decoder=fields)
    params = {**params, 'decoder': decoder_layers.unstack(params['decoder'])}
    return dataclasses.replace(self, model=model), params

  def _score(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> losses.TokenLosses:
    """Losses of the answers' tokens, with leading axes [B, P, T]."""
    variables = {'params': params}
    x_BPTD = self.module.apply(
        variables, batch, rngs=None if rng is None else {'dropout': rng}
    )
    table_VD = self.module.apply(variables, method='token_table')
    shape = x_BPTD.shape[:3]
    targets_BPT = jnp.where(
        batch['loss_weights'] > 0, batch['target_tokens'], 0
    )
    # The head is dear: only answers meet it, not questions or histories.
    h_BLD, targets_BL, place_BL = losses.targets_first(
        x_BPTD.reshape(shape[0], -1, x_BPTD.shape[-1]),
        targets_BPT.reshape(shape[0], -1),
    )
    decoder = self.model.decoder
    found = losses.token_losses(
        h_BLD, table_VD, targets_BL, decoder.candidates, decoder.logits_softcap
    )
    back = lambda x: jnp.take_along_axis(x, place_BL, axis=1).reshape(shape)
    return found._replace(nats=back(found.nats), correct=back(found.correct))

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    """Mean over answer tokens; `answer_nats` is -log p of whole answers."""
    found = self._score(params, batch, rng)
    is_target_BPT = batch['loss_weights'] > 0
    weight = jnp.sum(is_target_BPT, dtype=jnp.float32)
    answers = jnp.sum(jnp.any(is_target_BPT, axis=-1), dtype=jnp.float32)
    correct = jnp.sum(found.correct, dtype=jnp.float32)
    return objective_lib.Loss(
        found.total,
        weight,
        {
            'accuracy': (correct, weight),
            'answer_nats': (found.total, answers),
        },
    )

  def predict(
      self, params: objective_lib.Params, batch: objective_lib.Batch
  ) -> dict[str, jax.Array]:
    """f32[B, P] `answer_nats`, -log p(answer) of the batch's own answers."""
    found = self._score(params, batch, None)
    return {'answer_nats': jnp.sum(found.nats, axis=-1)}


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
  if objective.model.decoder.stacked:
    # Copied once here, and in a scan for every token.
    objective, params = objective.unstacked(params)
  variables = {'params': params}
  logits_BV, context, cache = objective.module.apply(
      variables, batch, rows, capacity, method='prefill'
  )

  def extend(tokens_R: jax.Array, cache: kv_cache.Cache):
    return objective.module.apply(
        variables, tokens_R, context, cache, method='extend'
    )

  return logits_BV, cache, extend

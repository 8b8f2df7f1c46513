"""What the trainer and the evaluators know of a model, and all they know."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

Params = Any  # A nested dict of arrays.
Batch = Mapping[str, jax.Array]


class Loss(NamedTuple):
  """Sums over a batch, so that the trainer can normalise over all of them.

  Attributes:
    total: f32[], the sum of the losses of the valid targets.
    weight: f32[], the number of valid targets.
    metrics: More sums, each (f32[] total, f32[] weight), by name.
  """

  total: jax.Array
  weight: jax.Array
  metrics: Mapping[str, tuple[jax.Array, jax.Array]]


class Objective(Protocol):
  """Loss, prediction and parameters of one way to train.

  Objectives are frozen dataclasses that gin builds, hashable with all that they
  hold. `batch_keys` and `predict_keys` name what a batch must have; the pipeline
  is checked against them at start-up. `context_length` is how many tokens a text
  may have, prompt and answer; 0 is any number. One that has a limit also has
  `prefix_tokens(num_events)`: how many of them a user of so many events takes.
  One whose parameters have a 'user_encoder' has its configuration as `encoder`.
  """

  batch_keys: tuple[str, ...]
  predict_keys: tuple[str, ...]
  context_length: int

  def init(self, rng: jax.Array, batch: Batch) -> Params:
    """Parameters with their logical names (`partitioning.param` boxes)."""

  def loss(
      self, params: Params, batch: Batch, rng: jax.Array | None
  ) -> Loss:
    """The loss of a batch; `rng` None means no dropout."""

  def predict(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
    """What the metrics of an evaluation need, [B, ...] each."""


def check_length(
    objective: Objective, num_tokens: int, what: str, num_events: int = 0
) -> None:
  """Refuses texts that are longer than a model's context.

  Args:
    objective: Of the model.
    num_tokens: Of the longest prompt with its answer.
    what: Has them, for the error.
    num_events: Of the longest history; 0: no user is read.

  Raises:
    ValueError: they are too many.
  """
  if not objective.context_length:
    return
  prefix = objective.prefix_tokens(num_events)
  if objective.context_length < prefix + num_tokens:
    soft_prompt = f', the soft prompt before it {prefix}' if prefix else ''
    raise ValueError(
        f'{what}: a prompt with its answer may have {num_tokens} tokens'
        f'{soft_prompt}, and the decoder was made for '
        f'{objective.context_length} (DecoderConfig.context_length, of its '
        'weights). Lower PROMPT_TOKENS, the history that is told in the prompt, '
        'TEXT_LENGTH (in infer MAX_TOKENS), what an answer may have, or what '
        'the soft prompt has (a resampler makes few tokens of many).'
    )

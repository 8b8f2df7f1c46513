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

  Objectives are frozen dataclasses that gin builds. `batch_keys` and
  `predict_keys` name what a batch must have; the pipeline is checked against
  them at start-up. `context_length` is how many tokens a text may have, prompt
  and answer; 0 is any number.
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


def check_length(objective: Objective, num_tokens: int, what: str) -> None:
  """Refuses texts that are longer than a model's context.

  Args:
    objective: Of the model.
    num_tokens: Of the longest prompt with its answer.
    what: Has them, for the error.

  Raises:
    ValueError: they are too many.
  """
  if 0 < objective.context_length < num_tokens:
    raise ValueError(
        f'{what}: a prompt with its answer may have {num_tokens} tokens, and '
        f'the decoder was made for {objective.context_length} '
        '(DecoderConfig.context_length, of its weights). Lower PROMPT_TOKENS, '
        'the history that is told in the prompt, or TEXT_LENGTH (in infer '
        'MAX_TOKENS), what an answer may have.'
    )

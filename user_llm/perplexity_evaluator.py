"""Evaluates how well a decoder predicts a text, with no user given.

It is measured before and after a run has trained it: what it knew and still
knows. Perplexity is given as bits per byte, which does not depend on the
tokenizer.

Shapes: N windows.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from user_llm import evaluator as evaluator_lib
from user_llm import metrics as metrics_lib
from user_llm import per_example as per_example_lib
from user_llm import restore
from user_llm import train_state
from user_llm.data import held_out_text
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm
from user_llm.objectives import objective as objective_lib

_PROTOCOL = (
    'bits per byte (UTF-8) of {} bytes of text, no user given; windows of {} '
    'tokens behind bos, stride {}, every token scored once; standard errors '
    'are over windows, of the change of the windows\' differences'
)
_DECODER = 'decoder'


def _alone(
    objective: conditioned_lm.ConditionedLM,
) -> conditioned_lm.ConditionedLM:
  """The decoder as a plain language model."""
  return conditioned_lm.ConditionedLM(
      model=user_llm.UserLLMConfig(decoder=objective.model.decoder)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityEvaluator:
  """Bits per byte of a text under the decoder alone.

  Attributes:
    text: What is predicted; the same whatever the split.
    base: The run's INIT_FROM: the decoder as it was is measured too, on the
      same windows. Its weights are read for that once more.
    batch_size: Windows a step, over all devices; rounded up to what they can
      share.
    row: The model's name in the table.
  """

  text: held_out_text.HeldOutText
  base: Sequence[restore.InitFrom] = ()
  batch_size: int = 4
  row: str = 'user_llm'

  def check(
      self, objective: objective_lib.Objective, batch_size: int
  ) -> None:
    """See `evaluator.Evaluator.check`."""
    del batch_size
    if not isinstance(objective, conditioned_lm.ConditionedLM):
      raise ValueError(
          'PerplexityEvaluator needs an OBJECTIVE with a decoder: drop '
          'data/knowledge.gin from runs of the user encoder alone.'
      )
    objective_lib.check_length(
        objective, self.text.window_tokens, 'TEXT_WINDOW'
    )
    vocab_size = objective.model.decoder.vocab_size
    if self.text.tokens.max() >= vocab_size:
      raise ValueError(
          f'TEXT_FILE has the token {self.text.tokens.max()} and the decoder '
          f'has {vocab_size}: VOCABULARY must be the decoder\'s own.'
      )

  def evaluate(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      mesh: jax.sharding.Mesh,
      *,
      full: bool = True,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator.evaluate`; `full` adds the base's row."""
    nats_N = self._nats(objective, params, mesh)
    nats = {self.row: {'bits_per_byte': nats_N}}
    sources = [s for s in self.base if s.prefix.split('/')[0] == _DECODER]
    if full and sources:
      before = _base_params(params, sources)
      before_N = self._nats(objective, before, mesh)
      nats[self.row]['bits_added'] = nats_N - before_N
      nats['base_decoder'] = {'bits_per_byte': before_N}
    text = self.text
    return evaluator_lib.Evaluation(
        task=f'{text.name}_held_out_text',
        split='test',
        num_examples=len(nats_N),
        split_rule=f'windows of {text.window_tokens} by {text.stride_tokens}',
        split_fingerprint=text.fingerprint,
        protocol=_PROTOCOL.format(
            len(text.content), text.window_tokens, text.stride_tokens
        ),
        models=_each(nats, self._per_byte),
        per_example=per_example_lib.PerExample(
            facts={
                'window': np.arange(len(nats_N), dtype=np.int32),
                'window_tokens': self._window_tokens.astype(np.int32),
            },
            # Their mean over the windows is that of the whole text.
            values=_each(
                nats,
                lambda x: x * len(x) / (np.log(2) * len(text.content)),
            ),
        ),
    )

  @property
  def _window_tokens(self) -> np.ndarray:
    """f32[N]: how many tokens each window scores."""
    return self.text.windows['loss_weights'].sum(axis=(1, 2))

  def _nats(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      mesh: jax.sharding.Mesh,
  ) -> np.ndarray:
    """f32[N]: -log p of what each window scores."""
    predict = evaluator_lib.compiled_predict(_alone(objective))
    decoder = {_DECODER: params[_DECODER]}
    found = evaluator_lib.predictions(
        predict, decoder, self.text, 'test', self.batch_size, mesh
    )
    return np.concatenate([out['answer_nats'][:, 0] for _, out in found])

  def _per_byte(self, nats_N: np.ndarray) -> metrics_lib.Estimate:
    return bits_per_byte(nats_N, self._window_tokens, len(self.text.content))


def _each(
    nats: Mapping[str, Mapping[str, np.ndarray]],
    function: Callable[[np.ndarray], Any],
) -> dict[str, dict[str, Any]]:
  """The same for each metric of each row."""
  return {
      row: {name: function(nats_N) for name, nats_N in found.items()}
      for row, found in nats.items()
  }


def bits_per_byte(
    nats_N: np.ndarray, tokens_N: np.ndarray, num_bytes: int
) -> metrics_lib.Estimate:
  """Bits a byte of a text, with its standard error over windows.

  The error is that of a ratio: how far each window is from what its tokens
  would have on average.

  Example: windows of 2, 2 and 1 tokens with 4, 2 and 2 bits (log 2 nats each)
  have 8 bits; of 16 bytes 0.5 each. The windows are 0.8, -1.2 and 0.4 bits from
  1.6 a token, sd 1.058; the error is 1.058 * sqrt(3) / 16.

  Args:
    nats_N: Of each window.
    tokens_N: How many each window scores.
    num_bytes: Of all windows together.
  """
  bits_N = np.asarray(nats_N, np.float64) / np.log(2)
  apart_N = bits_N - bits_N.sum() / tokens_N.sum() * tokens_N
  stderr = metrics_lib.estimate(apart_N).stderr
  return metrics_lib.Estimate(
      float(bits_N.sum() / num_bytes), float(stderr * len(bits_N) / num_bytes)
  )


def _base_params(
    params: Mapping[str, Any], sources: Sequence[restore.InitFrom]
) -> dict[str, Any]:
  """The decoder as it was.

  What its sources do not have was added by the run, and is zero here: of
  adapters nothing is then left, and without users cross-attentions are not run.
  """
  flat = train_state.flatten({_DECODER: params[_DECODER]})
  values: dict[str, Any] = {}
  for source in sources:
    values |= source.load(flat, {})  # The run has checked whose data it is.
  return train_state.unflatten({
      path: restore.placed(values[path], old)
      if path in values
      else jnp.zeros_like(old, device=old.sharding)
      for path, old in flat.items()
  })

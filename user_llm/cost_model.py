"""Counts and times one request in the programs that `infer` runs.

Shapes: B = 1 user, L events, T tokens of a prompt, N heads, H head width.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
import math
import re
import statistics
import time
from typing import Any

import jax
import numpy as np

from user_llm import flops
from user_llm import partitioning
from user_llm import train_state
from user_llm.data import schema
from user_llm.decoding import generate
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm
from user_llm.report import costs

# Ends no text: all new tokens are written.
_NO_EOS = -1
# What a step of decoding does not read: a request computes the keys and values
# of its user once, and looks up few of the embeddings.
_READ_ONCE = r'decoder/.*cross_attention/proj/[kv]/kernel'
_LOOKED_UP = r'decoder/embed/table'
# A short program is called so often, or for so long, in a round.
_MAX_CALLS = 5
_MAX_SECS = 0.5


def movielens_schema() -> schema.EventSchema:
  """Events with the features of MovieLens-20M and about its sizes."""
  return schema.EventSchema(
      name='movielens_20m',
      modalities=(
          schema.Modality(name='item', size=27_279),
          schema.Modality(name='genre', size=1_343),
          schema.Modality(name='rating', size=11),
      ),
      item_noun='film',
  )


def make_batch(
    model: user_llm.UserLLMConfig, num_events: int, num_tokens: int
) -> dict[str, np.ndarray]:
  """One user with a full history, and a prompt; all ids are random."""
  rng = np.random.default_rng(0)
  vocab = model.decoder.vocab_size
  prompt = rng.integers(1, vocab, (1, 1, num_tokens), np.int32)
  batch = {
      'input_tokens': prompt,
      'prompt_tokens': prompt,
      'example_id': np.zeros(1, np.int32),
  }
  if not model.has_user:
    return batch
  shape = (1, num_events)
  for m in model.user_encoder.schema.modalities:
    batch[f'user_{m.name}'] = rng.integers(1, m.size, shape, np.int32)
  return batch | {
      'user_mask': np.ones(shape, bool),
      'positions': np.arange(num_events, dtype=np.int32)[None],
      'segment_ids': np.ones(shape, np.int32),
      'history_end': np.full((1, 1), num_events, np.int32),
  }


def make_params(
    objective: conditioned_lm.ConditionedLM, batch: Mapping[str, np.ndarray]
) -> Any:
  """Random parameters, on which no cost depends."""
  rng = np.random.default_rng(0)
  boxed = jax.eval_shape(objective.init, jax.random.key(0), batch)
  return jax.tree.map(
      lambda x: jax.device_put(
          0.02 * rng.standard_normal(x.shape, np.float32)
      ),
      partitioning.unbox(boxed),
  )


class Request:
  """One request to one model.

  Attributes:
    prefill: () -> logits, user and cache: all before the first new token.
    write: By the number of new tokens, () -> `generate.Texts`.
  """

  def __init__(
      self,
      objective: conditioned_lm.ConditionedLM,
      params: Any,
      batch: Mapping[str, np.ndarray],
      new_tokens: Sequence[int],
  ):
    """Compiles what `objective` and `params`, both unstacked, do."""
    self._objective = objective
    self._params = params
    self._batch = jax.device_put(dict(batch))
    lowered = jax.jit(self._prefill(new_tokens[0])).lower(
        self._params, self._batch
    )
    _, self._context, self._cache = lowered.out_info
    compiled = lowered.compile()
    self.prefill = lambda: compiled(self._params, self._batch)
    self._prefill_flops = flops.matmul_flops(
        self._prefill(new_tokens[0]), self._params, self._batch
    )
    self.write = {n: self._writer(n) for n in new_tokens}

  def _prefill(self, new_tokens: int) -> Callable[[Any, Any], tuple]:
    # The last new token is not read, as in `conditioned_lm.generate_texts`.
    capacity = max(1, new_tokens - 1)
    return lambda params, batch: self._objective.module.apply(
        {'params': params}, batch, 1, capacity, method='prefill'
    )

  def _writer(self, new_tokens: int) -> Callable[[], generate.Texts]:
    config = generate.GenerationConfig(max_tokens=new_tokens)
    run = jax.jit(
        lambda params, batch: conditioned_lm.generate_texts(
            self._objective, params, batch, config, eos_id=_NO_EOS
        )
    )
    compiled = run.lower(self._params, self._batch).compile()
    return lambda: compiled(self._params, self._batch)

  def prefill_flops(self) -> int:
    """Of the matrix products; XLA does not count them on every backend."""
    return self._prefill_flops

  def request_flops(self, new_tokens: int) -> int:
    """Of the prefill, and of the steps that the timed program has in a loop."""
    step = lambda params, *state: self._objective.module.apply(
        {'params': params}, *state, method='extend'
    )
    _, context, cache = jax.eval_shape(
        self._prefill(new_tokens), self._params, self._batch
    )
    token = jax.ShapeDtypeStruct((1,), np.int32)
    of_step = flops.matmul_flops(step, self._params, token, context, cache)
    return self.prefill_flops() + (new_tokens - 1) * of_step

  def _parts(self) -> list[int]:
    """Positions that the language model has read: a soft prompt's, a text's."""
    return [
        jax.tree.leaves(part)[0].shape[-3] for part in self._cache.shared
    ]

  def llm_tokens(self) -> int:
    """Positions that the language model has read, a soft prompt's too."""
    return sum(self._parts())

  def masked_flops(self) -> float:
    """Of the decoder's scores and values of later positions.

    There are T (T - 1) / 2 of them in a layer; each is two products of N * H
    multiplications and additions.
    """
    decoder = self._objective.model.decoder
    pairs = sum(tokens * (tokens - 1) / 2 for tokens in self._parts())
    return 4 * decoder.num_layers * decoder.num_heads * decoder.head_dim * pairs

  def kv_bytes(self) -> int:
    """Keys and values of prompt and user."""
    user = None if self._context is None else self._context.key_value
    kept = jax.tree.leaves((self._cache.shared, user))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)

  def step_params(self) -> list[jax.Array]:
    """What every step of decoding reads."""
    flat = train_state.flatten(self._params)
    once = [_READ_ONCE]
    if not self._objective.model.decoder.tied_embeddings:
      once.append(_LOOKED_UP)
    return [
        x
        for path, x in flat.items()
        if path.startswith('decoder/')
        and not any(re.fullmatch(regex, path) for regex in once)
    ]


def time_calls(
    calls: Mapping[Hashable, Callable[[], Any]], rounds: int
) -> dict[Hashable, costs.Timing]:
  """Calls all in turn, several rounds, so that all see the same machine.

  Args:
    calls: Compiled programs.
    rounds: Of measuring, after one to warm up. In a round, a short call is
      repeated: the one before it has left nothing in the caches.
  """
  spent: dict[Hashable, list[tuple[float, float]]] = {k: [] for k in calls}
  for call in calls.values():
    jax.block_until_ready(call())
  for _ in range(rounds):
    for key, call in calls.items():
      stop = time.perf_counter() + _MAX_SECS
      for _ in range(_MAX_CALLS):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        end = time.perf_counter(), time.process_time()
        spent[key].append((end[0] - start[0], end[1] - start[1]))
        if end[0] > stop:
          break
  return {key: _timing(pairs) for key, pairs in spent.items()}


def _timing(pairs: Sequence[tuple[float, float]]) -> costs.Timing:
  wall_secs, cpu_secs = zip(*pairs)
  return costs.Timing(
      median_secs=statistics.median(wall_secs),
      fastest_secs=min(wall_secs),
      slowest_secs=max(wall_secs),
      cpu_secs=statistics.median(cpu_secs),
      calls=len(pairs),
  )

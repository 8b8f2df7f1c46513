"""Free text, token by token: the likeliest ones, drawn ones, or by beam search.

Shapes: B users, N texts a user, R = B * N rows, U tokens of a text, V
vocabulary.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.decoding import beam_search
from user_llm.decoding import text_beams


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
  """How texts are chosen; by default greedily.

  Attributes:
    max_tokens: Of a text, eos included; what is longer is cut.
    temperature: The logits are divided by it; 0: always the likeliest token.
    top_k: Draw among the k likeliest tokens; 0: among all.
    top_p: Then draw among the likeliest that have this probability together.
    text_beams: Texts that are followed at once; 1: no beam search.
    length_penalty: Beams are ranked by log p / tokens ** length_penalty.
    seed: Of what is drawn.
  """

  max_tokens: int = 64
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  text_beams: int = 1
  length_penalty: float = 0.0
  seed: int = 0

  def __post_init__(self):
    for name, minimum in (
        ('max_tokens', 1), ('top_k', 0), ('text_beams', 1), ('seed', 0)
    ):
      value = getattr(self, name)
      is_integer = isinstance(value, int) and not isinstance(value, bool)
      if not is_integer or value < minimum:
        raise ValueError(
            f'{name.upper()} must be an integer of at least {minimum}, not '
            f'{value!r}.'
        )
    for name, least, most in (
        ('temperature', 0.0, 100.0),
        ('top_p', 1e-6, 1.0),
        ('length_penalty', 0.0, 10.0),
    ):
      value = getattr(self, name)
      if not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(
            f'{name.upper()} must be a number in [{least}, {most}], not '
            f'{value!r}.'
        )
    if not self.temperature and (self.top_k or self.top_p < 1):
      raise ValueError(
          f'TOP_K={self.top_k} and TOP_P={self.top_p} choose what is drawn '
          'from, and with TEMPERATURE=0 nothing is drawn: give a TEMPERATURE.'
      )
    if self.temperature and self.text_beams > 1:
      raise ValueError(
          f'TEXT_BEAMS={self.text_beams} searches and TEMPERATURE='
          f'{self.temperature} draws: set TEXT_BEAMS=1 or TEMPERATURE=0.'
      )

  def rows(self, num_texts: int) -> int:
    """Texts of a user that are decoded at once to return `num_texts`."""
    if self.text_beams > 1:
      return self.text_beams
    return num_texts if self.temperature else 1


class Texts(NamedTuple):
  """What was generated.

  Attributes:
    tokens: i32[B, N, U]; with eos, unless cut, and then 0.
    score: f32[B, N], log p of these tokens under the model as it is.
  """

  tokens: jax.Array
  score: jax.Array


def candidates(
    logits_RV: jax.Array, top_k: int, top_p: float
) -> jax.Array:
  """Masks the logits of what is not drawn from.

  First the `top_k` largest are kept (0: all), then of those the fewest largest
  that together have a probability of `top_p` among them (arXiv 1904.09751).
  What equals the smallest that is kept is kept too.

  Example: p = [.5, .25, .15, .1]. top_k=3 keeps the first three; top_p=.7 the
  first two, and with top_k=2 (.67 and .33) too.
  """
  if not top_k and top_p == 1.0:
    return logits_RV
  vocab = logits_RV.shape[-1]
  largest, _ = partitioning.top_k(logits_RV, min(top_k or vocab, vocab))
  probs = jax.nn.softmax(largest, axis=-1)
  is_kept = jnp.cumsum(probs, axis=-1) - probs < top_p
  least_R1 = jnp.min(
      largest, axis=-1, keepdims=True, where=is_kept, initial=jnp.inf
  )
  return jnp.where(logits_RV >= least_R1, logits_RV, beam_search.NO_SCORE)


def generate(
    config: GenerationConfig,
    logits_BV: jax.Array,
    cache: Any,
    extend: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    reorder: Callable[[Any, jax.Array], Any],
    *,
    eos_id: int,
    example_id_B: jax.Array,
    num_texts: int = 1,
) -> Texts:
  """Continues each prompt until eos.

  What is drawn depends on (seed, example id, number of the text) alone, not on
  what else is in the batch. The id 0 is padding and never generated.

  Args:
    config: Static.
    logits_BV: f32, of the first token.
    cache: What `extend` knows of the prompts, with room for `max_tokens` - 1
      tokens in `config.rows(num_texts)` rows a prompt.
    extend: (i32[R] tokens, cache) -> f32[R, V] logits, cache.
    reorder: (cache, i32[B, N] rows of the same user) -> cache.
    eos_id: Ends a text.
    example_id_B: i32, of each prompt.
    num_texts: Texts wanted a prompt. Without drawing and beams there is only
      one, and no more than beams.

  Returns:
    Texts; those of a beam search best first.
  """
  rows = config.rows(num_texts)
  if config.text_beams > 1:
    tokens, score = text_beams.beam_search(
        logits_BV, cache, extend, reorder, eos_id=eos_id, beam_size=rows,
        max_tokens=config.max_tokens, length_penalty=config.length_penalty,
    )
    return Texts(tokens[:, :num_texts], score[:, :num_texts])
  keys_R = _keys(config.seed, example_id_B, rows)

  def choose(logits_RV: jax.Array, step: jax.Array) -> jax.Array:
    logits_RV = logits_RV.at[:, 0].set(beam_search.NO_SCORE)
    if not config.temperature:
      return jnp.argmax(logits_RV, axis=-1)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys_R, step)
    return jax.vmap(jax.random.categorical)(
        keys,
        candidates(
            logits_RV / config.temperature, config.top_k, config.top_p
        ),
    )

  tokens_RU, score_R = _write(
      choose, jnp.repeat(logits_BV, rows, axis=0), cache, extend, eos_id,
      config.max_tokens,
  )
  shape = (logits_BV.shape[0], rows)
  return Texts(tokens_RU.reshape(*shape, -1), score_R.reshape(shape))


def _keys(seed: int, example_id_B: jax.Array, rows: int) -> jax.Array:
  """RNG keys [R] of each user's rows."""
  of_user = lambda i: jax.random.fold_in(jax.random.key(seed), i)
  of_row = jax.vmap(jax.random.fold_in, (None, 0))
  keys_BN = jax.vmap(lambda i: of_row(of_user(i), jnp.arange(rows)))(
      example_id_B
  )
  return keys_BN.reshape(-1)


class _State(NamedTuple):
  tokens_RU: jax.Array
  score_R: jax.Array
  is_going_R: jax.Array
  step: jax.Array
  cache: Any


def _write(
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    logits_RV: jax.Array,
    cache: Any,
    extend: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    eos_id: int,
    max_tokens: int,
) -> tuple[jax.Array, jax.Array]:
  """i32[R, U] tokens and f32[R] log p of rows that do not meet."""

  def append(state: _State, logits_RV: jax.Array) -> _State:
    token_R = choose(logits_RV, state.step).astype(jnp.int32)
    logp_RV = jax.nn.log_softmax(logits_RV)
    logp_R = jnp.take_along_axis(logp_RV, token_R[:, None], axis=1)[:, 0]
    token_R = jnp.where(state.is_going_R, token_R, 0)
    return state._replace(
        tokens_RU=state.tokens_RU.at[:, state.step].set(token_R),
        score_R=state.score_R + jnp.where(state.is_going_R, logp_R, 0),
        is_going_R=state.is_going_R & (token_R != eos_id),
        step=state.step + 1,
    )

  def step(state: _State) -> _State:
    last_R = state.tokens_RU[:, state.step - 1]
    logits_RV, cache = extend(last_R, state.cache)
    return append(state._replace(cache=cache), logits_RV)

  num_rows = logits_RV.shape[0]
  start = _State(
      jnp.zeros((num_rows, max_tokens), jnp.int32),
      jnp.zeros(num_rows, jnp.float32),
      jnp.ones(num_rows, bool),
      jnp.int32(0),
      cache,
  )
  end = jax.lax.while_loop(
      lambda s: jnp.any(s.is_going_R) & (s.step < max_tokens),
      step,
      append(start, logits_RV),
  )
  return end.tokens_RU, end.score_R

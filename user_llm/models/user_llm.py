"""A user encoder and a decoder that reads it (arXiv 2402.13598, section 3).

For a user without events the decoder answers as it would by itself.

Shapes: B users, P targets a user, R = B * P, L events, T tokens, D width, V
vocabulary (padded).
"""

from collections.abc import Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm.models import cross_attention
from user_llm.models import decoder as decoder_lib
from user_llm.models import decoder_config
from user_llm.models import kv_cache
from user_llm.models import layers
from user_llm.models import readers
from user_llm.models import resampler as resampler_lib
from user_llm.models import user_encoder as encoder_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoUserConfig:
  """No user is read: the model is its decoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserLLMConfig:
  """Parts of a `UserLLM`.

  Attributes:
    decoder: The language model.
    user_encoder: What reads a history; `NoUserConfig()`: a plain LM.
    resampler: What makes few tokens of many; by default nothing does.
    reader: How the decoder reads the tokens.
  """

  decoder: decoder_config.DecoderConfig
  user_encoder: encoder_lib.UserEncoderConfig | NoUserConfig = NoUserConfig()
  resampler: (
      resampler_lib.ResamplerConfig
      | resampler_lib.NoResamplerConfig
      | resampler_lib.LastEventConfig
  ) = resampler_lib.NoResamplerConfig()
  reader: readers.CrossAttentionReaderConfig | readers.SoftPromptConfig = (
      readers.CrossAttentionReaderConfig()
  )

  def __post_init__(self):
    for name, kind in (
        ('decoder', 'DecoderConfig'),
        ('user_encoder', 'UserEncoderConfig or NoUserConfig'),
        ('reader', 'CrossAttentionReaderConfig or SoftPromptConfig'),
        (
            'resampler',
            'ResamplerConfig or NoResamplerConfig or LastEventConfig',
        ),
    ):
      value = getattr(self, name)
      if type(value).__name__ not in kind.split(' or '):
        raise ValueError(f'UserLLMConfig.{name} must be a {kind}: {value!r}.')
    if self.has_user:
      self.user_encoder.check_causal('UserLLMConfig')

  @property
  def has_user(self) -> bool:
    return not isinstance(self.user_encoder, NoUserConfig)

  @property
  def user_keys(self) -> tuple[str, ...]:
    """Batch keys that describe users."""
    if not self.has_user:
      return ()
    return (*self.user_encoder.event_keys, 'user_mask', 'history_end')


class UserLLM(nn.Module):
  """Encoder -> resampler -> projection -> reader -> decoder."""

  config: UserLLMConfig

  def setup(self) -> None:
    config = self.config
    self.decoder = decoder_lib.Decoder(config.decoder)
    if config.has_user:
      self.user_encoder = encoder_lib.UserEncoder(config.user_encoder)
      self.resampler = config.resampler.make()
      self.projection = layers.Dense(
          config.decoder.embed_dim, ('features', 'embed')
      )
      self.reader = config.reader.make()

  def user_context(
      self, batch: Mapping[str, jax.Array]
  ) -> cross_attention.UserContext | None:
    """Reads the users, once.

    The encoder is causal, so that one pass over a row's L events serves all its
    targets: target p sees the first `history_end[:, p]` of them.

    Returns:
      What the decoder's layers need; None where nothing in the batch is about
      users, and the model is its decoder.
    """
    if not any(key in batch for key in self.config.user_keys):
      return None
    tokens_BLD = self.user_encoder(
        *encoder_lib.inputs(batch, self.config.user_encoder)
    )
    ago_BPL = (
        batch['history_end'][:, :, None] - 1 - jnp.arange(tokens_BLD.shape[1])
    )
    user = self.resampler(
        cross_attention.UserTokens(
            tokens_BLD,
            (ago_BPL >= 0) & batch['user_mask'][:, None, :],
            jnp.maximum(ago_BPL, 0),
        )
    )
    user = user._replace(tokens=self.projection(user.tokens))
    return self.reader(user, self.decoder)

  def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Reads users and, teacher-forced, questions with their answers.

    Args:
      batch: `input_tokens` i32[B, P, T] and what describes the users.

    Returns:
      Float [B, P, T, D], to be scored against `token_table`.
    """
    tokens_BPT = batch['input_tokens']
    tokens_RT = tokens_BPT.reshape(-1, tokens_BPT.shape[-1])
    x_RTD, _ = self.decoder(tokens_RT, self.user_context(batch))
    return x_RTD.reshape(*tokens_BPT.shape, -1)

  def token_table(self) -> jax.Array:
    """f32[V, D], see `Decoder.token_table`."""
    return self.decoder.token_table()

  def prefill(
      self, batch: Mapping[str, jax.Array], rows: int, capacity: int
  ) -> tuple[jax.Array, cross_attention.UserContext | None, kv_cache.Cache]:
    """Reads users and prompts: `prompt_tokens` i32[B, 1, T], padded in front.

    Returns:
      f32[B, V] logits of what comes next; the users and the cache, for `extend`
      by `rows` rows a user.
    """
    prompt_BPT = batch['prompt_tokens']
    if prompt_BPT.shape[1] != 1:
      raise ValueError(
          f'prompt_tokens have shape {prompt_BPT.shape}: generation needs one '
          'target a row (TARGETS_PER_EXAMPLE=1).'
      )
    context = self.user_context(batch)
    logits, cache = self.decoder.prefill(
        prompt_BPT[:, 0], context, rows, capacity
    )
    return logits, context, cache

  def extend(
      self,
      tokens_R: jax.Array,
      context: cross_attention.UserContext | None,
      cache: kv_cache.Cache,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Adds one token to each row; f32[R, V] logits and the cache."""
    return self.decoder.extend(tokens_R, context, cache)

"""The two ways in of a user into a decoder (arXiv 2402.13598, section 3).

Shapes: B users, P targets a user, S user tokens, N task tokens, D the decoder's
width.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import cross_attention
from user_llm.models import decoder as decoder_lib
from user_llm.models import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttentionReaderConfig:
  """Layers look at the user; where is `DecoderConfig.cross_attention`."""

  def make(self) -> nn.Module:
    return CrossAttentionReader()

  def prefix_tokens(self, user_tokens: int) -> int:
    """Places of the decoder's context that a user takes."""
    del user_tokens  # They have an attention of their own.
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftPromptConfig:
  """The user stands before the text; the decoder gets no parameters.

  Attributes:
    num_task_tokens: Learned tokens before those of the user.
  """

  num_task_tokens: int = 10

  def __post_init__(self):
    value = self.num_task_tokens
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(
          'SoftPromptConfig.num_task_tokens (SOFT_PROMPT_TASK_TOKENS) must be '
          f'a positive integer, not {value!r}.'
      )

  def make(self) -> nn.Module:
    return SoftPrompt(self, name='soft_prompt')

  def prefix_tokens(self, user_tokens: int) -> int:
    """Places of the decoder's context that a user takes."""
    return self.num_task_tokens + user_tokens


class CrossAttentionReader(nn.Module):
  """Has the decoder's cross-attentions read the user."""

  def __call__(
      self, user: cross_attention.UserTokens, decoder: decoder_lib.Decoder
  ) -> cross_attention.UserContext:
    """User tokens of the decoder's width -> keys and values of the layers."""
    return decoder.user_context(user)


class SoftPrompt(nn.Module):
  """Learned task tokens and the user's tokens, as if they were text before it.

  The decoder is causal, so that what it makes of a user's tokens serves all
  targets: each sees the first ones, and its text goes on right behind those.

  Tokens have the size of the decoder's own embeddings: anything else is not
  what its layers were trained to read, and large ones drown what these add. It
  is measured in the table, since no constant fits every decoder (0.02 of a
  small one, 1 or more of Gemma's, which it scales) and weights are loaded after
  the initialisation.
  """

  config: SoftPromptConfig

  @nn.compact
  def __call__(
      self, user: cross_attention.UserTokens, decoder: decoder_lib.Decoder
  ) -> cross_attention.UserContext:
    """As `CrossAttentionReader`.

    Args:
      user: Of its tokens a target must see the first ones, in this order. One
        that sees none has no task tokens either: its text stands alone.
      decoder: What reads the text.
    """
    task_ND = self.param(
        'task_tokens',
        partitioning.param(layers.embedding_init, ('latents', 'embed')),
        (self.config.num_task_tokens, user.tokens.shape[-1]),
    ).astype(user.tokens.dtype)
    task_BND = jnp.broadcast_to(
        task_ND, (user.tokens.shape[0], *task_ND.shape)
    )
    x_BSD = layers.RMSNorm(name='norm')(
        jnp.concatenate([task_BND, user.tokens], axis=1)
    )
    x_BSD *= decoder.embedding_size().astype(x_BSD.dtype)
    has_user_BP1 = jnp.any(user.mask, axis=-1, keepdims=True)
    task_mask_BPN = jnp.repeat(has_user_BP1, task_ND.shape[0], axis=-1)
    return decoder.prefix_context(
        x_BSD, jnp.concatenate([task_mask_BPN, user.mask], axis=-1)
    )

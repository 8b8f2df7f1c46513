"""What makes one decoder-only language model another.

Shapes: D width, N heads, K KV heads, H head width.
"""

from collections.abc import Callable
import dataclasses

import flax.linen as nn
import jax

from user_llm.models import cross_attention as cross_attention_lib
from user_llm.models import lora as lora_lib
from user_llm.models import positions as positions_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Sizes of a `Decoder`.

  Attributes:
    vocab_size: Tokens; the table is padded and the padding never predicted.
    num_layers: Transformer blocks.
    embed_dim: Width D.
    num_heads: Attention heads N.
    num_kv_heads: KV heads K; divides `num_heads`.
    head_dim: Width H of a head; even.
    mlp_dim: Hidden size of the gated feed-forward.
    activation: Of the feed-forward's gate.
    qkv_bias: Whether q, k and v have a bias.
    tied_embeddings: Whether the embeddings are the head's weights too.
    qk_norm: Whether the heads of q and k are normed.
    post_norms: Whether what a layer adds is normed too.
    positions: Of the layers in turn: layer i has `positions[i % len]`.
    query_scalar: The queries' scale is 1/sqrt of it; 0: it is `head_dim`.
    attention_softcap: Of the attention's logits; 0: none.
    logits_softcap: Of the head's logits; 0: none.
    scaled_embeddings: Whether embeddings are read times sqrt(D).
    zero_token_id: Id of the token that pretrained weights have at 0, which is
      padding here and then never predicted; 0: it may stay there.
    context_length: Tokens that it was made to read, prompt and answer; 0: any
      number.
    norm_epsilon: Of every norm.
    dropout_rate: On the outputs of attention and feed-forward.
    cross_attention: Where and how users are read, if not as a soft prompt; its
      `every` layers make a group in any case.
    lora: Which kernels have a low-rank update.
    stacked: Whether a scan runs the groups, from stacks of their parameters;
      see `decoder_layers.unstack`.
    scan_unroll: Groups that one iteration of the scan runs.
    remat: Whether to recompute a group's activations in the backward pass.
  """

  vocab_size: int
  num_layers: int = 4
  embed_dim: int = 128
  num_heads: int = 4
  num_kv_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 384
  activation: Callable[[jax.Array], jax.Array] = nn.silu
  qkv_bias: bool = False
  tied_embeddings: bool = True
  qk_norm: bool = False
  post_norms: bool = False
  positions: tuple[positions_lib.PositionsConfig, ...] = (
      positions_lib.PositionsConfig(),
  )
  query_scalar: float = 0.0
  attention_softcap: float = 0.0
  logits_softcap: float = 0.0
  scaled_embeddings: bool = False
  zero_token_id: int = 0
  context_length: int = 0
  norm_epsilon: float = 1e-6
  dropout_rate: float = 0.0
  cross_attention: cross_attention_lib.CrossAttentionConfig = (
      cross_attention_lib.CrossAttentionConfig()
  )
  lora: lora_lib.LoraConfig | lora_lib.NoLoraConfig = lora_lib.NoLoraConfig()
  stacked: bool = True
  scan_unroll: int = 1
  remat: bool = False

  def __post_init__(self):
    for name in (
        'vocab_size', 'num_layers', 'embed_dim', 'num_heads', 'num_kv_heads',
        'head_dim', 'mlp_dim', 'scan_unroll',
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value <= 0:
        raise ValueError(
            f'DecoderConfig.{name} must be a positive integer, not {value!r}.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f'DecoderConfig.num_heads={self.num_heads} is not divisible by '
          f'num_kv_heads={self.num_kv_heads}.'
      )
    if self.head_dim % 2:
      raise ValueError(
          f'DecoderConfig.head_dim={self.head_dim} must be even: rotary '
          'positions turn pairs.'
      )
    if not self.positions:
      raise ValueError('DecoderConfig.positions must name at least one layer.')
    if not isinstance(self.context_length, int) or self.context_length < 0:
      raise ValueError(
          'DecoderConfig.context_length must be an integer, 0 (any number) or '
          f'more, not {self.context_length!r}.'
      )
    if not 0 <= self.zero_token_id < self.vocab_size:
      raise ValueError(
          f'DecoderConfig.zero_token_id={self.zero_token_id} is not among '
          f'vocab_size={self.vocab_size} tokens.'
      )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
          'DecoderConfig.dropout_rate must be in [0, 1), not '
          f'{self.dropout_rate!r}.'
      )
    if self.cross_attention.every > self.num_layers:
      raise ValueError(
          f'CrossAttentionConfig.every={self.cross_attention.every} leaves a '
          f'decoder of DecoderConfig.num_layers={self.num_layers} without '
          'cross-attention; make it at most num_layers.'
      )

  @property
  def candidates(self) -> tuple[int, int]:
    """The tokens that can be predicted: from the first, before the second."""
    return (1 if self.zero_token_id else 0), self.vocab_size

  @property
  def num_groups(self) -> int:
    """Groups of layers that are scanned, each with a cross-attention."""
    return self.num_layers // self.cross_attention.every

  @property
  def num_rest(self) -> int:
    """Layers after the last whole group."""
    return self.num_layers % self.cross_attention.every

  def positions_of_groups(
      self,
  ) -> tuple[tuple[positions_lib.Positions, ...] | None, ...]:
    """For `Group`: of the scanned layers, and of the rest."""
    if len(self.positions) == 1:
      return None, None
    every, scanned = self.cross_attention.every, self.num_layers - self.num_rest
    of_layers = positions_lib.stack(
        [
            self.positions[i % len(self.positions)]
            for i in range(self.num_layers)
        ],
        self.head_dim,
    )
    take = lambda index: jax.tree.map(lambda x: x[index], of_layers)
    return (
        tuple(take(slice(i, scanned, every)) for i in range(every)),
        tuple(take(i) for i in range(scanned, self.num_layers)),
    )

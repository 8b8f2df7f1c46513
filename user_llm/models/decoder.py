"""A decoder-only language model that can read users.

Layers are scanned in groups of `cross_attention.every`; the last layer of each
group is preceded by a `GatedCrossAttention`, which exists only where users are
given to look at. Users can also stand before the text. Everything else has the
same names with and without users. To read and write texts the groups can have
parameters of their own instead of stacks, see `decoder_layers.unstack`.

Shapes: B users (prompts), P rows a user, R = B * P, T tokens, S tokens of a
user, D width, N heads, K KV heads, H head width, V vocabulary (padded).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning
from user_llm.models import attention
from user_llm.models import causal_attention
from user_llm.models import cross_attention as cross_attention_lib
from user_llm.models import decoder_config
from user_llm.models import decoder_layers
from user_llm.models import kv_cache
from user_llm.models import layers


class Decoder(nn.Module):
  """RMSNorm, rotary positions, gated MLP, grouped KV heads, scanned layers."""

  config: decoder_config.DecoderConfig

  def setup(self) -> None:
    config = self.config
    vocab_size = partitioning.padded_size(config.vocab_size)
    self.embed = layers.Embed(vocab_size, config.embed_dim)
    if config.stacked:
      self.groups = self._scanned_groups()
    else:
      self.groups = decoder_layers.UnstackedGroups(config)
    if config.num_rest:
      self.rest = decoder_layers.Group(config, config.num_rest)
    self.norm = layers.RMSNorm(config.norm_epsilon)
    if not config.tied_embeddings:
      self.lm_head = layers.Dense(vocab_size, ('embed', 'vocab'))

  def _scanned_groups(self) -> nn.Module:
    config = self.config
    group = decoder_layers.Group
    if config.remat and not layers.is_remat_off():
      # Inside a scan nothing can be merged with the forward pass anyway.
      group = nn.remat(
          group, prevent_cse=False, static_argnums=(4,), methods=['__call__']
      )
    scan = dict(
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        length=config.num_groups,
        unroll=min(config.scan_unroll, config.num_groups),
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    broadcast = nn.broadcast
    scanned = nn.scan(
        group,
        methods={
            '__call__': dict(
                in_axes=(broadcast, broadcast, broadcast, 0, 0, 0), **scan
            ),
            'key_value': dict(in_axes=(broadcast,), **scan),
        },
    )
    return scanned(config, config.cross_attention.every)

  def user_context(
      self, user: cross_attention_lib.UserTokens
  ) -> cross_attention_lib.UserContext:
    """Keys and values of every cross-attention, computed once a user."""
    _, kv = self.groups.key_value(None, user.tokens)
    return cross_attention_lib.UserContext(kv, user.mask, user.recency)

  def prefix_context(
      self, x_BSD: jax.Array, mask_BPS: jax.Array
  ) -> cross_attention_lib.UserContext:
    """Reads users that stand before the text, once a user.

    Args:
      x_BSD: Float, in place of embeddings of tokens.
      mask_BPS: bool, True for the tokens that a row sees: the first ones.
    """
    _, kv = self._run(x_BSD, None, kv_cache.NOTHING, keep_kv=True)
    return cross_attention_lib.UserContext(
        prefix=kv_cache.prefix(kv, mask_BPS)
    )

  def embedding_size(self) -> jax.Array:
    """f32[], root mean square of the embeddings as the layers read them."""
    table_VD = jax.lax.stop_gradient(self.embed.table).astype(jnp.float32)
    is_token_V = jnp.arange(table_VD.shape[0]) < self.config.vocab_size
    square_V = jnp.mean(jnp.square(table_VD), axis=-1)
    mean = jnp.mean(square_V, where=is_token_V)
    scale = self.config.embed_dim if self.config.scaled_embeddings else 1
    return jnp.sqrt(scale * mean)

  def __call__(
      self,
      tokens_RT: jax.Array,
      context: cross_attention_lib.UserContext | None = None,
      cache: kv_cache.Cache | None = None,
      keep_kv: bool = False,
  ) -> tuple[jax.Array, tuple | None]:
    """Runs the layers over tokens.

    Args:
      tokens_RT: i32; the rows of one user are next to each other.
      context: Of the B users; None: a plain language model.
      cache: What stands before the tokens; None: the context's prefix.
      keep_kv: Whether to return keys and values.

    Returns:
      Float [R, T, D], normed for `logits`; and if asked, keys and values: of
      these tokens, or `cache.added` with them written into it.
    """
    x_RTD = self.embed(tokens_RT)
    if self.config.scaled_embeddings:
      x_RTD *= jnp.asarray(self.config.embed_dim**0.5, x_RTD.dtype)
    if cache is None:
      cache = kv_cache.NOTHING if context is None else context.prefix
    x_RTD, kv = self._run(x_RTD, context, cache, keep_kv)
    if self.is_initializing():
      self.logits(x_RTD)
      self.config.lora.check(self.variables['params'])
    return x_RTD, kv

  def _run(
      self,
      x_RTD: jax.Array,
      context: cross_attention_lib.UserContext | None,
      cache: kv_cache.Cache,
      keep_kv: bool,
  ) -> tuple[jax.Array, tuple | None]:
    """`__call__`, of embeddings."""
    config, slots = self.config, cache.slots
    user_kv = masks = None
    if context is not None:
      user_kv, masks = context.key_value, (context.mask, context.recency)
    both = causal_attention.LayerCache(cache.shared, cache.added)
    groups_where, rest_where = config.positions_of_groups()
    x_RTD, kv = self.groups(
        x_RTD, masks, slots, keep_kv, user_kv, both.at(0), groups_where
    )
    rest_kv = ()
    if config.num_rest:
      x_RTD, rest_kv = self.rest(
          x_RTD, None, slots, keep_kv, None, both.at(1), rest_where
      )
    return self.norm(x_RTD), (kv, rest_kv) if keep_kv else None

  def logits(self, x_RTD: jax.Array) -> jax.Array:
    """f32[R, T, V] over the padded vocabulary, the padding masked."""
    if self.is_initializing() and not self.config.tied_embeddings:
      self.lm_head(x_RTD)  # Makes its kernel.
    logits = jnp.einsum(
        'RTD,VD->RTV', x_RTD, self.token_table().astype(x_RTD.dtype),
        preferred_element_type=jnp.float32,
    )
    logits = partitioning.constrain(
        attention.capped(logits, self.config.logits_softcap),
        'act_batch', 'act_length', 'act_vocab',
    )
    ids_V = jnp.arange(logits.shape[-1])
    first, stop = self.config.candidates
    valid_V = (ids_V >= first) & (ids_V < stop)
    return jnp.where(valid_V, logits, attention.MASKED)

  def token_table(self) -> jax.Array:
    """f32[V, D]: `logits` are its products, before cap and mask."""
    if self.config.tied_embeddings:
      return self.embed.table
    return partitioning.unbox(self.lm_head.variables['params']['kernel']).T

  def prefill(
      self,
      tokens_BT: jax.Array,
      context: cross_attention_lib.UserContext | None,
      rows: int,
      capacity: int,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Reads prompts.

    Args:
      tokens_BT: i32 prompts, padded at their beginning with 0.
      context: Of the users.
      rows: P, the rows that will continue each prompt.
      capacity: Tokens that a row may add.

    Returns:
      f32[B, V], the logits of what comes next, and a cache for `extend`.
    """
    before = kv_cache.NOTHING if context is None else context.prefix
    slots = before.slots._replace(pads=kv_cache.pads(tokens_BT))
    before = before._replace(slots=slots)
    x_BTD, prompt = self(tokens_BT, context, before, keep_kv=True)
    cache = kv_cache.with_room(before, prompt, rows, capacity)
    return self.logits(x_BTD[:, -1:])[:, 0], cache

  def extend(
      self,
      tokens_R: jax.Array,
      context: cross_attention_lib.UserContext | None,
      cache: kv_cache.Cache,
  ) -> tuple[jax.Array, kv_cache.Cache]:
    """Adds one token to each row; returns f32[R, V] logits and the cache."""
    x_RTD, added = self(tokens_R[:, None], context, cache, keep_kv=True)
    slots = cache.slots._replace(length=cache.slots.length + 1)
    cache = cache._replace(added=added, slots=slots)
    return self.logits(x_RTD)[:, 0], cache

"""Layers that the encoder, the resampler and the decoder share.

Shapes: B batch, L length, D width, F mlp, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import contextvars

import flax.linen as nn
import jax
import jax.numpy as jnp

from user_llm import partitioning

Initializer = Callable[..., jax.Array]

embedding_init = nn.initializers.normal(stddev=0.02)
kernel_init = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'truncated_normal'
)


_is_remat_off = contextvars.ContextVar('is_remat_off', default=False)


@contextlib.contextmanager
def no_remat() -> Iterator[None]:
  """Nothing is computed again, for who counts what a model takes."""
  token = _is_remat_off.set(True)
  try:
    yield
  finally:
    _is_remat_off.reset(token)


def is_remat_off() -> bool:
  """Whether this is inside `no_remat`."""
  return _is_remat_off.get()


def compute_dtype() -> jnp.dtype:
  """bfloat16 where the device has it, float32 on CPU: decided only here.

  The device is that of the mesh, which may be of a machine that is not here.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  platform = device.platform if device else jax.default_backend()
  return jnp.dtype('float32' if platform == 'cpu' else 'bfloat16')


class Dense(nn.Module):
  """`x @ kernel (+ bias)` over the last axis.

  Attributes:
    features: Size of the output.
    names: Logical names of the kernel's two axes.
    use_bias: Whether to add a bias, initialised at zero.
    init: Of the kernel [in, features].
  """

  features: int
  names: tuple[str | None, str | None]
  use_bias: bool = False
  init: Initializer = kernel_init

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Float [..., in] -> float [..., features] in x's dtype."""
    kernel = self.param(
        'kernel',
        partitioning.param(self.init, self.names),
        (x.shape[-1], self.features),
    )
    # As one matrix: XLA's CPU is a fifth slower at a kernel's gradient when
    # that sums over two axes.
    y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    y = y.reshape(*x.shape[:-1], self.features)
    if self.use_bias:
      bias = self.param(
          'bias',
          partitioning.param(nn.initializers.zeros, (self.names[1],)),
          (self.features,),
      )
      y = y + bias.astype(x.dtype)
    return y


class RMSNorm(nn.Module):
  """Root-mean-square norm (arXiv 1910.07467), computed in float32."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param(
        'scale',
        partitioning.param(nn.initializers.ones, ('norm',)),
        (x.shape[-1],),
    )
    x_f32 = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True)
    y = x_f32 * jax.lax.rsqrt(variance + self.epsilon) * scale
    return y.astype(x.dtype)


class Embed(nn.Module):
  """A table [V, D] to look up in and, where tied, to score against."""

  num_embeddings: int
  features: int

  def setup(self) -> None:
    self.table = self.param(
        'table',
        partitioning.param(embedding_init, ('vocab', 'embed')),
        (self.num_embeddings, self.features),
    )

  def __call__(self, ids: jax.Array) -> jax.Array:
    """i32[...] -> float[..., D] in the compute dtype."""
    return jnp.take(self.table, ids, axis=0).astype(compute_dtype())


class MLP(nn.Module):
  """Feed-forward: gated (arXiv 2002.05202) or plain, no bias.

  Attributes:
    features: Size F of the hidden layer.
    activation: Of the gate (gated) or of the hidden layer (plain).
    gated: `down(act(gate(x)) * up(x))` instead of `down(act(up(x)))`.
    dense: Makes its `Dense`s.
  """

  features: int
  activation: Callable[[jax.Array], jax.Array] = nn.silu
  gated: bool = True
  dense: Callable[..., Dense] = Dense

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    h_BLF = self.dense(self.features, ('embed', 'mlp'), name='up')(x_BLD)
    if self.gated:
      gate = self.dense(self.features, ('embed', 'mlp'), name='gate')(x_BLD)
      h_BLF = self.activation(gate) * h_BLF
    else:
      h_BLF = self.activation(h_BLF)
    h_BLF = partitioning.constrain(
        h_BLF, 'act_batch', 'act_length', 'act_mlp'
    )
    return self.dense(x_BLD.shape[-1], ('mlp', 'embed'), name='down')(h_BLF)


def _mix(x: jax.Array) -> jax.Array:
  """A 32-bit finaliser with low bias ("lowbias32", C. Wellons, 2018)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def random_mask(
    key: jax.Array, keep_rate: float, shape: Sequence[int]
) -> jax.Array:
  """bool[shape], True with probability `keep_rate`.

  Hashes each element's index with two words of the key. Threefry would be the
  most expensive operation of a small model's step on CPU; this fuses with what
  reads it, and being elementwise gives the same mask on any mesh.
  """
  words = jax.random.bits(key, (2,), jnp.uint32)
  index = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    index = index + iota * jnp.uint32(stride)
    stride *= shape[axis]
  bits = _mix(_mix(index ^ words[0]) + words[1])
  return bits < jnp.uint32(round(keep_rate * (2**32 - 1)))


class Dropout(nn.Module):
  """Dropout that reads the 'dropout' RNG; none where none is given."""

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if not self.rate or not self.has_rng('dropout'):
      return x
    keep_rate = 1.0 - self.rate
    keep = random_mask(self.make_rng('dropout'), keep_rate, x.shape)
    return jnp.where(keep, x / keep_rate, jnp.zeros_like(x))

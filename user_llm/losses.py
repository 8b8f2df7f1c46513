"""Cross-entropy over large vocabularies without their logits in memory.

Shapes: B batch, L length, E embedding, V vocabulary (padded).
"""

import functools

import jax
import jax.numpy as jnp

from user_llm import partitioning

# Logits of one chunk, in floats: small enough for a CPU's last-level cache,
# large enough for its matrix multiplications.
CHUNK_FLOATS = 2**21


def num_chunks(batch: int, length: int, vocab: int) -> int:
  """The fewest equal parts of `length` whose logits fit CHUNK_FLOATS."""
  for chunks in range(1, length):
    if length % chunks == 0 and (
        batch * (length // chunks) * vocab <= CHUNK_FLOATS
    ):
      return chunks
  return length


def _scan_chunks(
    h_BLE: jax.Array,
    table_VE: jax.Array,
    targets_BL: jax.Array,
    size: int,
    with_grads: bool,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
  """Sum of the losses and, if asked, its gradients, in one pass."""
  batch, length, _ = h_BLE.shape
  vocab = table_VE.shape[0]
  chunks = num_chunks(batch, length, vocab)
  table = table_VE.astype(h_BLE.dtype)
  ids_V = jnp.arange(vocab)
  valid_V = (ids_V > 0) & (ids_V < size)

  def split(x: jax.Array) -> jax.Array:
    x = x.reshape(batch, chunks, length // chunks, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def chunk(carry, xs):
    h_BlE, targets_Bl = xs
    logits = jnp.einsum(
        'BlE,VE->BlV', h_BlE, table, preferred_element_type=jnp.float32
    )
    logits = partitioning.constrain(
        logits, 'act_batch', 'act_length', 'act_vocab'
    )
    logits = jnp.where(valid_V, logits, -jnp.inf)
    peak = jnp.max(logits, axis=-1, keepdims=True)
    unnormalised = jnp.exp(logits - peak)
    norm = jnp.sum(unnormalised, axis=-1, keepdims=True)
    is_target = ids_V == targets_Bl[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
    nll = jnp.log(norm[..., 0]) + peak[..., 0] - target_logit
    mask = targets_Bl > 0
    total, dtable = carry
    total += jnp.sum(jnp.where(mask, nll, 0))
    if not with_grads:
      return (total, dtable), None
    dlogits = jnp.where(
        mask[..., None], unnormalised / norm - is_target, 0
    ).astype(h_BlE.dtype)
    dh_BlE = jnp.einsum('BlV,VE->BlE', dlogits, table)
    dtable += jnp.einsum(
        'BlV,BlE->VE', dlogits, h_BlE, preferred_element_type=jnp.float32
    )
    return (total, dtable), dh_BlE

  dtable = jnp.zeros(table_VE.shape if with_grads else (), jnp.float32)
  (total, dtable), dh = jax.lax.scan(
      chunk,
      (jnp.zeros((), jnp.float32), dtable),
      (split(h_BLE), split(targets_BL)),
  )
  if not with_grads:
    return total, None
  return total, (jnp.moveaxis(dh, 0, 1).reshape(h_BLE.shape), dtable)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_cross_entropy(
    h_BLE: jax.Array, table_VE: jax.Array, targets_BL: jax.Array, size: int
) -> jax.Array:
  """Sum of -log softmax(h @ table.T)[target] over the valid targets.

  Positions are taken in chunks whose logits stay in cache, and the gradients
  are made in the same pass as the loss: three matrix products a position and
  one exponential a logit, and never more than one chunk of logits in memory.
  (Chunking the vocabulary instead would need the logits a second time for the
  backward pass: four products.)

  Args:
    h_BLE: Float.
    table_VE: f32; rows 0 (padding) and >= `size` are no candidates.
    targets_BL: i32; 0 means no target here.
    size: The number of ids, padding included.

  Returns:
    f32[].
  """
  return _scan_chunks(h_BLE, table_VE, targets_BL, size, False)[0]


def _forward(h_BLE, table_VE, targets_BL, size):
  return _scan_chunks(h_BLE, table_VE, targets_BL, size, True)


def _backward(size, grads, cotangent):
  del size
  dh_BLE, dtable_VE = grads
  return (
      (dh_BLE * cotangent).astype(dh_BLE.dtype),
      dtable_VE * cotangent,
      None,
  )


linear_cross_entropy.defvjp(_forward, _backward)

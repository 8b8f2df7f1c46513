"""Cross-entropy over large vocabularies without their logits in memory.

Shapes: B batch, L length, E embedding, V vocabulary (padded).
"""

from collections.abc import Iterator
import contextlib
import contextvars
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from user_llm import partitioning

# Logits of one chunk, in floats: small enough for a CPU's last-level cache,
# large enough for its matrix multiplications.
CHUNK_FLOATS = 2**21
# Positions of a chunk, even so: the whole table is read for each chunk.
CHUNK_POSITIONS = 256
# Floats of a table of which each device may hold all, and all of its gradient,
# twice: what a loop carries is copied. Above, it is summed over the devices once
# a chunk, so that each holds its share.
WHOLE_TABLE_FLOATS = 2**28


class TokenLosses(NamedTuple):
  """Losses of the targets of a batch; 0 and False where there is no target.

  Attributes:
    total: f32[], the sum of `nats`; gradients go through it alone.
    nats: f32[B, L], -log p(target).
    correct: bool[B, L], whether no candidate is likelier.
  """

  total: jax.Array
  nats: jax.Array
  correct: jax.Array


_is_one_chunk = contextvars.ContextVar('is_one_chunk', default=False)


@contextlib.contextmanager
def one_chunk() -> Iterator[None]:
  """All positions at once, for who counts what a step computes."""
  token = _is_one_chunk.set(True)
  try:
    yield
  finally:
    _is_one_chunk.reset(token)


def num_chunks(batch: int, length: int, vocab: int) -> int:
  """The fewest parts of `length` that are small enough.

  Equal parts, where that does not make them more than twice as many; else the
  last one is to be filled up.

  Args:
    batch: Rows that one device has.
    length: Positions of a row.
    vocab: Rows of the table.
  """
  if _is_one_chunk.get():
    return 1
  floats = max(CHUNK_FLOATS, CHUNK_POSITIONS * vocab)
  fewest = -(-length // max(floats // (batch * vocab), 1))
  for chunks in range(fewest, 2 * fewest + 1):
    if length % chunks == 0:
      return chunks
  return fewest


def _chunk_losses(
    h_BlE: jax.Array,
    table_VE: jax.Array,
    targets_Bl: jax.Array,
    ids: tuple[int, int],
    softcap: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`nats`, `correct`, and the gradient of the nats' sum by h @ table.T."""
  ids_V = jnp.arange(table_VE.shape[0])
  valid_V = (ids_V >= ids[0]) & (ids_V < ids[1])
  logits = jnp.einsum(
      'BlE,VE->BlV', h_BlE, table_VE, preferred_element_type=jnp.float32
  )
  logits = partitioning.constrain(
      logits, 'act_batch', 'act_length', 'act_vocab'
  )
  if softcap:
    logits = softcap * jnp.tanh(logits / softcap)
  logits = jnp.where(valid_V, logits, -jnp.inf)
  peak_Bl = jnp.max(logits, axis=-1)
  unnormalised = jnp.exp(logits - peak_Bl[..., None])
  norm_Bl = jnp.sum(unnormalised, axis=-1)
  is_target = ids_V == targets_Bl[..., None]
  target_Bl = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
  mask_Bl = targets_Bl > 0
  nats_Bl = jnp.where(mask_Bl, jnp.log(norm_Bl) + peak_Bl - target_Bl, 0)
  dlogits = jnp.where(
      mask_Bl[..., None], unnormalised / norm_Bl[..., None] - is_target, 0
  )
  if softcap:
    slope = 1 - jnp.square(jnp.where(valid_V, logits, 0) / softcap)
    dlogits *= slope
  correct_Bl = mask_Bl & (target_Bl >= peak_Bl)
  return nats_Bl, correct_Bl, dlogits.astype(h_BlE.dtype)


def _token_losses(
    h_BLE: jax.Array,
    table_VE: jax.Array,
    targets_BL: jax.Array,
    ids: tuple[int, int],
    softcap: float,
    with_grads: bool,
) -> tuple[TokenLosses, tuple[jax.Array, jax.Array] | None]:
  """The losses and, if asked, the gradients of their sum, in one pass.

  What is summed over rows is summed in the loop over those of each of the D
  parts of the batch, and over the parts after it: in the loop the devices would
  have to wait for each other, and send the table's gradient, once a chunk. They
  do where the table is too large for that.
  """
  batch, length, _ = h_BLE.shape
  parts = partitioning.batch_parts(batch)
  chunks = num_chunks(batch // parts, length, table_VE.shape[0])
  size = -(-length // chunks)
  if chunks * size > length:
    rest = chunks * size - length
    h_BLE = jnp.pad(h_BLE, ((0, 0), (0, rest), (0, 0)))
    targets_BL = jnp.pad(targets_BL, ((0, 0), (0, rest)))
  table = table_VE.astype(h_BLE.dtype)
  is_whole = table.size <= WHOLE_TABLE_FLOATS
  if is_whole:
    # Gathered once, here, where it is sharded over the devices of the batch.
    table = partitioning.constrain(table, 'act_vocab', None)
  has_target_L = jnp.any(targets_BL > 0, axis=0)
  end = jnp.max(jnp.where(has_target_L, jnp.arange(1, chunks * size + 1), 0))
  split = lambda x, parts: x.reshape(parts, batch // parts, *x.shape[1:])
  num_sums = parts if is_whole else 1

  def by_part(x_DVE: jax.Array) -> jax.Array:
    if num_sums < parts:
      return x_DVE
    return partitioning.constrain(x_DVE, 'act_batch', 'act_vocab', None)

  def chunk(i: jax.Array, carry: tuple) -> tuple:
    losses, grads = carry
    part = lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size, 1)
    put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i * size, 1)
    h_BlE = part(h_BLE)
    nats_Bl, correct_Bl, dlogits = _chunk_losses(
        h_BlE, table, part(targets_BL), ids, softcap
    )
    losses = TokenLosses(
        losses.total + jnp.sum(split(nats_Bl, parts), axis=(1, 2)),
        put(losses.nats, nats_Bl),
        put(losses.correct, correct_Bl),
    )
    if not with_grads:
      return losses, None
    dh, dtable_DVE = grads
    dtable_DVE += jnp.einsum(
        'DBlV,DBlE->DVE', split(dlogits, num_sums), split(h_BlE, num_sums),
        preferred_element_type=jnp.float32,
    )
    dh = put(dh, jnp.einsum('BlV,VE->BlE', dlogits, table))
    return losses, (dh, by_part(dtable_DVE))

  losses = TokenLosses(
      jnp.zeros(parts, jnp.float32),
      jnp.zeros(targets_BL.shape, jnp.float32),
      jnp.zeros(targets_BL.shape, jnp.bool_),
  )
  grads = None
  if with_grads:
    dtable_DVE = jnp.zeros((num_sums, *table_VE.shape), jnp.float32)
    grads = jnp.zeros_like(h_BLE), by_part(dtable_DVE)
  losses, grads = jax.lax.fori_loop(
      0, -(-end // size), chunk, (losses, grads)
  )
  losses = TokenLosses(
      jnp.sum(losses.total), losses.nats[:, :length],
      losses.correct[:, :length],
  )
  if with_grads:
    dh, dtable_DVE = grads
    grads = dh[:, :length], jnp.sum(dtable_DVE, axis=0)
  return losses, grads


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_losses(
    h_BLE: jax.Array,
    table_VE: jax.Array,
    targets_BL: jax.Array,
    ids: tuple[int, int],
    softcap: float = 0.0,
) -> TokenLosses:
  """-log softmax(h @ table.T)[target] of the valid targets.

  Positions are taken in chunks whose logits stay in cache, and the gradients
  are made in the same pass as the loss: three matrix products a position and
  one exponential a logit, and never more than one chunk of logits in memory.
  (Chunking the vocabulary instead would need the logits a second time for the
  backward pass: four products.) Chunks behind the last target are left out; see
  `targets_first`.

  Args:
    h_BLE: Float.
    table_VE: f32.
    targets_BL: i32; 0 means no target here.
    ids: The candidates are the rows ids[0] .. ids[1] - 1 of the table.
    softcap: Logits are held within it by a tanh (Gemma 2); 0: none.

  Returns:
    The losses of the positions, and their sum.
  """
  return _token_losses(h_BLE, table_VE, targets_BL, ids, softcap, False)[0]


def _forward(h_BLE, table_VE, targets_BL, ids, softcap):
  return _token_losses(h_BLE, table_VE, targets_BL, ids, softcap, True)


def _backward(ids, softcap, grads, cotangent):
  del ids, softcap
  dh_BLE, dtable_VE = grads
  return (
      (dh_BLE * cotangent.total).astype(dh_BLE.dtype),
      dtable_VE * cotangent.total,
      None,
  )


token_losses.defvjp(_forward, _backward)


def linear_cross_entropy(
    h_BLE: jax.Array, table_VE: jax.Array, targets_BL: jax.Array, size: int
) -> jax.Array:
  """f32[], the sum of `token_losses` over the ids 1 .. size - 1."""
  return token_losses(h_BLE, table_VE, targets_BL, (1, size)).total


def sampled_cross_entropy(
    h_BLE: jax.Array,
    targets_BLE: jax.Array,
    negatives_NE: jax.Array,
    targets_BL: jax.Array,
    negatives_N: jax.Array,
    log_expected_N: jax.Array,
) -> jax.Array:
  """f32[], the sum of -log of e^target / (e^target + sum of the negatives).

  The logits [B, L, N] are made again for the gradients.

  Args:
    h_BLE: Float.
    targets_BLE: f32, the targets' rows of the table.
    negatives_NE: f32, those of the negatives, the same for all targets.
    targets_BL: i32 ids; 0 means no target here.
    negatives_N: i32 ids; one that is the target is left out.
    log_expected_N: f32, taken off the negatives' logits: of how often each is
      among them in the mean.
  """

  @jax.checkpoint
  def nats(h_BLE, targets_BLE, negatives_NE):
    target_BL = jnp.einsum(
        'BLE,BLE->BL', h_BLE, targets_BLE, preferred_element_type=jnp.float32
    )
    logits_BLN = jnp.einsum(
        'BLE,NE->BLN', h_BLE, negatives_NE, preferred_element_type=jnp.float32
    )
    is_other_BLN = negatives_N != targets_BL[..., None]
    others_BL = jax.nn.logsumexp(
        logits_BLN - log_expected_N, axis=-1, where=is_other_BLN
    )
    return jnp.logaddexp(target_BL, others_BL) - target_BL

  cast = lambda x: x.astype(h_BLE.dtype)
  nats_BL = nats(h_BLE, cast(targets_BLE), cast(negatives_NE))
  return jnp.sum(jnp.where(targets_BL > 0, nats_BL, 0))


def targets_first(
    h_BLE: jax.Array, targets_BL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Puts the positions of a row that have a target before the others.

  So that `token_losses` can leave out what prompts and padding would cost.
  Example: targets [0, 5, 0, 7] become [5, 7, 0, 0].

  Args:
    h_BLE: Float.
    targets_BL: i32; 0 means no target here.

  Returns:
    Both in the new order, and i32[B, L], where each position has gone to.
  """
  order_BL = jnp.argsort(targets_BL == 0, axis=1, stable=True)
  return (
      jnp.take_along_axis(h_BLE, order_BL[..., None], axis=1),
      jnp.take_along_axis(targets_BL, order_BL, axis=1),
      jnp.argsort(order_BL, axis=1),
  )

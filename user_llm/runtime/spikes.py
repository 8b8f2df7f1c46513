"""Finds steps whose loss leaps out of those before it.

Median and median absolute deviation (MAD) of a window: unlike mean and standard
deviation, a spike moves them little.
"""

import jax
import jax.numpy as jnp

WINDOW = 128
# So many in a window are skipped; the next ones are what the data is like now.
MAX_IN_WINDOW = 5
# Of a normal distribution 1.4826 MADs are one standard deviation.
_MADS_PER_STD = 1.4826


def no_losses() -> jax.Array:
  """f32[WINDOW] of a new run: not a number where none is known yet."""
  return jnp.full(WINDOW, jnp.nan, jnp.float32)


def is_spike(
    recent_W: jax.Array, loss: jax.Array, threshold: float
) -> jax.Array:
  """bool[]: whether a loss is a spike; never before the window is full.

  Args:
    recent_W: f32[WINDOW], the losses before; infinite where a spike was.
    loss: f32[].
    threshold: Standard deviations above the median.
  """
  values_W = jnp.where(jnp.isfinite(recent_W), recent_W, jnp.nan)
  median = jnp.nanmedian(values_W)
  std = _MADS_PER_STD * jnp.nanmedian(jnp.abs(values_W - median))
  is_full = ~jnp.isnan(recent_W).any()
  has_room = jnp.isinf(recent_W).sum() < MAX_IN_WINDOW
  return is_full & has_room & (loss > median + threshold * std)


def with_loss(
    recent_W: jax.Array, loss: jax.Array, spike: jax.Array
) -> jax.Array:
  """The window with the newest loss last; one that is not finite is left out.
  """
  newest = jnp.where(spike, jnp.inf, loss)
  moved_W = jnp.append(recent_W[1:], newest)
  return jnp.where(jnp.isfinite(loss), moved_W, recent_W)

"""Spikes are found by median and MAD, never before a window is full."""

import jax.numpy as jnp
import numpy as np
import pytest

from user_llm.runtime import spikes


def _run(losses, threshold=6.0):
  recent, found = spikes.no_losses(), []
  for loss in losses:
    loss = jnp.float32(loss)
    spike = spikes.is_spike(recent, loss, threshold)
    recent = spikes.with_loss(recent, loss, spike)
    found.append(bool(spike))
  return found, recent


def _noise(count, seed=0):
  return np.random.default_rng(seed).normal(2, 0.1, count)


def test_a_spike_is_found_where_it_is():
  losses = _noise(300)
  losses[[150, 200]] = 5.0
  found, _ = _run(losses)
  assert np.flatnonzero(found).tolist() == [150, 200]


def test_normal_losses_are_none():
  # 6 standard deviations: one in 10^9; the MAD of 128 has errors of its own.
  assert not any(_run(_noise(2000, seed=1), threshold=8.0)[0])


def test_not_before_the_window_is_full():
  losses = _noise(spikes.WINDOW + 1)
  losses[[0, 1, 50, spikes.WINDOW - 1]] = 100.0
  losses[spikes.WINDOW] = 100.0
  found, _ = _run(losses)
  assert np.flatnonzero(found).tolist() == [spikes.WINDOW]


def test_a_new_level_is_accepted():
  """At most so many in a window: then the losses are what they are."""
  losses = np.concatenate([_noise(200), 5 + _noise(200)])
  found, recent = _run(losses)
  assert sum(found) == spikes.MAX_IN_WINDOW
  assert np.flatnonzero(found)[-1] == 204
  assert np.isfinite(recent).all()


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_left_out(bad):
  losses = _noise(200)
  losses[150] = bad
  without = np.delete(losses, 150)
  np.testing.assert_array_equal(_run(losses)[1], _run(without)[1])

import itertools

import numpy as np
import pytest

from user_llm.data import order


def test_an_epoch_reads_every_example_once():
  for epoch in range(3):
    ids = order.example_indices(17, seed=5, start=17 * epoch, count=17)
    assert sorted(ids) == list(range(17))


def test_epochs_and_seeds_differ():
  first = order.example_indices(100, 0, 0, 100)
  assert (first != order.example_indices(100, 0, 100, 100)).any()
  assert (first != order.example_indices(100, 1, 0, 100)).any()


def test_a_slice_does_not_depend_on_how_it_was_reached():
  whole = order.example_indices(7, seed=3, start=0, count=40)
  for start, count in [(0, 1), (5, 4), (6, 1), (13, 20), (39, 1), (4, 0)]:
    np.testing.assert_array_equal(
        order.example_indices(7, 3, start, count), whole[start : start + count]
    )


def test_the_order_is_pinned():
  # It is part of what a checkpoint promises: a change breaks every resume.
  assert order.example_indices(6, 0, 0, 6).tolist() == [4, 0, 3, 5, 2, 1]


@pytest.mark.parametrize('num_hosts', [1, 2, 3, 6])
@pytest.mark.parametrize('start_step', [0, 4])
def test_any_number_of_hosts_reads_the_same_batches(num_hosts, start_step):
  want = order.example_indices(10, 1, start_step * 6, 18).reshape(3, 6)
  hosts = [
      order.HostOrder(
          batch_size=6,
          seed=1,
          start_step=start_step,
          host=host,
          num_hosts=num_hosts,
      )
      for host in range(num_hosts)
  ]
  got = [list(itertools.islice(h.blocks(10), 3)) for h in hosts]
  np.testing.assert_array_equal(np.concatenate(got, axis=1), want)


def test_without_a_seed_it_reads_once_and_hosts_take_as_many_steps():
  blocks = [
      [b.tolist() for b in order.HostOrder(
          batch_size=4, seed=None, host=host, num_hosts=2
      ).blocks(9)]
      for host in range(2)
  ]
  assert blocks == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], []]]


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(batch_size=0, seed=0), 'BATCH_SIZE is 0'),
        (dict(batch_size=5, seed=0, num_hosts=2), 'multiple of the number'),
        (dict(batch_size=4, seed=0, host=2, num_hosts=2), 'host 2'),
        (dict(batch_size=4, seed=-1), 'SEED is -1'),
    ],
)
def test_bad_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    order.HostOrder(**settings)

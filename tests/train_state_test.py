"""Which parameters train: the first pattern that matches decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import train_state

_PARAMS = {
    'encoder': {'norm': {'scale': 1}, 'head': {'kernel': 2}},
    'decoder': {'groups': {'gate': 3, 'kernel': 4}, 'norm': {'scale': 5}},
}


@pytest.mark.parametrize(
    ['patterns', 'trains'],
    [
        (('.*',), {1, 2, 3, 4, 5}),
        (('encoder',), {1, 2}),
        (('encoder/norm', '.*gate'), {1, 3}),
        (('!encoder', '.*'), {3, 4, 5}),
        (('decoder/groups/gate', '!decoder', '.*'), {1, 2, 3}),
        (('!.*norm', 'decoder'), {3, 4}),
        (('norm|.*kernel',), {2, 4}),
    ],
)
def test_split(patterns, trains):
  trainable, frozen = train_state.split(_PARAMS, patterns)
  found = train_state.flatten(trainable)
  assert set(found.values()) == trains
  assert not found.keys() & train_state.flatten(frozen).keys()
  assert train_state.merge(trainable, frozen) == _PARAMS


def test_merge_where_nothing_is_frozen():
  trainable, frozen = train_state.split(_PARAMS, ['.*'])
  assert trainable == _PARAMS and frozen == {}


@pytest.mark.parametrize(
    ['patterns', 'message'],
    [
        (('encodr',), r"TRAINABLE=.*'encodr'.* decide no parameter"),
        (('.*', '!encoder'), 'encoder.* decide no parameter'),
        (('.*', '.*'), 'decide no parameter'),
        (('encoder', '!encoder'), r"\['!encoder'\] decide no parameter"),
        (('!.*',), 'nothing trains; parameters start with decoder/groups'),
        ((), 'nothing trains'),
        (('encoder/(',), r"TRAINABLE: 'encoder/\(' is no regular expression"),
    ],
)
def test_errors(patterns, message):
  with pytest.raises(ValueError, match=message):
    train_state.split(_PARAMS, patterns)


def test_flatten():
  flat = train_state.flatten(_PARAMS)
  assert flat['decoder/groups/gate'] == 3
  assert train_state.unflatten(flat) == _PARAMS


@pytest.mark.parametrize(
    ['path', 'is_large'],
    [('a/q/kernel', True), ('embed/table', True), ('norm/scale', False),
     ('a/q/bias', False), ('cross_attention/gate', False),
     ('table', True), ('recency/table', False),
     ('resampler/blocks_0/recency/table', False)],
)
def test_large_frozen_parameters_are_rounded(path, is_large):
  value = np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8])
  # bfloat16 has 8 bits: ties go to the even one.
  want = np.float32([1, 1, 1 + 2**-6]) if is_large else value
  for x in (value, jnp.asarray(value)):
    found = train_state.rounded(path, x, jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(found, np.float32), want)
  shape = jax.ShapeDtypeStruct((3,), np.float32)
  found = train_state.rounded(path, shape, jnp.bfloat16)
  assert found.dtype == (jnp.bfloat16 if is_large else np.float32)

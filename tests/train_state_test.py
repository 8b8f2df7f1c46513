"""Which parameters train: the first pattern that matches decides."""

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

"""Emits YAML in which a text is a text to every reader."""

import re
from typing import Any

import yaml

# What no reader takes for a number, and most do not for a truth value.
_WORD = re.compile(r'[A-Za-z][A-Za-z0-9./_-]*')
_TRUTH_VALUES = (
    'y', 'n', 'yes', 'no', 'on', 'off', 'true', 'false', 'null'
)


def dump(tree: Any) -> str:
  """The YAML of dicts, lists, texts and numbers.

  PyYAML alone leaves `1e-3` bare, which Kubernetes reads as a number.

  Raises:
    TypeError: there is a None in it.
  """
  return yaml.dump(
      tree,
      Dumper=_Dumper,
      sort_keys=False,
      allow_unicode=True,
      default_flow_style=False,
      width=80,
  )


class _Dumper(yaml.SafeDumper):

  def ignore_aliases(self, data: Any) -> bool:
    return True


def _text(dumper: yaml.Dumper, text: str) -> yaml.Node:
  is_plain = _WORD.fullmatch(text) and text.lower() not in _TRUTH_VALUES
  return dumper.represent_scalar(
      'tag:yaml.org,2002:str', text, style=None if is_plain else '"'
  )


def _list(dumper: yaml.Dumper, items: list[Any]) -> yaml.Node:
  is_short = bool(items) and all(isinstance(item, int) for item in items)
  return dumper.represent_sequence(
      'tag:yaml.org,2002:seq', items, flow_style=is_short
  )


def _none(dumper: yaml.Dumper, unused: None) -> yaml.Node:
  raise TypeError('None has no place in a manifest.')


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(type(None), _none)

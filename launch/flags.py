"""Makes a JobSpec of flags and a job file; flags win."""

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import tomllib
from typing import Any

from launch import spec as spec_lib

_GIN = '--gin.'


def add(parser: argparse.ArgumentParser, hidden: Sequence[str] = ()) -> None:
  """Adds a flag for each field; None stands for what is not given."""
  parser.add_argument(
      'job_file', nargs='?', help='TOML with the same names; flags win'
  )
  for key, field in spec_lib.fields().items():
    if key in ('gin', *hidden):
      continue
    places = field.metadata['on']
    where = '' if places == spec_lib.BACKENDS else f' [{", ".join(places)}]'
    kwargs: dict[str, Any] = {'type': str, 'metavar': key.upper()}
    if field.type is bool:
      kwargs = {'action': argparse.BooleanOptionalAction}
    elif field.type is int:
      kwargs['type'] = int
    elif field.type is not str:
      kwargs['action'] = 'append'
    parser.add_argument(
        f'--{key}',
        dest=key,
        default=None,
        help=field.metadata['help'].replace('%', '%%') + where,
        **kwargs,
    )
  parser.epilog = 'Any --gin.NAME=VALUE sets a macro of the gin files.'


def split_gin(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
  """The other arguments, and {NAME: VALUE} of each --gin.NAME=VALUE."""
  rest, gin = [], {}
  for arg in argv:
    if not arg.startswith(_GIN):
      rest.append(arg)
      continue
    name, equals, value = arg.removeprefix(_GIN).partition('=')
    if not equals:
      raise ValueError(f'{arg}: must be {_GIN}NAME=VALUE.')
    gin[name] = value
  return rest, gin


def make_spec(
    args: argparse.Namespace, gin: Mapping[str, str], **fixed: Any
) -> spec_lib.JobSpec:
  """The job of the parsed flags.

  Args:
    args: Of a parser that `add` has added to.
    gin: Of `split_gin`.
    **fixed: Fields that neither flags nor the file decide.

  Raises:
    ValueError: something is missing or wrong.
  """
  values = load(args.job_file) if args.job_file else {}
  for key, field in spec_lib.fields().items():
    value = getattr(args, key, None)
    if value is None:
      continue
    if field.type == Mapping[str, str]:
      values[key] = {**values.get(key, {}), **_pairs(key, value)}
    else:
      values[key] = value
  if gin:
    values['gin'] = {**values.get('gin', {}), **gin}
  values.update(fixed)
  for key in ('name', 'workdir'):
    if key not in values:
      raise ValueError(f'--{key} must be given, or {key} in the job file.')
  return spec_lib.JobSpec(**values)


def _pairs(key: str, texts: Sequence[str]) -> dict[str, str]:
  pairs = {}
  for text in texts:
    name, equals, value = text.partition('=')
    if not equals:
      raise ValueError(f'--{key}={text!r}: must be --{key}=NAME=VALUE.')
    pairs[name] = value
  return pairs


def load(path: str) -> dict[str, Any]:
  """The fields in a job file; raises ValueError naming file and key."""
  values = load_toml(path)
  known = spec_lib.fields()
  for key in values:
    if key not in known:
      raise ValueError(
          f'{path}: unknown key {key!r}.' + spec_lib.suggestion(key, known)
      )
  gin = values.get('gin', {})
  if not isinstance(gin, dict):
    raise ValueError(f'{path}: gin must be a table: [gin] NAME = VALUE.')
  if gin:
    values['gin'] = {k: _gin_text(path, k, v) for k, v in gin.items()}
  return values


def load_toml(path: str) -> dict[str, Any]:
  """A TOML file; raises ValueError naming it if it is none, or not there."""
  try:
    return tomllib.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise ValueError(f'{path} does not exist.') from None
  except (ValueError, RecursionError) as error:  # No UTF-8, no TOML, a bomb.
    raise ValueError(f'{path}: {error}') from None


def _gin_text(path: str, name: str, value: Any) -> str:
  """A TOML value as gin has it; texts with @ or % at the start are gin's."""
  if isinstance(value, str):
    is_gin = value.startswith(('@', '%'))
    return value if is_gin else json.dumps(value, ensure_ascii=False)
  if isinstance(value, (bool, int, float, list)):
    return repr(value)
  raise ValueError(f'{path}: gin.{name} must be a text, number or list.')

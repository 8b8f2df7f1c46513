"""Flags that several commands share, and what they make of a source."""

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import re
import tempfile
import typing
from typing import Any

from data_prep.commands import engines

if typing.TYPE_CHECKING:
  from data_prep import privacy
  from data_prep import raw


def name(text: str) -> str:
  if not re.fullmatch(r'[a-z][a-z0-9_]*', text):
    raise argparse.ArgumentTypeError(
        f'{text!r} must be lower case letters, digits and _, a letter first'
    )
  return text


def fraction(text: str) -> float:
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text} must be between 0 and 1')
  return value


def add_output(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--output', required=True, metavar='DIR', help='the dataset to make'
  )
  parser.add_argument(
      '--overwrite',
      action='store_true',
      help='replace an earlier dataset there',
  )
  engines.add(parser)


def add_cleaning(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--min_user_events',
      type=int,
      default=1,
      metavar='N',
      help='k-core: fewest events of a user (default: %(default)s)',
  )
  parser.add_argument(
      '--min_item_events',
      type=int,
      default=1,
      metavar='N',
      help='k-core: fewest distinct users of an item (default: %(default)s)',
  )
  parser.add_argument(
      '--max_events_per_user',
      type=int,
      metavar='N',
      help='keep the most recent N of a user (default: all)',
  )
  parser.add_argument(
      '--max_reject_fraction',
      type=fraction,
      default=0.01,
      metavar='X',
      help='of bad rows a file, before it is refused (default: %(default)s)',
  )


def add_user_key(
    parser: argparse.ArgumentParser, *, may_create: bool = True
) -> None:
  parser.add_argument(
      '--user_key_file',
      metavar='FILE',
      help='key that hashes the user ids; only its owner may read it (mode '
      '0600). Default: that of the environment, USER_LLM_USER_KEY',
  )
  if may_create:
    parser.add_argument(
        '--create_user_key',
        action='store_true',
        help='make the file, with a new key, if it is absent',
    )


def optional_user_key(args: argparse.Namespace) -> 'privacy.UserKey | None':
  """The key, of a source whose publisher's ids are pseudonyms already."""
  from data_prep import privacy

  return privacy.load_user_key(args.user_key_file, create=args.create_user_key)


def required_user_key(args: argparse.Namespace) -> 'privacy.UserKey':
  """The key, of a source whose ids are real identities."""
  from data_prep import privacy

  return privacy.required_user_key(
      args.user_key_file, create=args.create_user_key, command=args.command
  )


def prepare(
    args: argparse.Namespace,
    read: Callable[[pathlib.Path], 'raw.RawDataset'],
    *,
    options: Mapping[str, Any],
) -> dict[str, Any]:
  """Makes --output of a source, and tells what it holds.

  Args:
    args: The command line; of `add_output` and perhaps `add_cleaning`.
    read: Parses the source into a directory that it is given.
    options: Flags of the source that shape the dataset, for the manifest; no
      paths, which would name the machine. Those of `add_cleaning` are added.

  Returns:
    The manifest.
  """
  from data_prep import cleaning as cleaning_lib
  from data_prep import outputs

  cleaning = cleaning_lib.CleaningConfig(**{
      field.name: getattr(args, field.name)
      for field in dataclasses.fields(cleaning_lib.CleaningConfig)
      if field.name in args
  })
  shared = {**dataclasses.asdict(cleaning), 'command': args.command}
  if 'max_reject_fraction' in args:
    shared['max_reject_fraction'] = args.max_reject_fraction
  with (
      outputs.output_directory(
          args.output, overwrite=args.overwrite
      ) as directory,
      tempfile.TemporaryDirectory(prefix='.work-', dir=directory) as work,
  ):
    manifest = engines.prepare(
        args,
        read,
        directory=directory,
        scratch=pathlib.Path(work),
        cleaning=cleaning,
        options={**shared, **options},
    )
  engines.clean_up(args)
  counts = ', '.join(
      f'{manifest["counts"][what]:,} {what}'
      for what in ('users', 'items', 'events', 'rejects')
  )
  if manifest['times']:
    counts += ', {} to {}'.format(*manifest['times'])
  print(f'{manifest["name"]}: {counts} -> {args.output}')
  return manifest

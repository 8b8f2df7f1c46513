"""Flags of the sources that are files of reviews."""

import argparse
import typing

from data_prep.commands import flags

if typing.TYPE_CHECKING:
  from data_prep import review_files


def add(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--input',
      required=True,
      action='append',
      metavar='FILE_OR_DIR',
      help='reviews, and metadata if there is any; may be given several times',
  )
  parser.add_argument('--name', required=True, type=flags.name)
  parser.add_argument(
      '--allow_truncated',
      action='store_true',
      help='use what is before the break of a gzip that breaks off',
  )
  flags.add_output(parser)
  flags.add_cleaning(parser)
  flags.add_user_key(parser)


def options(args: argparse.Namespace) -> 'review_files.ReadOptions':
  from data_prep import review_files

  return review_files.ReadOptions(
      user_key=flags.required_user_key(args),
      max_reject_fraction=args.max_reject_fraction,
      allow_truncated=args.allow_truncated,
  )

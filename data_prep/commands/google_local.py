"""python -m data_prep google_local."""

import argparse

from data_prep.commands import flags
from data_prep.commands import review_flags


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'google_local', help="Google Local's reviews of places of 2021"
  )
  review_flags.add(parser)
  parser.add_argument(
      '--max_categories',
      type=int,
      default=1,
      metavar='N',
      help="use the first N of a place's categories; the first is the main one "
      '(default: %(default)s)',
  )
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import google_local

  options = review_flags.options(args)
  flags.prepare(
      args,
      lambda scratch: google_local.read(
          inputs=args.input,
          name=args.name,
          scratch=scratch,
          options=options,
          max_categories=args.max_categories,
      ),
      options={
          'max_categories': args.max_categories,
          'allow_truncated': args.allow_truncated,
      },
  )

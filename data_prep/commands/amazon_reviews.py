"""python -m data_prep amazon_reviews."""

import argparse

from data_prep.commands import flags
from data_prep.commands import review_flags


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'amazon_reviews', help="Amazon's reviews of 2014, 2018 or 2023"
  )
  review_flags.add(parser)
  parser.add_argument(
      '--category_depth',
      type=int,
      default=2,
      metavar='N',
      help="which part of the path 'Books > Science > Physics' is an item's "
      'category, from 1; of a shorter path its last (default: %(default)s)',
  )
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import amazon_reviews

  options = review_flags.options(args)
  flags.prepare(
      args,
      lambda scratch: amazon_reviews.read(
          inputs=args.input,
          name=args.name,
          scratch=scratch,
          options=options,
          category_depth=args.category_depth,
      ),
      options={
          'category_depth': args.category_depth,
          'allow_truncated': args.allow_truncated,
      },
  )

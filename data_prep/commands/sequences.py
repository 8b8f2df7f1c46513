"""python -m data_prep sequences."""

import argparse

from data_prep.commands import flags


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'sequences', help="SASRec's layout: `user item` a line, in order of time"
  )
  parser.add_argument('--input', required=True, metavar='FILE')
  parser.add_argument('--name', required=True, type=flags.name)
  flags.add_output(parser)
  flags.add_cleaning(parser)
  flags.add_user_key(parser)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import sequences

  user_key = flags.optional_user_key(args)
  flags.prepare(
      args,
      lambda scratch: sequences.read(
          path=args.input,
          scratch=scratch,
          name=args.name,
          max_reject_fraction=args.max_reject_fraction,
          user_key=user_key,
      ),
      options={},
  )

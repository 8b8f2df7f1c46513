"""python -m data_prep table."""

import argparse

from data_prep.commands import flags


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'table', help='your own CSV, Parquet or JSONL, told by a TOML file'
  )
  parser.add_argument(
      '--description',
      required=True,
      metavar='TOML',
      help='which column is what; data_prep/table_description.py shows one',
  )
  parser.add_argument(
      '--name', type=flags.name, help='default: that of the description'
  )
  flags.add_output(parser)
  flags.add_cleaning(parser)
  flags.add_user_key(parser)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import table

  user_key = flags.required_user_key(args)
  flags.prepare(
      args,
      lambda scratch: table.read(
          description=args.description,
          scratch=scratch,
          user_key=user_key,
          name=args.name,
          max_reject_fraction=args.max_reject_fraction,
      ),
      options={},
  )

"""python -m data_prep table."""

import argparse
import pathlib

from data_prep.commands import flags

# Seconds that are taken for milliseconds are of January 1970.
_LIKELY_FROM = '1990'


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
  from data_prep import progress
  from data_prep import table
  from data_prep import table_description

  user_key = flags.required_user_key(args)
  manifest = flags.prepare(
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
  first, last = manifest['times']
  if last < _LIKELY_FROM:
    told = table_description.load(pathlib.Path(args.description)).events
    progress.warn(
        f'times are {first} to {last}: are time = "{told.time}" and '
        f'time_unit = "{told.time_unit}" right?'
    )

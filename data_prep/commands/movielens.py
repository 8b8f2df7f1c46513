"""python -m data_prep movielens."""

import argparse
import pathlib
import typing

from data_prep.commands import flags

if typing.TYPE_CHECKING:
  from data_prep import raw


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'movielens', help='MovieLens, in any of its layouts'
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
      '--input', metavar='DIR_OR_ZIP', help='as GroupLens publishes it'
  )
  source.add_argument(
      '--download',
      choices=('100k', '1m', '20m', '32m', 'latest-small'),
      help='fetch it from GroupLens to the directory that holds --output',
  )
  parser.add_argument(
      '--name', type=flags.name, help='default: movielens_100k and so on'
  )
  flags.add_output(parser)
  flags.add_cleaning(parser)
  flags.add_user_key(parser)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import download
  from data_prep import movielens

  user_key = flags.optional_user_key(args)

  def read(scratch: pathlib.Path) -> 'raw.RawDataset':
    source = args.input
    if args.download:
      (source,) = download.fetch(
          'movielens',
          args.download,
          directory=pathlib.Path(args.output).absolute().parent,
      )
    return movielens.read(
        path=str(source),
        scratch=scratch,
        name=args.name,
        max_reject_fraction=args.max_reject_fraction,
        user_key=user_key,
    )

  flags.prepare(args, read, options={})

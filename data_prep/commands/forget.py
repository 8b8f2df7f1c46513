"""python -m data_prep forget."""

import argparse
import pathlib

from data_prep.commands import flags


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'forget', help='take users out of a prepared dataset'
  )
  parser.add_argument('--dataset', required=True, metavar='DIR')
  parser.add_argument(
      '--users',
      required=True,
      metavar='FILE',
      help="upstream's ids of the users, one a line",
  )
  flags.add_user_key(parser, may_create=False)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import forget
  from data_prep import privacy

  dataset = pathlib.Path(args.dataset)
  users = forget.read_users(
      args.users,
      forget.load_manifest(dataset),
      privacy.load_user_key(args.user_key_file),
  )
  found = forget.forget(dataset, users)
  print(
      f'{dataset}: {found.users:,} of {len(users):,} users were there; their '
      f'{found.events:,} events are gone, {found.shards:,} record files are '
      'new. Embeddings and models that were made before still hold what they '
      'learnt, and the source still has the users.'
  )

"""python -m data_prep synthetic."""

import argparse
import dataclasses

from data_prep.commands import flags

# Defaults of `world.WorldConfig`, which takes long to load, and words.
WORLD_SIZES = {
    'num_users': (4000, 'users'),
    'num_items': (240, 'items'),
    'num_genres': (12, 'genres of items'),
    'num_tastes': (5, 'tastes of users; each has a favourite genre'),
    'num_themes': (4, 'themes of items, which cut across genres'),
    'min_events': (25, 'fewest events of a user'),
    'max_events': (60, 'most events of a user, at most half of the items'),
}


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'synthetic', help='a small world with known rules and a known optimum'
  )
  parser.add_argument(
      '--seed',
      type=int,
      default=0,
      metavar='N',
      help='another one is another world (default: %(default)s)',
  )
  parser.add_argument(
      '--name',
      type=flags.name,
      default='synthetic',
      help="the dataset's (default: %(default)s)",
  )
  for flag, (default, told) in WORLD_SIZES.items():
    parser.add_argument(
        f'--{flag}',
        type=int,
        default=default,
        metavar='N',
        help=f'{told} (default: %(default)s)',
    )
  flags.add_output(parser)
  flags.add_user_key(parser)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import synthetic
  from data_prep import world

  config = world.WorldConfig(**{s: getattr(args, s) for s in WORLD_SIZES})
  user_key = flags.optional_user_key(args)
  flags.prepare(
      args,
      lambda scratch: synthetic.read(
          config,
          seed=args.seed,
          scratch=scratch,
          name=args.name,
          user_key=user_key,
      ),
      options={'seed': args.seed, **dataclasses.asdict(config)},
  )

"""python -m data_prep synthetic."""

import argparse
import dataclasses

from data_prep.commands import flags

_WORLD_SIZES = (
    'num_users',
    'num_items',
    'num_genres',
    'num_tastes',
    'num_themes',
    'min_events',
    'max_events',
)


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'synthetic', help='a small world with known rules and a known optimum'
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--name', type=flags.name, default='synthetic')
  for flag in _WORLD_SIZES:
    parser.add_argument(f'--{flag}', type=int, metavar='N')
  flags.add_output(parser)
  flags.add_user_key(parser)
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import synthetic
  from data_prep import world

  sizes = {
      size: getattr(args, size)
      for size in _WORLD_SIZES
      if getattr(args, size) is not None
  }
  config = world.WorldConfig(**sizes)
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

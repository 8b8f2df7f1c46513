"""Prepares datasets: python -m data_prep {movielens,sequences,synthetic} ..."""

import argparse
from collections.abc import Mapping
import dataclasses
import pathlib
import re
import signal
import sys
import tempfile
import typing
from typing import Any

if typing.TYPE_CHECKING:
  from data_prep import common

_WORLD_SIZES = (
    'num_users',
    'num_items',
    'num_genres',
    'num_tastes',
    'num_themes',
    'min_events',
    'max_events',
)


def _name(text: str) -> str:
  if not re.fullmatch(r'[a-z][a-z0-9_]*', text):
    raise argparse.ArgumentTypeError(
        f'{text!r} must be lower case letters, digits and _, a letter first'
    )
  return text


def _fraction(text: str) -> float:
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text} must be between 0 and 1')
  return value


def _add_common(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--output', required=True, metavar='DIR', help='the dataset to make'
  )
  parser.add_argument(
      '--overwrite',
      action='store_true',
      help='replace an earlier dataset there',
  )


def _add_cleaning(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--min_user_events',
      type=int,
      default=1,
      metavar='N',
      help='k-core: fewest events of a user (default: %(default)s)',
  )
  parser.add_argument(
      '--min_item_events',
      type=int,
      default=1,
      metavar='N',
      help='k-core: fewest events of an item (default: %(default)s)',
  )
  parser.add_argument(
      '--max_reject_fraction',
      type=_fraction,
      default=0.01,
      metavar='X',
      help='of bad rows a file, before it is refused (default: %(default)s)',
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='data_prep', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)

  movielens = commands.add_parser(
      'movielens', help='MovieLens, in any of its layouts'
  )
  source = movielens.add_mutually_exclusive_group(required=True)
  source.add_argument(
      '--input', metavar='DIR_OR_ZIP', help='as GroupLens publishes it'
  )
  source.add_argument(
      '--download',
      choices=('100k', '1m', '20m', '32m', 'latest-small'),
      help='fetch it from GroupLens to the directory that holds --output',
  )
  movielens.add_argument(
      '--name', type=_name, help='default: movielens_100k and so on'
  )
  _add_common(movielens)
  _add_cleaning(movielens)
  movielens.set_defaults(run=_movielens)

  sequences = commands.add_parser(
      'sequences', help="SASRec's layout: `user item` a line, in order of time"
  )
  sequences.add_argument('--input', required=True, metavar='FILE')
  sequences.add_argument('--name', required=True, type=_name)
  _add_common(sequences)
  _add_cleaning(sequences)
  sequences.set_defaults(run=_sequences)

  synthetic = commands.add_parser(
      'synthetic', help='a small world with known rules and a known optimum'
  )
  synthetic.add_argument('--seed', type=int, default=0)
  synthetic.add_argument('--name', type=_name, default='synthetic')
  for flag in _WORLD_SIZES:
    synthetic.add_argument(f'--{flag}', type=int, metavar='N')
  _add_common(synthetic)
  synthetic.set_defaults(run=_synthetic)
  return parser


def _write(
    args: argparse.Namespace,
    directory: pathlib.Path,
    raw: 'common.RawDataset',
    *,
    options: Mapping[str, Any],
    cleaning: 'common.CleaningConfig',
    extra_files: Mapping[str, str] | None = None,
) -> None:
  from data_prep import common

  manifest = common.prepare(
      raw,
      directory=directory,
      cleaning=cleaning,
      # Paths do not shape the dataset, and would name the machine.
      options={'command': args.command, **options},
      extra_files=extra_files,
  )
  counts = ', '.join(f'{n:,} {what}' for what, n in manifest['counts'].items())
  print(f'{manifest["name"]}: {counts} -> {args.output}')


def _cleaning(args: argparse.Namespace) -> 'common.CleaningConfig':
  from data_prep import common

  return common.CleaningConfig(
      min_user_events=args.min_user_events,
      min_item_events=args.min_item_events,
  )


def _cleaning_options(args: argparse.Namespace) -> dict[str, Any]:
  return {
      'min_user_events': args.min_user_events,
      'min_item_events': args.min_item_events,
      'max_reject_fraction': args.max_reject_fraction,
  }


def _movielens(args: argparse.Namespace) -> None:
  from data_prep import download
  from data_prep import movielens
  from data_prep import outputs

  cleaning = _cleaning(args)
  with outputs.output_directory(
      args.output, overwrite=args.overwrite
  ) as directory:
    source = args.input
    if args.download:
      source = download.fetch(
          args.download, directory=pathlib.Path(args.output).absolute().parent
      )
    raw = movielens.read(
        path=str(source),
        scratch=directory,
        name=args.name,
        max_reject_fraction=args.max_reject_fraction,
    )
    _write(
        args,
        directory,
        raw,
        options=_cleaning_options(args),
        cleaning=cleaning,
    )


def _sequences(args: argparse.Namespace) -> None:
  from data_prep import outputs
  from data_prep import sequences

  cleaning = _cleaning(args)
  with outputs.output_directory(
      args.output, overwrite=args.overwrite
  ) as directory:
    raw = sequences.read(
        path=args.input,
        name=args.name,
        max_reject_fraction=args.max_reject_fraction,
    )
    _write(
        args,
        directory,
        raw,
        options=_cleaning_options(args),
        cleaning=cleaning,
    )


def _synthetic(args: argparse.Namespace) -> None:
  from data_prep import common
  from data_prep import movielens
  from data_prep import outputs
  from data_prep import synthetic
  from data_prep import world

  sizes = {
      size: getattr(args, size)
      for size in _WORLD_SIZES
      if getattr(args, size) is not None
  }
  config = world.WorldConfig(**sizes)
  with outputs.output_directory(
      args.output, overwrite=args.overwrite
  ) as directory:
    with tempfile.TemporaryDirectory(dir=directory) as upstream:
      bayes = synthetic.simulate(
          config, seed=args.seed, directory=pathlib.Path(upstream)
      )
      raw = movielens.read(path=upstream, scratch=directory, name=args.name)
    _write(
        args,
        directory,
        raw,
        options={'seed': args.seed, **dataclasses.asdict(config)},
        cleaning=common.CleaningConfig(),
        extra_files={synthetic.BAYES_FILE: bayes},
    )


def main(argv: list[str] | None = None) -> int:
  """Returns the exit code: 2 for what the user can mend."""
  args = _parser().parse_args(argv)
  try:
    args.run(args)
  except (ValueError, OSError) as error:
    print(f'data_prep: error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('data_prep: interrupted; nothing is left behind.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  # As an exception, so that the half-written directory is removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())

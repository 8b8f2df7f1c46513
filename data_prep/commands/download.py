"""python -m data_prep download."""

import argparse
import pathlib

from data_prep import download_registry


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'download',
      help='fetch a dataset as it is published',
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog='\n'.join(
          f'{name}: PART is {source.part}'
          for name, source in download_registry.SOURCES.items()
      ),
  )
  parser.add_argument(
      'source', choices=download_registry.SOURCES, metavar='SOURCE'
  )
  parser.add_argument('part', metavar='PART')
  parser.add_argument(
      '--directory', required=True, metavar='DIR', help='where to put the files'
  )
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import download

  directory = pathlib.Path(args.directory)
  for path in download.fetch(args.source, args.part, directory=directory):
    print(path)

"""Flags of the engines, and the engine that they choose."""

import argparse
from collections.abc import Callable, Mapping
import os
import pathlib
import typing
from typing import Any

if typing.TYPE_CHECKING:
  from data_prep import beam_work
  from data_prep import cleaning as cleaning_lib
  from data_prep import raw

# What does not shape the dataset.
_NOT_IDENTITY = (
    'beam_options',
    'create_user_key',
    'engine',
    'memory_gib',
    'output',
    'overwrite',
    'run',
    'runner',
    'work_dir',
)


def add(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
      '--memory_gib',
      type=float,
      default=2.0,
      metavar='GIB',
      help='of strings and texts, before they go to disk beside --output '
      '(default: %(default)s); ids and times need about 60 bytes a row more',
  )
  parser.add_argument(
      '--engine',
      choices=('local', 'beam'),
      default='local',
      help='local: this machine, for any size that its disk holds; beam: a '
      'cluster, by Apache Beam (default: %(default)s)',
  )
  parser.add_argument(
      '--runner',
      help='of --engine=beam: FlinkRunner, SparkRunner, DataflowRunner, or '
      "DirectRunner (the default) for a little data; the runner's own flags "
      'come last, after --',
  )
  parser.add_argument(
      '--work_dir',
      metavar='DIR',
      help='of --engine=beam: what the workers and this machine share, such as '
      'a network file system or gs://...; the same command goes on from there '
      'if it dies, and deletes it in the end (default: beside --output)',
  )


def prepare(
    args: argparse.Namespace,
    read: 'Callable[[pathlib.Path], raw.RawDataset]',
    *,
    directory: pathlib.Path,
    scratch: pathlib.Path,
    cleaning: 'cleaning_lib.CleaningConfig',
    options: Mapping[str, Any],
) -> dict[str, Any]:
  """Makes a dataset by the engine of the flags; returns its manifest."""
  shared = {
      'directory': directory,
      'scratch': scratch,
      'cleaning': cleaning,
      'options': options,
  }
  if args.engine == 'local':
    from data_prep import engine

    if args.runner or args.work_dir:
      raise ValueError('--runner and --work_dir are for --engine=beam.')
    if args.memory_gib <= 0:
      raise ValueError(f'--memory_gib must be positive, got {args.memory_gib}.')
    return engine.prepare(read(scratch), memory_gib=args.memory_gib, **shared)
  try:
    import apache_beam as _
  except ImportError as error:
    raise ValueError(
        "--engine=beam needs Apache Beam: pip install '.[beam]'."
    ) from error
  from data_prep import beam_engine
  from data_prep import beam_runner

  runner = beam_runner.Runner(
      args.runner or beam_runner.DIRECT, args.beam_options
  )
  runner.check_size(sum(p.stat().st_size for p in _input_files(args)))
  return beam_engine.prepare(
      read, work=_work_directory(args), runner=runner, **shared
  )


def clean_up(args: argparse.Namespace) -> None:
  """Deletes what only an engine needed, once the dataset is there."""
  if args.engine == 'beam':
    _work_directory(args).delete()


def _work_directory(args: argparse.Namespace) -> 'beam_work.WorkDirectory':
  from data_prep import beam_work
  from data_prep import privacy
  from user_llm.data import schema

  output = pathlib.Path(os.path.abspath(args.output))
  key = None
  if 'user_key_file' in args:
    key = privacy.load_user_key(
        args.user_key_file, create=args.create_user_key
    )
  return beam_work.WorkDirectory(
      args.work_dir or str(output.with_name(f'.{output.name}.beam')),
      {
          'format_version': schema.FORMAT_VERSION,
          'arguments': {
              name: value
              for name, value in vars(args).items()
              if name not in _NOT_IDENTITY
          },
          'user_key_id': key and key.id,
          'files': {
              str(path): [path.stat().st_size, path.stat().st_mtime_ns]
              for path in _input_files(args)
          },
      },
  )


def _input_files(args: argparse.Namespace) -> list[pathlib.Path]:
  """The files that the flags name, or that are in directories they name."""
  if 'description' in args:
    return _described_files(pathlib.Path(args.description))
  given = getattr(args, 'input', None) or []
  files = []
  for path in map(pathlib.Path, [given] if isinstance(given, str) else given):
    files += sorted(path.rglob('*')) if path.is_dir() else [path]
  return [path for path in files if path.is_file()]


def _described_files(path: pathlib.Path) -> list[pathlib.Path]:
  from data_prep import table_description

  described = table_description.load(path)
  sections = filter(None, (described.events, described.items))
  patterns = [pattern for section in sections for pattern in section.files]
  return [f for p in patterns for f in sorted(path.parent.glob(p))]

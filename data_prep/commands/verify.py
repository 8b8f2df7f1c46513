"""python -m data_prep verify."""

import argparse
import pathlib


def add(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
      'verify', help='read every byte of a prepared dataset, and compare'
  )
  parser.add_argument('dataset', metavar='DIR')
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from data_prep import progress
  from user_llm.data import manifest as manifest_lib
  from user_llm.data import schema

  dataset = args.dataset
  manifest = manifest_lib.load(dataset)
  damages = []
  names = sorted(manifest['files'])
  with progress.stage('checksums', total=len(names), unit='files') as stage:
    for name in names:
      damages += manifest_lib.differences(
          dataset, manifest, [name], digests=True
      )
      stage.advance(1)
  records = manifest_lib.record_files(manifest)
  found = {path.name for path in pathlib.Path(dataset).glob('*.tfrecord-*')}
  damages += [
      f'{name} is not listed' for name in sorted(found - set(records))
  ]
  if damages:
    raise ValueError(manifest_lib.damage_text(dataset, damages))
  schema.load_schema(data_dir=dataset)
  num_bytes = sum(entry['bytes'] for entry in manifest['files'].values())
  print(
      f'{dataset}: {len(names)} files of {num_bytes:,} bytes are what '
      f'{schema.MANIFEST_FILE} says, {manifest["counts"]["users"]:,} users and '
      f'{manifest["counts"]["events"]:,} events.'
  )

"""`python -m launch paper --table NAME --data DIR --scale NAME --out FOLDER`.

Trains what a table of the paper needs and shows it, ours beside what others
have published. The same command again goes on; another table in the same folder
shares its runs.
"""

import argparse
from collections.abc import Callable
import dataclasses
import hashlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import ContextManager, TextIO

from launch import exit_codes
from launch import files
from launch.paper import render
from launch.paper import spec as spec_lib
from launch.paper import workflow

HELP = "train and show the paper's tables on any prepared dataset"
_SYNTHETIC = 'synthetic'
_ALL = 'all'
_FACTS = 'paper.json'
_NO_LABELS = 'items have neither genres nor categories'


def add_flags(parser: argparse.ArgumentParser) -> None:
  tables = [*spec_lib.load_tables(), _ALL]
  parser.add_argument(
      '--table', action='append', required=True, choices=tables,
      help='more than once for several',
  )
  parser.add_argument(
      '--data', required=True, metavar='DIR',
      help=f'a prepared dataset, or "{_SYNTHETIC}", which is made',
  )
  parser.add_argument(
      '--scale', default='tiny', metavar='NAME',
      help=f'{", ".join(spec_lib.scales())}, or a TOML file like theirs; with '
      "from = 'small' one of what is different",
  )
  parser.add_argument(
      '--out', type=pathlib.Path, required=True, metavar='FOLDER',
      help='runs, and what is rendered',
  )
  parser.add_argument(
      '--weights', metavar='PATH',
      help='of a pretrained decoder, for a scale that has one',
  )
  parser.add_argument(
      '--parallel', type=int, default=1, metavar='N',
      help='runs at a time (default: 1)',
  )
  parser.add_argument(
      '--plan', action='store_true', help='show the commands, and do nothing'
  )


def run(
    args: argparse.Namespace,
    calls: Callable[..., ContextManager[workflow.Call]] = workflow.alone,
) -> int:
  """Returns 0, or 1 if a row is missing because its run has failed.

  Args:
    args: Of `add_flags`.
    calls: Gives, for a folder, what does a command.

  Raises:
    ValueError: what the user can mend; nothing was trained.
  """
  start = time.monotonic()
  scale = spec_lib.load_scale(args.scale)
  if args.parallel < 1:
    raise ValueError(f'--parallel={args.parallel} must be 1 or more.')
  if scale.is_pretrained != (args.weights is not None):
    raise ValueError(
        f'--scale={args.scale} takes a pretrained decoder: give --weights.'
        if scale.is_pretrained
        else f'--scale={args.scale} trains its own decoder: drop --weights.'
    )
  if args.weights and not pathlib.Path(args.weights).exists():
    raise ValueError(f'--weights={args.weights} does not exist.')
  out = args.out.absolute()
  data = _data(args, out)
  if args.plan and not data.exists():
    raise ValueError('--plan needs data that exist: give their --data=DIR.')
  if not data.exists():
    _prepare(data)
  label, texts = workflow.read_schema(data)
  _keep_facts(args, out, scale, data)
  tables = [
      spec_lib.titled(table, scale)
      for table in _tables(args.table, label, texts)
  ]
  names = [name for table in tables for name in table.runs]
  jobs = workflow.make_jobs(spec_lib.needed(names, scale), scale, out / 'runs')
  inputs = workflow.Inputs(
      data=data,
      label=label,
      vocabulary=None if scale.is_pretrained else out / 'vocabulary.model',
      weights=args.weights and str(pathlib.Path(args.weights).absolute()),
  )
  commands = {job.workdir: workflow.argv(job, scale, inputs) for job in jobs}
  if args.plan:
    for job in jobs:
      done = '# done\n' if job.is_done else ''
      print(done + shlex.join(['python', *commands[job.workdir][1:]]))
    return exit_codes.DONE
  (out / 'runs').mkdir(parents=True, exist_ok=True)
  if inputs.vocabulary is not None and not inputs.vocabulary.exists():
    _make_vocabulary(inputs.vocabulary, data, scale.vocabulary_size)
  print(f'{len(jobs)} runs in {out / "runs"}', flush=True)
  # Ctrl-C ends us at once: it must not wait for the threads.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  with calls(out) as call:
    failed = workflow.Workflow(jobs, commands, args.parallel, call).run()
  text = '\n'.join(
      render.table(table, out / 'runs', scale.seeds, failed)
      for table in tables
  )
  name = '_'.join(args.table)
  path = out / f'{name}.md'
  files.write(path, text)
  print(f'\n{text}\n{path}, after {(time.monotonic() - start) / 60:.1f} min')
  of = args.data if args.data == _SYNTHETIC else data.name
  _report(jobs, out / f'{name}_report.html', f'{of}, {scale.name}: {name}')
  return 1 if failed else exit_codes.DONE


def _tables(
    asked: list[str], label: str, texts: tuple[str, ...]
) -> list[spec_lib.Table]:
  """Those that the data can fill.

  Raises:
    ValueError: one was asked for that they cannot.
  """
  runs, found = spec_lib.load_runs(), []
  for name, table in spec_lib.load_tables().items():
    if name not in asked and _ALL not in asked:
      continue
    lacks = [f'events have no {runs[run].text}' for run in table.runs
             if runs[run].text not in ('', *texts)]
    if table.labels and not label:
      lacks.append(_NO_LABELS)
    if lacks and name in asked:
      raise ValueError(f'--table={name}: in --data {lacks[0]}.')
    if lacks:
      print(f'no table {name}: {lacks[0]}')
      continue
    without = [row for row in table.rows if runs[row.run].labels and not label]
    for row in without:
      print(f'no row {row.title} in table {name}: {_NO_LABELS}')
    rows = tuple(row for row in table.rows if row not in without)
    found.append(dataclasses.replace(table, rows=rows))
  return found


def _data(args: argparse.Namespace, out: pathlib.Path) -> pathlib.Path:
  if args.data == _SYNTHETIC:
    return out / 'data'
  data = pathlib.Path(args.data).absolute()
  if not data.is_dir():
    raise ValueError(f'--data={args.data} is no folder.')
  return data


def _keep_facts(
    args: argparse.Namespace,
    out: pathlib.Path,
    scale: spec_lib.Scale,
    data: pathlib.Path,
) -> None:
  """Writes what the folder's runs are of; refuses a folder of others.

  More tables and more seeds may come, other sizes may not, nor data that were
  prepared anew into the same place.
  """
  facts = {
      'data': str(data),
      'manifest': _digest(data / 'manifest.json'),
      'weights': args.weights,
      'decoder': scale.decoder,
      'vocabulary_size': scale.vocabulary_size,
      'sections': {k: dict(v) for k, v in sorted(scale.sections.items())},
  }
  path = out / _FACTS
  if path.is_file():
    old = json.loads(path.read_text(encoding='utf-8'))
    other = [key for key in facts if old.get(key) != facts[key]]
    if other == ['manifest']:
      raise ValueError(
          f'--out={args.out}: the data of its runs are not those that {data} '
          f'has now (its {_FACTS}: another manifest): give another folder.'
      )
    if other:
      raise ValueError(
          f'--out={args.out} has runs of another {", ".join(other)} (its '
          f'{_FACTS}): give another folder.'
      )
  elif not args.plan:
    out.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(facts, indent=1) + '\n')


def _digest(path: pathlib.Path) -> str:
  """16 hex digits of a SHA-256.

  Raises:
    ValueError: there is no such file.
  """
  if not path.is_file():
    raise ValueError(
        f'{path} does not exist: the preparation did not finish. Run '
        '`python -m data_prep` again.'
    )
  return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _prepare(data: pathlib.Path) -> None:
  _step('data_prep', _SYNTHETIC, f'--output={data}', f'--name={_SYNTHETIC}')


def _make_vocabulary(path: pathlib.Path, data: pathlib.Path, size: int) -> None:
  _step(
      'user_llm.data.vocabulary',
      f'--data_dir={data}', f'--output={path}', f'--size={size}',
  )


def _report(
    jobs: list[workflow.Job], path: pathlib.Path, title: str
) -> None:
  """The page with curves and bars of the runs that are done."""
  folders = [str(job.workdir) for job in jobs if job.is_done]
  if folders:
    with path.with_suffix('.log').open('w', encoding='utf-8') as log:
      _step(
          'user_llm.report',
          '--workdirs', *folders, f'--output={path}', f'--title={title}',
          output=log,
      )
    print(f'Report: {path}')


def _step(module: str, *flags: str, output: TextIO | None = None) -> None:
  """Runs a command of ours; its output is shown, or goes into a file.

  Raises:
    ValueError: it has failed, and has said why.
  """
  argv = [sys.executable, '-m', module, *flags]
  environment = {'TF_CPP_MIN_LOG_LEVEL': '3', **os.environ}
  code = subprocess.run(
      argv, check=False, env=environment, stdout=output
  ).returncode
  if code:
    raise ValueError(
        f'{exit_codes.describe(exit_codes.of_process(code))}: '
        f'{shlex.join(["python", *argv[1:]])}'
    )

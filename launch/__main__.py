"""Starts jobs anywhere, and finds them again: python -m launch COMMAND ..."""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import sys

from launch import backends
from launch import doctor
from launch import entry
from launch import flags
from launch import plan as plan_lib
from launch import records
from launch import snapshot
from launch import spec as spec_lib
from launch.backends import backend
from launch.paper import command as paper
from launch.sweep import command as sweep

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_HELP = {
    'run': 'train',
    'eval': 'measure the checkpoint of a workdir',
    'infer': 'answer questions about users',
    'embed': 'write user embeddings',
    'render': 'show files and commands of a job, and do nothing',
    'status': 'how a submitted job is; without a name, all of them',
    'logs': "show a rank's log",
    'stop': 'save where possible, and end',
    'resume': 'submit a job of before again, from its last checkpoint',
    'doctor': 'check that a place to run is ready',
    'sweep': sweep.HELP,
    'paper': paper.HELP,
}
_SWEEP_ON = (
    'a sweep submits nothing: start the same command, as often as you like, on '
    'any machine that sees its folder, such as in a SLURM array'
)


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit code: 2 for what the user can mend."""
  try:
    rest, gin = flags.split_gin(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(rest)
    if args.command in ('status', 'logs', 'stop', 'resume'):
      return _of_job(args)
    if args.command == 'doctor':
      return _doctor(args, gin)
    if args.command == 'sweep':
      if args.on:
        raise ValueError(f'--on={args.on}: {_SWEEP_ON}.')
      return sweep.run(args, gin)
    if args.command == 'paper':
      _no_macros(gin)
      return paper.run(args)
    fixed = {}
    if args.command in spec_lib.MODES:
      fixed['mode'] = spec_lib.MODES[args.command]
    spec = flags.make_spec(args, gin, **fixed)
    if args.command == 'render' or args.dry_run:
      return _render(spec, args.out if args.command == 'render' else None)
    return _submit(spec, args.new)
  except (ValueError, OSError) as error:
    print(f'launch: error: {error}', file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m launch', description=__doc__, allow_abbrev=False
  )
  commands = parser.add_subparsers(dest='command', required=True)
  for name, text in _HELP.items():
    sub = commands.add_parser(name, help=text, allow_abbrev=False)
    if name in spec_lib.MODES:
      flags.add(sub, hidden=('mode', 'submission'))
      sub.add_argument('--dry_run', action='store_true', help='as `render`')
      sub.add_argument(
          '--new', action='store_true',
          help='replace a job of this name that was another one',
      )
    elif name == 'render':
      flags.add(sub)
      sub.add_argument('--out', type=pathlib.Path, help='folder for the files')
    elif name == 'doctor':
      flags.add(sub)
    elif name == 'sweep':
      sweep.add_flags(sub)
      sub.add_argument('--on', metavar='', help=_SWEEP_ON)
    elif name == 'paper':
      paper.add_flags(sub)
    else:
      sub.add_argument('name', nargs='?' if name == 'status' else None)
    if name == 'logs':
      sub.add_argument('--rank', type=int, default=0)
      sub.add_argument('--follow', action='store_true')
  return parser


def _no_macros(gin: Mapping[str, str]) -> None:
  if gin:
    raise ValueError(
        f'--gin.{next(iter(gin))}: the macros of all runs are in the file that '
        '--scale names; give one of yours.'
    )


def _with_code(
    spec: spec_lib.JobSpec,
) -> tuple[spec_lib.JobSpec, snapshot.Snapshot | None]:
  if spec.code or not backends.get(spec.backend).needs_code:
    return spec, None
  taken = snapshot.take(_ROOT)
  return dataclasses.replace(spec, code=taken.name), taken


def _render(spec: spec_lib.JobSpec, out: pathlib.Path | None) -> int:
  spec, _ = _with_code(spec)
  plan = backends.get(spec.backend).render(spec)
  if out is None:
    print(plan.text(), end='')
  else:
    plan.write(out)
    (out / 'plan.txt').write_text(plan.text(), encoding='utf-8')
  return 0


def _submit(spec: spec_lib.JobSpec, is_new: bool) -> int:
  """Submits a job, or says that it runs already."""
  place = backends.get(spec.backend)
  old = records.find(spec.name)
  if old is not None:
    if backends.get(old.spec.backend).is_active(old.spec, old.handle):
      raise ValueError(
          f'{spec.name} is running. See it: python -m launch status '
          f'{spec.name}; end it: python -m launch stop {spec.name}'
      )
    difference = records.difference(old.spec, spec)
    if difference and not is_new:
      raise ValueError(
          f'{spec.name} was submitted before as another job. Choose another '
          f'--name, or replace it by --new:\n{difference}'
      )
    number = old.spec.submission + 1
    spec = dataclasses.replace(spec, submission=number)
  folder = records.folder(spec.name)
  spec, taken = _with_code(spec)
  plan = place.render(spec)
  if taken is not None:
    taken.unpack(folder / 'code')
  plan.write(folder)

  def keep_handle(handle: str) -> None:
    records.Record(spec=spec, handle=handle).save()

  return place.submit(spec, plan, keep_handle)


def _of_job(args: argparse.Namespace) -> int:
  """Commands on a job that was submitted before."""
  if args.name is None:
    for name in records.names():
      record = records.get(name)
      print(f'{name}  {record.spec.on}  {record.spec.workdir}')
    return 0
  record = records.get(args.name)
  spec, handle = record.spec, record.handle
  place = backends.get(spec.backend)
  if args.command == 'resume':
    return _submit(dataclasses.replace(spec, code=''), is_new=False)
  if args.command == 'status':
    print(_summary(spec))
    return _run(place.status(spec, handle))
  if args.command == 'logs':
    return _run(place.logs(spec, handle, args.rank, args.follow))
  if spec.backend == 'local' and not place.is_active(spec, handle):
    raise ValueError(f'{spec.name} is not running.')
  return _run(place.stop(spec, handle))


def _summary(spec: spec_lib.JobSpec) -> str:
  """What the workdir tells, if this machine sees it."""
  text = f'{spec.name} on {spec.on}, submission {spec.submission}'
  starts = pathlib.Path(spec.workdir) / entry.STARTS
  if not starts.is_file():
    return text
  rows = map(json.loads, starts.read_text(encoding='utf-8').splitlines())
  times = [row['time'] for row in rows if row['job'] == spec.name]
  step = entry.newest_step(starts.parent)
  return f'{text}: {len(times)} starts, the last at {times[-1]}; step {step}'


def _run(steps: Sequence[plan_lib.Step]) -> int:
  """Runs all; returns the first code that is not 0."""
  codes = [backend.run(step.argv).returncode for step in steps]
  return next((code for code in codes if code), 0)


def _doctor(args: argparse.Namespace, gin: Mapping[str, str]) -> int:
  """With a whole job also whether it would be taken."""
  if args.job_file or args.name:
    spec, _ = _with_code(flags.make_spec(args, gin))
    return doctor.report(spec.backend, spec)
  place = (args.on or 'local').partition(':')[0]
  if place not in spec_lib.BACKENDS:
    raise ValueError(f'--on={place}: one of {", ".join(spec_lib.BACKENDS)}.')
  return doctor.report(place, None)


if __name__ == '__main__':
  sys.exit(main())

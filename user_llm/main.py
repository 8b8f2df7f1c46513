"""The one binary: `python -m user_llm.main MODE ...`, see `--help`.

  python -m user_llm.main train --gin_file=experiments/x.gin \
      --gin.NUM_STEPS=1000 --workdir=runs/x
  python -m user_llm.main evaluate --workdir=runs/x

gin files bind the parameters of the entry functions; `--gin.NAME=VALUE` sets a
macro of theirs. Exit code: 0 done, 2 user error (one message on stderr), 42
stopped by SIGTERM or --deadline and saved, 43 no step for too long, 44 a loss
that is not finite, 46 another process trains in the workdir, 47 one of several
processes could not save, 137 out of memory, else a bug.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib
import os
import pathlib
import stat
import sys
import time

from user_llm import atomic
from user_llm import gin_text
from user_llm import quiet
from user_llm import topologies
from user_llm import user_errors
from user_llm.runtime import distributed
from user_llm.runtime import goodput  # pylint: disable=unused-import
from user_llm.runtime import host_memory
from user_llm.runtime import lease
from user_llm.runtime import starts

# Exit code of a run that would end so again.
_NOT_FINITE = 44
# As of a process that was killed for it: another machine may have more.
_OUT_OF_MEMORY = 137
# Entry functions by mode, imported only when needed: the help stays fast.
_ENTRY_POINTS = {
    mode: f'user_llm.{mode}:{mode}'
    for mode in ('train', 'evaluate', 'infer', 'embed', 'export', 'cost')
}
# What --gin_file's help says of the files that come before it.
_FIRST_FILES = {
    'train': '', 'check': '', 'cost': '; runs/cost.gin comes first'
}
_MODE_HELP = {
    'train': 'train a model, or resume a run that was stopped',
    'evaluate': 'measure the checkpoint of a workdir',
    'infer': 'answer questions about users, JSONL in and out',
    'embed': 'write user embeddings, JSONL in',
    'export': "write a workdir's decoder as Hugging Face's libraries read it",
    'cost': 'count and time one request, beside a text prompt',
    'check': 'parse variants of a training and trace their shapes, JSONL in',
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one mode; returns the process's exit code."""
  start_secs = time.monotonic()
  argv = sys.argv[1:] if argv is None else argv
  overrides = [
      arg.removeprefix('--gin.') for arg in argv if arg.startswith('--gin.')
  ]
  args = _parser().parse_args(
      [arg for arg in argv if not arg.startswith('--gin.')]
  )
  try:
    _prepare_environment()
    if getattr(args, 'topology', None) is not None:
      if not args.dry_run:
        raise ValueError('--topology goes with --dry_run: add it.')
      topologies.prepare(args.topology)
    is_writer = distributed.initialize()
    starts.note()
    if getattr(args, 'deadline', None) is not None:
      args.deadline += start_secs
    is_training = args.mode == 'train' and not args.dry_run and is_writer
    with (
        lease.exclusive(pathlib.Path(args.workdir))
        if is_training
        else contextlib.nullcontext()
    ):
      _run(args, overrides, is_writer)
  except FloatingPointError as error:
    print(f'error: {error}', file=sys.stderr)
    return _NOT_FINITE
  except (ValueError, OSError) as error:
    if args.debug or not user_errors.is_user_error(error):
      raise
    print(f'error: {user_errors.message(error)}', file=sys.stderr)
    return getattr(error, 'exit_code', 2)
  except (MemoryError, RuntimeError) as error:
    if args.debug or not user_errors.is_out_of_memory(error):
      raise
    print(
        f'error: out of memory: {str(error).splitlines()[0]}\nA smaller '
        'BATCH_SIZE, num_microbatches, REMAT or a mesh with more parts takes '
        'less; `train --dry_run` says how much of it goes where.',
        file=sys.stderr,
    )
    return _OUT_OF_MEMORY
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='python -m user_llm.main',
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
  )
  modes = parser.add_subparsers(dest='mode', required=True)
  for mode, mode_help in _MODE_HELP.items():
    sub = modes.add_parser(mode, help=mode_help, allow_abbrev=False)
    if mode not in ('cost', 'check'):
      sub.add_argument(
          '--workdir', required=True, help='checkpoints, metrics and configs'
      )
    sub.add_argument(
        '--gin_file',
        action='append',
        default=[],
        required=mode in ('train', 'check'),
        help='may be given several times; a later one wins'
        + _FIRST_FILES.get(mode, "; the workdir's config.gin comes first"),
    )
    sub.add_argument(
        '--gin_search_paths',
        default='',
        help="directories, comma-separated, tried before the repository's gin/",
    )
    sub.add_argument(
        '--trust_gin',
        action='store_true',
        help='let gin files import and name anything, as a program may',
    )
    sub.add_argument(
        '--debug', action='store_true', help='show where an error was raised'
    )
    if mode == 'train':
      sub.add_argument(
          '--dry_run',
          action='store_true',
          help='print parameters, shapes and memory, then exit',
      )
      sub.add_argument(
          '--deadline',
          type=_positive_secs,
          metavar='SECONDS',
          help='after which this process will be killed, counted from its '
          'start: it saves before, and exits with 42',
      )
      sub.add_argument(
          '--topology',
          help='with --dry_run: accelerators to compile for, such as v5e-16, '
          'which need not be here',
      )
    if mode == 'check':
      sub.add_argument('--input', required=True, help='variants, JSONL')
      sub.add_argument('--output', required=True, help='file to write')
    if mode in ('infer', 'embed'):
      sub.add_argument('--input', required=True, help='users, JSONL')
      sub.add_argument('--output', required=True, help='file to write')
    if mode in ('export', 'cost'):
      sub.add_argument('--output', required=True, help='directory to write')
    sub.epilog = 'Any --gin.NAME=VALUE sets a macro of the gin files.'
  return parser


def _positive_secs(text: str) -> float:
  try:
    secs = float(text)
  except ValueError:
    secs = 0.0
  if not 0 < secs < float('inf'):
    raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds')
  return secs


def _run(
    args: argparse.Namespace, overrides: Sequence[str], is_writer: bool
) -> None:
  from user_llm import gin_utils  # pylint: disable=g-import-not-at-top

  search_paths = [p for p in args.gin_search_paths.split(',') if p]
  if args.mode == 'check':
    _check(args, search_paths)
    return
  is_cost = args.mode == 'cost'
  workdir = pathlib.Path(args.output if is_cost else args.workdir)
  gin_files = list(args.gin_file)
  if is_cost:
    gin_files.insert(0, 'runs/cost.gin')
  elif args.mode != 'train':
    gin_files = _finished_run_files(args.mode, workdir) + gin_files
  with quiet.imports():
    gin_utils.load_config(
        gin_files, overrides, search_paths, args.trust_gin
    )
  module, name = _ENTRY_POINTS[args.mode].split(':')
  entry = gin_utils.configured(getattr(importlib.import_module(module), name))

  arguments = {
      name: getattr(args, name)
      for name in ('workdir', 'dry_run', 'deadline', 'input', 'output')
      if hasattr(args, name)
  }
  for name in gin_utils.bound(entry) & {*arguments, 'topology', 'check'}:
    raise ValueError(
        f'{args.mode}.{args.mode}.{name} is not for gin files: what is on the '
        'command line decides, see --help.'
    )
  is_train = args.mode == 'train'
  if is_train:
    from user_llm.runtime import hosts  # pylint: disable=g-import-not-at-top

    hosts.check_same(configuration=gin_utils.config_text())
    _check_resumable(workdir, gin_utils.config_text())
  if is_train and args.dry_run:
    entry(**arguments, topology=args.topology)
    return
  with (
      _saved_config(workdir, gin_utils.config_text())
      if is_train and is_writer
      else contextlib.nullcontext(lambda: None)
  ) as undo:
    is_idle = entry(**arguments) is False
    if is_idle:
      undo()
  if not is_writer or is_idle:
    return
  suffix = '' if is_train else f'.{args.mode}'
  try:
    _write(
        workdir / f'operative_config{suffix}.gin',
        gin_utils.operative_config_text(),
    )
  except OSError as error:
    if is_train:
      raise
    # What was asked for is written, and somewhere else.
    print(f'warning: what gin set is not saved: {error}', file=sys.stderr)


def _check(args: argparse.Namespace, search_paths: Sequence[str]) -> None:
  with quiet.imports():
    from user_llm import check  # pylint: disable=g-import-not-at-top

  check.check(
      gin_files=args.gin_file,
      search_paths=search_paths,
      trust=args.trust_gin,
      input=args.input,
      output=args.output,
  )


def _finished_run_files(mode: str, workdir: pathlib.Path) -> list[str]:
  """The mode's own run file, then what the workdir was trained with.

  In this order the run file's defaults give way to the training's values.
  """
  config = workdir / 'config.gin'
  if not config.is_file():
    raise ValueError(
        f'--workdir={workdir}: {config} does not exist. Give the workdir of a '
        'run of `python -m user_llm.main train`.'
    )
  return [f'runs/{mode}.gin', str(config.resolve())]


def _check_resumable(workdir: pathlib.Path, config: str) -> None:
  from user_llm import gin_utils  # pylint: disable=g-import-not-at-top

  saved = workdir / gin_utils.CONFIG_FILE
  checkpoints = workdir / 'checkpoints'
  if saved.is_file() and checkpoints.is_dir() and any(checkpoints.iterdir()):
    gin_text.check_same_model(saved.read_text(), config, str(workdir))


@contextlib.contextmanager
def _saved_config(
    workdir: pathlib.Path, config: str
) -> Iterator[Callable[[], None]]:
  """Saves the config for the run; undoes it if asked, or the run is refused."""
  path = workdir / 'config.gin'
  old_config = path.read_text() if path.is_file() else None
  old_steps = _saved_steps(workdir)
  _write(path, config)

  def undo() -> None:
    if old_config is None:
      path.unlink(missing_ok=True)
    else:
      _write(path, old_config)

  try:
    yield undo
  except (ValueError, OSError) as error:
    # Of what it has saved it is the config, however it ended.
    if user_errors.is_user_error(error) and _saved_steps(workdir) <= old_steps:
      undo()
    raise


def _saved_steps(workdir: pathlib.Path) -> set[str]:
  folders = (workdir / 'checkpoints').glob('*')
  return {folder.name for folder in folders if folder.name.isdigit()}


def _write(path: pathlib.Path, text: str) -> None:
  with atomic.write(path) as file:
    file.write(text.encode())


def _prepare_environment() -> None:
  """Settings that must be in place before JAX and TensorFlow are imported."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  host_memory.keep_freed_memory()
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = private_cache_dir()
    if cache is not None:
      os.environ['JAX_COMPILATION_CACHE_DIR'] = str(cache)


def private_cache_dir() -> pathlib.Path | None:
  """JAX's compilation cache; None if no directory of this user alone exists.

  It holds executables that JAX loads again, so nobody else may write there.
  """
  root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  cache = pathlib.Path(root) / 'user_llm' / 'jax'
  try:
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o700)
    status = cache.lstat()
  except OSError:
    return None
  if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
    return None
  return cache


if __name__ == '__main__':
  sys.exit(main())

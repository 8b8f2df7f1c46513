"""The main job end to end: prepare, pretrain, contextualise, evaluate, report.

Every step is a command of its own, printed before it runs. A step that is
already finished is skipped, one that was stopped goes on where it was.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import time

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_EXPERIMENTS = _ROOT / 'gin' / 'experiments'
_PREFIX = 'quickstart_'
_VOCABULARY_PIECES = 2000
_MINUTES = {'synthetic': 10, 'movielens_100k': 30, 'amazon_all_beauty': 20}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """One command and the file that exists once it has succeeded."""

  title: str
  args: tuple[str, ...]  # After `python -m`.
  done: pathlib.Path | None = None  # None: run it every time.


def make_steps(args: argparse.Namespace, run: pathlib.Path) -> list[Step]:
  """The whole job, in order."""
  data, vocabulary = run / 'data', run / 'vocabulary.model'
  encoder, decoder, contextualized = (
      run / name
      for name in ('pretrain_encoder', 'pretrain_lm', 'contextualize')
  )
  return [
      Step(
          title='Prepare the data',
          args=_prepare(args, data),
          done=data / 'manifest.json',
      ),
      Step(
          title='Build the vocabulary',
          args=(
              'user_llm.data.vocabulary',
              f'--data_dir={data}',
              f'--output={vocabulary}',
              f'--size={_VOCABULARY_PIECES}',
          ),
          done=vocabulary,
      ),
      _train(args, 'Pretrain the user encoder', encoder, DATA_DIR=data),
      _train(
          args,
          'Train the decoder as a language model',
          decoder,
          DATA_DIR=data,
          VOCABULARY=vocabulary,
      ),
      _train(
          args,
          'Contextualise the decoder with the user embeddings',
          contextualized,
          DATA_DIR=data,
          VOCABULARY=vocabulary,
          ENCODER_CHECKPOINT=encoder,
          DECODER_CHECKPOINT=decoder,
      ),
      _evaluate('Evaluate the encoder', encoder),
      _evaluate('Evaluate the User-LLM', contextualized),
      Step(
          title='Report',
          args=(
              'user_llm.report',
              '--workdirs',
              *map(str, (encoder, decoder, contextualized)),
              f'--output={run / "report.html"}',
              f'--title=User-LLM quickstart: {args.data}',
          ),
      ),
  ]


def _prepare(
    args: argparse.Namespace, data: pathlib.Path
) -> tuple[str, ...]:
  common = (f'--name={args.data}', f'--output={data}')
  if args.data == 'synthetic':
    return ('data_prep', 'synthetic', *common)
  source = (f'--input={args.input}', *common)
  if args.data.startswith('amazon_'):
    key = (f'--user_key_file={data}.key', '--create_user_key')
    return ('data_prep', 'amazon_reviews', *source, *key)
  return ('data_prep', 'movielens', *source)


def _train(
    args: argparse.Namespace,
    title: str,
    workdir: pathlib.Path,
    **paths: pathlib.Path,
) -> Step:
  overrides = [f'--gin.{name}="{path}"' for name, path in paths.items()]
  if args.num_steps is not None:
    overrides.append(f'--gin.NUM_STEPS={args.num_steps}')
  gin_file = f'experiments/{_PREFIX}{args.data}/{workdir.name}.gin'
  return Step(
      title=title,
      args=(
          'user_llm.main',
          'train',
          f'--gin_file={gin_file}',
          f'--workdir={workdir}',
          *overrides,
      ),
      done=workdir / 'DONE',
  )


def _evaluate(title: str, workdir: pathlib.Path) -> Step:
  return Step(
      title=title,
      args=('user_llm.main', 'evaluate', f'--workdir={workdir}'),
      done=workdir / 'operative_config.evaluate.gin',
  )


def run_steps(steps: Sequence[Step]) -> int:
  """Runs the steps that are not finished; returns the first bad exit code."""
  start_secs = time.monotonic()
  for i, step in enumerate(steps, 1):
    heading = f'[{i}/{len(steps)}] {step.title}'
    if step.done is not None and step.done.exists():
      print(f'\n{heading}: already done ({step.done})', flush=True)
      continue
    print(f'\n{heading}\n  $ {_shown(step)}', flush=True)
    step_secs = time.monotonic()
    code = subprocess.run(
        [sys.executable, '-m', *step.args], check=False
    ).returncode
    if code:
      print(
          f'\nerror: step {i} of {len(steps)}, "{step.title}", ended with exit '
          f'code {code}; see its message above. To go on from there, run '
          f'./launch/quickstart again, or this step alone:\n  {_shown(step)}',
          file=sys.stderr,
      )
      return code if code > 0 else 128 - code
    print(f'  done in {_duration(time.monotonic() - step_secs)}', flush=True)
  print(f'\nTotal time: {_duration(time.monotonic() - start_secs)}')
  return 0


def _shown(step: Step) -> str:
  return shlex.join(['python', '-m', *step.args])


def _duration(secs: float) -> str:
  minutes, seconds = divmod(round(secs), 60)
  return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  known = sorted(
      path.name.removeprefix(_PREFIX)
      for path in _EXPERIMENTS.glob(f'{_PREFIX}*')
  )
  parser = argparse.ArgumentParser(
      prog='./launch/quickstart', description=__doc__
  )
  parser.add_argument(
      '--data',
      default='synthetic',
      choices=known,
      help='what to learn from (default: synthetic, which needs no input)',
  )
  parser.add_argument(
      '--input',
      metavar='PATH',
      help='the data set as its publisher packs it; not for synthetic',
  )
  parser.add_argument(
      '--workdir', help='where all goes (default: runs/quickstart-<data>)'
  )
  parser.add_argument(
      '--num_steps', type=int, help='of each training, to try the job out'
  )
  args = parser.parse_args(argv)
  if (args.data == 'synthetic') != (args.input is None):
    parser.error(
        '--input is for real data: add --data=movielens_100k or the like'
        if args.input
        else f'--data={args.data} needs --input=PATH. What may be fetched: '
        '.venv/bin/python -m data_prep download --help'
    )
  if args.input:
    args.input = pathlib.Path(args.input).resolve()
  if args.workdir:
    args.workdir = pathlib.Path(args.workdir).resolve()
  return args


def main(argv: Sequence[str] | None = None) -> int:
  args = _parse(argv)
  os.chdir(_ROOT)  # data_prep is not installed: it runs from the checkout.
  run = pathlib.Path(args.workdir or f'runs/quickstart-{args.data}')
  steps = make_steps(args, run)
  minutes = _MINUTES.get(args.data)
  print(f'User-LLM on {args.data}, in {run}, {len(steps)} steps:')
  for i, step in enumerate(steps, 1):
    is_done = step.done is not None and step.done.exists()
    print(f'  {i}. {step.title}{" (already done)" if is_done else ""}')
  if minutes and args.num_steps is None:
    print(f'From the start this takes up to {minutes} minutes on 2 CPU cores.')
  print('It can be stopped at any time; run it again to go on.', flush=True)
  return run_steps(steps)


if __name__ == '__main__':
  sys.exit(main())

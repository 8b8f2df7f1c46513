"""Rows a second of the input pipeline, beside what a training step needs.

    python benchmarks/input_pipeline.py --data_dir DIR --vocabulary FILE.model

The pipeline has two threads of its own, so it is the CPU-seconds that a
training run on the same cores loses; `share` is that loss for a step of
`--step_secs`. `ready s` is what tokenising and numbering the examples takes
before the first batch, once a run.
"""

import argparse
import itertools
import resource
import time

from user_llm.data import pipeline
from user_llm.data import questions
from user_llm.data import schema as schema_lib

_WARM_UP_STEPS = 3


def _cpu_secs() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def measure(
    dataset: pipeline.Dataset, batch_size: int, num_steps: int
) -> tuple[float, float]:
  """(rows a second, rows a CPU-second) of the training batches."""
  batches = dataset.train_batches(batch_size=batch_size, seed=0)
  for _ in itertools.islice(batches, _WARM_UP_STEPS):
    pass
  cpu, wall = _cpu_secs(), time.perf_counter()
  for _ in itertools.islice(batches, num_steps):
    pass
  rows = batch_size * num_steps
  return rows / (time.perf_counter() - wall), rows / (_cpu_secs() - cpu)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--vocabulary', required=True)
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--num_steps', type=int, default=100)
  parser.add_argument(
      '--step_secs', type=float, default=1.0, help='of a training step'
  )
  args = parser.parse_args()
  schema = schema_lib.load_schema(data_dir=args.data_dir)
  text = {'vocabulary': args.vocabulary, 'history_length': 50}
  many = {**text, 'targets_per_example': 24}
  cases = {
      'events, packed, L=200': dict(task='events', history_length=200),
      'events, a segment a row, L=200': dict(
          task='events', history_length=200, packed=False
      ),
      'text': dict(task='text', text_length=128, **text),
      'next_item, L=50, P=1': dict(task='next_item', **text),
      'next_item, L=50, P=24': dict(task='next_item', **many),
      'next_item, history as text, P=1': dict(
          task='next_item',
          history_as_text=questions.TextPromptConfig(max_tokens=512),
          **text,
      ),
  }
  if (modality := schema.label_modality) is not None:
    for task in (f'favourite_{modality.name}',
                 f'future_favourite_{modality.name}'):
      cases[f'{task}, L=50, P=24'] = dict(task=task, **many)
  if schema.texts:
    cases['review_generation, L=50, P=8'] = dict(
        task='review_generation',
        review_text=schema.texts[-1],
        text_length=256,
        **{**text, 'targets_per_example': 8},
    )
  print(
      f'{"batches":42} {"ready s":>7} {"batches/s":>9} {"rows/s":>8} '
      f'{"rows/CPU-s":>11} {"share":>6}   '
      f'(batch {args.batch_size}, step {args.step_secs} s)'
  )
  for name, settings in cases.items():
    dataset = pipeline.Dataset(data_dir=args.data_dir, **settings)
    start = time.perf_counter()
    dataset.num_examples('train')
    ready = time.perf_counter() - start
    wall, cpu = measure(dataset, args.batch_size, args.num_steps)
    share = args.batch_size / cpu / args.step_secs
    print(
        f'{name:42} {ready:7.1f} {wall / args.batch_size:9.0f} {wall:8.0f} '
        f'{cpu:11.0f} {share:6.1%}',
        flush=True,
    )


if __name__ == '__main__':
  main()

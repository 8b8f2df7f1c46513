"""What a run tells the world: metrics, progress, and `run.json`.

The only module that knows clu. The logger never makes the host wait for the
device: at each step it reads the metrics of the step before, which the device
has already finished while the host prepared the next batch.
"""

from collections.abc import Iterator, Mapping
import datetime
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import time
from typing import Any

from user_llm import atomic
from user_llm.runtime import bad_steps
from user_llm.runtime import transient

METRICS_FILE = 'metrics.jsonl'
RUN_FILE = 'run.json'
WALL_KEY = 'train/wall_secs'

# A device array, a numpy scalar or a number.
Scalar = Any


class RunLogger:
  """Writes TensorBoard events and `metrics.jsonl`, and shows progress.

  Use it as a context manager. `log` is called at every step and is cheap.
  """

  def __init__(
      self,
      workdir: str,
      *,
      num_steps: int,
      start_step: int = 0,
      log_every_steps: int = 50,
      progress_every_secs: float = 10.0,
      prefix: str = 'train/',
      is_writer: bool = True,
  ):
    """Opens the files; lines of what will be done again are dropped.

    Args:
      workdir: Directory of the run; it is made if need be.
      num_steps: The step at which training ends.
      start_step: The restored step, 0 for a new run.
      log_every_steps: Metrics are written at multiples of it and at the end.
      progress_every_secs: Time between lines where stderr is no terminal.
      prefix: Put before the names of the metrics of `log`.
      is_writer: False on all hosts but one: they check and show progress only.
    """
    # clu imports TensorFlow: two seconds that other users of this module save.
    from clu import metric_writers  # pylint: disable=g-import-not-at-top

    folder = pathlib.Path(workdir)
    path = folder / METRICS_FILE if is_writer else pathlib.Path(os.devnull)
    writers = []
    self._past_secs = 0.0
    if is_writer:
      folder.mkdir(parents=True, exist_ok=True)
      self._past_secs = _drop_later_lines(path, start_step, num_steps)
      writers = [metric_writers.SummaryWriter(str(folder / 'tensorboard'))]
    self._file = path.open('a', encoding='utf-8')
    self._writer = metric_writers.AsyncMultiWriter(writers)
    self._num_steps = num_steps
    self._log_every_steps = log_every_steps
    self._prefix = prefix
    self._pending: tuple[int, Mapping[str, Scalar]] | None = None
    self._finite_step = start_step
    self._has_warned = False
    self._progress = _make_progress(num_steps, start_step, progress_every_secs)
    self._start_secs = time.monotonic()

  def __enter__(self) -> 'RunLogger':
    return self

  def __exit__(self, exc_type: type[BaseException] | None, *unused: Any):
    # After an error the pending metrics may be unreadable or the cause of it.
    self.close(flush=exc_type is None)

  @property
  def wall_secs(self) -> float:
    """Time spent in this run, its earlier sessions included."""
    return self._past_secs + time.monotonic() - self._start_secs

  def log(self, step: int, metrics: Mapping[str, Scalar]) -> None:
    """Keeps this step's metrics and writes those of the step before, if due.

    Args:
      step: Number of steps done, this one included.
      metrics: Scalars, on the device or not, by name, such as 'loss'.

    Raises:
      FloatingPointError: A loss that is due is not finite.
    """
    self.flush()
    self._progress.advance(step)
    if step % self._log_every_steps == 0 or step == self._num_steps:
      self._pending = (step, metrics)

  def flush(self) -> None:
    """Writes the metrics that `log` has kept."""
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    values = {
        f'{self._prefix}{name}': float(value) for name, value in metrics.items()
    }
    self._check_finite(step, values)
    if values.get(f'{self._prefix}{bad_steps.SKIPPED}'):
      values = {k: v for k, v in values.items() if math.isfinite(v)}
    self._progress.show(values.get(f'{self._prefix}loss'))
    self._append(step, {**values, WALL_KEY: round(self.wall_secs, 2)})

  def check(self, step: int, metrics: Mapping[str, Scalar]) -> None:
    """Flushes; raises FloatingPointError if a loss of `step` is not finite."""
    self.flush()
    self._check_finite(
        step, {f'{self._prefix}{k}': float(v) for k, v in metrics.items()}
    )

  def write(self, step: int, metrics: Mapping[str, Scalar]) -> None:
    """Writes metrics at once, and shows them: 'eval/<task>/<row>/<metric>'."""
    self.flush()
    values = {name: float(v) for name, v in metrics.items()}
    self._append(step, values)
    for line in _told(values):
      self._progress.say(f'step {step:,}  {line}')

  def _append(self, step: int, values: dict[str, float]) -> None:
    try:
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
      self._writer.write_scalars(step, values)
    except Exception as error:  # pylint: disable=broad-exception-caught
      self._warn(step, error)

  def _warn(self, step: int, error: Exception) -> None:
    """Figures that a full disk cannot take are no reason to end a training."""
    if not self._has_warned:
      self._has_warned = True
      print(
          f'warning: metrics of step {step} could not be written: {error} '
          'Later ones may be missing too.',
          file=sys.stderr, flush=True,
      )

  def close(self, flush: bool = True) -> None:
    """Ends the progress display and closes the files."""
    try:
      if flush:
        self.flush()
    finally:
      self._progress.close()
      for file in (self._file, self._writer):
        try:
          file.close()
        except Exception as error:  # pylint: disable=broad-exception-caught
          self._warn(self._num_steps, error)

  def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
    if values.get(f'{self._prefix}{bad_steps.SKIPPED}'):
      return  # It left no trace.
    for name, value in values.items():
      if name.endswith('loss') and not math.isfinite(value):
        raise FloatingPointError(
            f'{name} is {value} at step {step}; it was finite at step '
            f'{self._finite_step}, so it broke in steps '
            f'{self._finite_step + 1} to {step}. Start again from the last '
            'checkpoint with a smaller LEARNING_RATE or more warm-up.'
        )
    self._finite_step = step


class _Lines:
  """Progress as plain lines, for log files."""

  def __init__(self, num_steps: int, start_step: int, every_secs: float):
    self._num_steps = num_steps
    self._every_secs = every_secs
    self._loss: float | None = None
    # The first step compiles: the rate counts from its end.
    self._first: tuple[float, int] | None = None
    self._shown_secs = -math.inf
    self._step = start_step

  def advance(self, step: int) -> None:
    self._step = step
    now = time.monotonic()
    if self._first is None:
      self._first = (now, step)
    is_due = now - self._shown_secs >= self._every_secs
    if is_due and step < self._num_steps:
      self._shown_secs = now
      self._print(now)

  def show(self, loss: float | None) -> None:
    self._loss = loss
    if self._step == self._num_steps:  # The last line has its own loss.
      self._print(time.monotonic())

  def say(self, text: str) -> None:
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    pass

  def _print(self, now: float) -> None:
    first_secs, first_step = self._first
    parts = [f'step {self._step:,}/{self._num_steps:,}']
    if self._loss is not None:
      parts.append(f'loss {self._loss:.4f}')
    if now > first_secs and self._step > first_step:
      rate = (self._step - first_step) / (now - first_secs)
      parts.append(f'{rate:.1f} steps/s')
      left = datetime.timedelta(
          seconds=round((self._num_steps - self._step) / rate)
      )
      parts.append(f'{left} left')
    print('  '.join(parts), file=sys.stderr, flush=True)


class _Bar:
  """Progress as a bar, for terminals."""

  def __init__(self, num_steps: int, start_step: int):
    from rich import console  # pylint: disable=g-import-not-at-top
    from rich import progress  # pylint: disable=g-import-not-at-top

    self._bar = progress.Progress(
        progress.TextColumn('step {task.completed:,}/{task.total:,}'),
        progress.BarColumn(bar_width=None),
        progress.TextColumn('loss {task.fields[loss]}'),
        progress.TextColumn('{task.fields[rate]} steps/s'),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        refresh_per_second=2,
        expand=True,
    )
    self._task = self._bar.add_task(
        '', total=num_steps, completed=start_step, loss='-', rate='-'
    )
    self._bar.start()

  def advance(self, step: int) -> None:
    speed = self._bar.tasks[0].speed
    rate = '-' if speed is None else f'{speed:.1f}'
    self._bar.update(self._task, completed=step, rate=rate)

  def show(self, loss: float | None) -> None:
    if loss is not None:
      self._bar.update(self._task, loss=f'{loss:.4f}')

  def say(self, text: str) -> None:
    self._bar.console.print(text, markup=False, highlight=False)

  def close(self) -> None:
    self._bar.stop()


def _told(values: Mapping[str, float]) -> list[str]:
  """A line a row of each task: 'reads/encoder_head  recall@10/unseen 0.33'.

  Of unseen items, where there are metrics of all besides.
  """
  rows: dict[str, list[str]] = {}
  for name, value in values.items():
    _, task, row, metric = name.split('/', 3)
    if f'{name.removesuffix("/all")}/unseen' in values:
      continue
    rows.setdefault(f'{task}/{row}', []).append(f'{metric} {value:.4f}')
  return ['  '.join((row, *metrics)) for row, metrics in rows.items()]


def _make_progress(
    num_steps: int, start_step: int, every_secs: float
) -> _Lines | _Bar:
  if sys.stderr.isatty():
    return _Bar(num_steps, start_step)
  return _Lines(num_steps, start_step, every_secs)


def is_evaluated(workdir: str, step: int) -> bool:
  """Whether the metrics of a run have an evaluation of a step."""
  return any(
      row['step'] == step and _is_evaluation(row)
      for _, row in _rows(pathlib.Path(workdir) / METRICS_FILE)
  )


def _is_evaluation(row: Mapping[str, float]) -> bool:
  return any(name.startswith('eval/') for name in row)


def _rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, float]]]:
  """Lines of a metrics file, and what they hold."""
  text = path.read_text(encoding='utf-8') if path.is_file() else ''
  for line in text.splitlines():
    try:
      yield line, json.loads(line)
    except json.JSONDecodeError:
      continue  # The run was killed in the middle of this line.


def _drop_later_lines(
    path: pathlib.Path, last_step: int, num_steps: int
) -> float:
  """Rewrites a metrics file up to a step; returns the seconds it tells of.

  The evaluation at the end of the run is done again too.
  """
  if not path.is_file():
    return 0.0
  kept, secs = [], 0.0
  for line, row in _rows(path):
    is_end = row['step'] == num_steps and _is_evaluation(row)
    if row['step'] <= last_step and not is_end:
      kept.append(line + '\n')
      secs = max(secs, row.get(WALL_KEY, 0.0))
  atomic.write_text(path, ''.join(kept))
  return secs


@transient.retried
def write_run_info(workdir: str, **fields: Any) -> None:
  """Adds fields to `run.json`, which also says how and where the run ran.

  Args:
    workdir: Directory of the run; its name is the run's name.
    **fields: JSON values, such as seed, num_params, split_fingerprint, or at
      the end finished=timestamp(), wall_secs=logger.wall_secs.
  """
  path = pathlib.Path(workdir) / RUN_FILE
  old = json.loads(path.read_text()) if path.is_file() else {}
  info = {
      'name': pathlib.Path(workdir).resolve().name,
      'started': timestamp(),
      **old,
      'command': command(),
      'hardware': hardware(),
      **fields,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write_text(path, json.dumps(info, indent=1) + '\n')


def timestamp() -> str:
  """Now, in UTC: '2026-11-22T04:51:00+00:00'."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def command() -> str:
  """The command line of this process, ready to be pasted."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  if spec is None:
    return shlex.join(['python', *sys.argv])
  module = spec.name.removesuffix('.__main__')
  return shlex.join(['python', '-m', module, *sys.argv[1:]])


def hardware() -> str:
  """Processor, cores and JAX devices: 'Xeon 6140, 2 cores; 1 x cpu'."""
  import jax  # pylint: disable=g-import-not-at-top

  devices = jax.devices()
  kind = devices[0].device_kind
  cores = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else None
  return (
      f'{_cpu_model()}, {cores or os.cpu_count()} cores; '
      f'{len(devices)} x {kind}'
  )


def _cpu_model() -> str:
  cpu_info = pathlib.Path('/proc/cpuinfo')
  if cpu_info.is_file():
    for line in cpu_info.read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()

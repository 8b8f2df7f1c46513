"""A training from its last checkpoint to its end."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import enum
import itertools
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from user_llm import checkpoints as checkpoints_lib
from user_llm import evaluator as evaluator_lib
from user_llm import restore
from user_llm import run_logging
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm import vitals as vitals_lib
from user_llm.data import pipeline
from user_llm.runtime import bad_steps
from user_llm.runtime import goodput
from user_llm.runtime import host_batches
from user_llm.runtime import hosts
from user_llm.runtime import preemption
from user_llm.runtime import watchdog

# Written when a run has reached its last step and its evaluations.
DONE_FILE = 'DONE'


class End(enum.Enum):
  """How a way through the steps has ended."""

  TRAINED = enum.auto()
  WAS_DONE = enum.auto()
  WENT_BACK = enum.auto()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
  """A training, its arguments checked; see `train` for what they are."""

  workdir: str
  trainer: trainer_lib.Trainer
  dataset: pipeline.Dataset | pipeline.Mixture
  batch_spec: Mapping[str, jax.ShapeDtypeStruct]
  learning_rates: np.ndarray
  num_steps: int
  batch_size: int
  evaluators: Sequence[evaluator_lib.Evaluator]
  init_from: Sequence[restore.InitFrom]
  log_every_steps: int
  eval_every_steps: int
  save_every_steps: int
  profile_steps: tuple[int, int] | None
  max_bad_steps: int
  hang_secs: float
  same_events: bool
  checkpoints: checkpoints_lib.Checkpoints
  rollbacks: bad_steps.Rollbacks
  is_writer: bool

  def gets_to_its_end(self, watch: preemption.Watch) -> End:
    """Trains from the last checkpoint on, while it need not go back to one."""
    state, identity = restore.restore_or_initialise(
        self.trainer,
        self.batch_spec,
        self.checkpoints,
        self.init_from,
        self.dataset.identity,
        same_events=self.same_events,
    )
    start_step = int(state.step)
    if self._is_done(start_step):
      return End.WAS_DONE
    if self.is_writer:
      _write_start(self.workdir, state, self.dataset, self.trainer.seed)
    try:
      self._train_on(start_step, state, identity, watch)
    except bad_steps.TooManyInARow as error:
      with watchdog.Watchdog(self.hang_secs):
        self._go_back(error)
      return End.WENT_BACK
    return End.TRAINED

  def _go_back(self, error: bad_steps.TooManyInARow) -> None:
    steps = self.checkpoints.steps()
    # Bad steps leave no trace: where all that is kept was saved among them, the
    # first is as good.
    before = [s for s in steps if s < error.first] or steps[:1]
    to_step = before[-1] if before else 0
    self.rollbacks.check_limit(error)
    # Killed in between, it comes here again.
    self.checkpoints.forget_after(to_step)
    self.rollbacks.add(to_step, error)

  def _train_on(
      self,
      start_step: int,
      state: train_state.TrainState,
      identity: Mapping[str, str],
      watch: preemption.Watch,
  ) -> None:
    step_fn = self.trainer.compile_step(state, self.batch_spec)
    batches = self._batches(start_step)
    bad = bad_steps.BadSteps(self.workdir, self.max_bad_steps, self.is_writer)
    vitals = vitals_lib.Vitals(
        self.workdir,
        self.trainer,
        self.batch_spec,
        start_step=start_step,
        num_steps=self.num_steps,
        log_every_steps=self.log_every_steps,
        profile_steps=self.profile_steps,
    )
    with (
        vitals,
        watchdog.Watchdog(self.hang_secs),
        self.checkpoints,
        run_logging.RunLogger(
            self.workdir,
            num_steps=self.num_steps,
            start_step=start_step,
            log_every_steps=self.log_every_steps,
            is_writer=self.is_writer,
        ) as logger,
    ):
      if self._is_unevaluated(start_step):  # It was stopped or killed there.
        self._evaluate(state, logger, vitals, start_step)
      for step in range(start_step + 1, self.num_steps + 1):
        batch = vitals.next_batch(batches)
        state, scalars = step_fn(
            state,
            self.trainer.device_batch(
                {key: batch[key] for key in self.batch_spec}
            ),
        )
        watchdog.beat()
        rate = self.learning_rates[step - 1]
        times = vitals.step(step, scalars)
        logger.log(step, {**scalars, **times, 'learning_rate': rate})
        bad.log(step, scalars, batch)
        last = step == self.num_steps
        stop = watch.is_due(step) and not last
        evaluates = not last and _is_multiple(step, self.eval_every_steps)
        again = self.checkpoints.is_due_again()
        # An evaluation may take longer than who signals waits for a save.
        saves = last or stop or again or evaluates
        if saves or step % self.save_every_steps == 0:
          bad.flush()
          logger.check(step, scalars)  # A step that is not finite is not saved.
          with vitals.timed(goodput.SAVING):
            self.checkpoints.save(state, identity, is_last=last or stop)
        if stop:
          print(
              f'{watch.reason}: saving step {step}, the last one.',
              file=sys.stderr,
          )
          sys.exit(preemption.EXIT_CODE)
        if evaluates:
          self._evaluate(state, logger, vitals, step)
      evaluations = self._evaluate(
          state, logger, vitals, self.num_steps, full=True
      )
    if self.is_writer:
      for evaluation in evaluations:
        evaluation.write(self.workdir, self.num_steps, self.trainer.seed)
      _write_end(self.workdir, logger.wall_secs)

  def _is_done(self, step: int) -> bool:
    """Whether nothing is left; raises ValueError if it is past its end."""
    if step > self.num_steps:
      raise ValueError(
          f'{self.workdir} is at step {step}, past NUM_STEPS={self.num_steps}: '
          'give another --workdir.'
      )
    done = pathlib.Path(self.workdir) / DONE_FILE
    if step < self.num_steps:
      done.unlink(missing_ok=True)  # The run goes on to a later last step.
    (is_done,) = hosts.agreed([done.exists()])
    if is_done and self.is_writer:
      print(f'{self.workdir} is at its last step, {step}: nothing to do.')
    return bool(is_done)

  def _is_unevaluated(self, step: int) -> bool:
    """Whether a restored step lacks an evaluation that was due."""
    is_due = 0 < step < self.num_steps and _is_multiple(
        step, self.eval_every_steps
    )
    lacks = is_due and not run_logging.is_evaluated(self.workdir, step)
    return bool(self.evaluators) and bool(hosts.agreed([lacks])[0])

  def _batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of each batch."""
    host, num_hosts = host_batches.share(self.trainer.mesh)
    return self.dataset.train_batches(
        batch_size=self.batch_size,
        seed=self.trainer.seed,
        start_step=start_step + self.rollbacks.num_skipped(start_step),
        host=host,
        num_hosts=num_hosts,
    )

  def _evaluate(
      self,
      state: train_state.TrainState,
      logger: run_logging.RunLogger,
      vitals: vitals_lib.Vitals,
      step: int,
      full: bool = False,
  ) -> list[evaluator_lib.Evaluation]:
    params = train_state.merge(state.trainable, state.frozen)
    with vitals.timed(goodput.EVALUATION):
      evaluations = [
          evaluator.evaluate(
              self.trainer.objective, params, self.trainer.mesh, full=full
          )
          for evaluator in self.evaluators
      ]
    if evaluations:
      # In one line: it is there or not, for `_is_unevaluated`.
      scalars = [e.scalars().items() for e in evaluations]
      logger.write(step, dict(itertools.chain.from_iterable(scalars)))
    return evaluations


def _is_multiple(step: int, every_steps: int) -> bool:
  return bool(every_steps) and step % every_steps == 0


def _write_start(
    workdir: str,
    state: train_state.TrainState,
    dataset: pipeline.Dataset | pipeline.Mixture,
    seed: int,
) -> None:
  run_logging.write_run_info(
      workdir,
      seed=seed,
      num_params=_count((state.trainable, state.frozen)),
      num_trainable=_count(state.trainable),
      split_rule=dataset.split_rule.name,
      split_fingerprint=dataset.fingerprint,
  )


def _write_end(workdir: str, wall_secs: float) -> None:
  spent = goodput.summary(workdir)
  print(goodput.describe(spent))
  run_logging.write_run_info(
      workdir,
      finished=run_logging.timestamp(),
      wall_secs=round(wall_secs, 1),
      goodput=spent,
  )
  (pathlib.Path(workdir) / DONE_FILE).touch()


def _count(params: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(params))

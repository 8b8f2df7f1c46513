"""State, sharding and steps; knows no model by name."""

from collections.abc import Collection, Mapping, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from user_llm import flops
from user_llm import losses
from user_llm import partitioning
from user_llm import train_state
from user_llm.models import layers
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import bad_steps
from user_llm.runtime import host_batches
from user_llm.runtime import spikes

Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """One optimisation problem on one mesh.

  Attributes:
    objective: Loss and parameters.
    optimizer: Of the trainable parameters.
    mesh: Devices.
    trainable: Path regexes, see `train_state.split`.
    num_microbatches: Parts of a batch whose gradients are added up.
    seed: Of the initialisation and of each step's RNG, fold_in(seed, step).
    spike_threshold: A step whose loss is so many standard deviations (of the
      window's MAD) above the recent ones is skipped; None: none is.
    frozen_dtype: Of the large frozen parameters, see `train_state.rounded`.
  """

  objective: objective_lib.Objective
  optimizer: optax.GradientTransformation
  mesh: jax.sharding.Mesh
  trainable: Sequence[str] = ('.*',)
  num_microbatches: int = 1
  seed: int = 0
  spike_threshold: float | None = None
  frozen_dtype: Any = dataclasses.field(default_factory=layers.compute_dtype)

  def abstract_state(
      self, batch_spec: Mapping[str, Any]
  ) -> train_state.TrainState:
    """Shapes, dtypes and shardings of the state; allocates nothing."""
    boxed = jax.eval_shape(self.objective.init, jax.random.key(0), batch_spec)
    shardings = partitioning.param_shardings(boxed, self.mesh)
    params = jax.tree.map(_with_sharding, partitioning.unbox(boxed), shardings)
    trainable, frozen = self._split(params)
    opt_state = jax.eval_shape(self.optimizer.init, trainable)
    opt_shardings = partitioning.state_shardings(
        opt_state,
        trainable,
        jax.tree.map(lambda x: x.sharding, trainable),
        self.mesh,
    )
    replicated = jax.sharding.NamedSharding(
        self.mesh, jax.sharding.PartitionSpec()
    )
    return train_state.TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        trainable=trainable,
        frozen=frozen,
        opt_state=jax.tree.map(_with_sharding, opt_state, opt_shardings),
        recent_losses=_with_sharding(
            jax.eval_shape(spikes.no_losses), replicated
        ),
    )

  def init_state(self, batch_spec: Mapping[str, Any]) -> train_state.TrainState:
    """A state at step 0, all of it freshly initialised."""
    abstract = self.abstract_state(batch_spec)
    return self.start_state(
        abstract, self.init_params(batch_spec, _flat_params(abstract))
    )

  def init_params(
      self, batch_spec: Mapping[str, Any], paths: Collection[str]
  ) -> dict[str, jax.Array]:
    """Freshly initialised parameters by path, each made in its place.

    The model's other parameters, which are loaded, are not made at all.
    """
    flat = _flat_params(self.abstract_state(batch_spec))
    shardings = {path: flat[path].sharding for path in paths}
    zeros = {k: jnp.zeros(v.shape, v.dtype) for k, v in batch_spec.items()}

    def make() -> dict[str, jax.Array]:
      boxed = self.objective.init(jax.random.key(self.seed), zeros)
      made = self._split(partitioning.unbox(boxed))
      params = train_state.flatten(train_state.merge(*made))
      return {path: params[path] for path in paths}

    with jax.set_mesh(self.mesh):
      return jax.jit(make, out_shardings=shardings)()

  def start_state(
      self, abstract: train_state.TrainState, params: Mapping[str, jax.Array]
  ) -> train_state.TrainState:
    """The state at step 0 with parameters, by path; the optimizer's anew."""
    trainable, frozen = train_state.split(
        train_state.unflatten(params), self.trainable
    )

    def make(trainable: Any) -> tuple[jax.Array, Any, jax.Array]:
      return (
          jnp.zeros((), jnp.int32),
          self.optimizer.init(trainable),
          spikes.no_losses(),
      )

    fresh = abstract.step, abstract.opt_state, abstract.recent_losses
    with jax.set_mesh(self.mesh):
      step, opt_state, recent_losses = jax.jit(
          make, out_shardings=_shardings(fresh)
      )(trainable)
    return train_state.TrainState(
        step, trainable, frozen, opt_state, recent_losses
    )

  def _split(self, params: Any) -> tuple[Any, Any]:
    """Parameters (or shapes) that train, in float32, and those that do not."""
    trainable, frozen = train_state.split(params, self.trainable)
    return trainable, train_state.unflatten({
        path: train_state.rounded(path, x, self.frozen_dtype)
        for path, x in train_state.flatten(frozen).items()
    })

  @functools.cached_property
  def _batch_sharding(self) -> jax.sharding.NamedSharding:
    return partitioning.batch_sharding(self.mesh)

  def device_batch(self, batch: Mapping[str, np.ndarray]) -> Batch:
    """This host's share of a batch as its part of the global arrays."""
    return host_batches.to_devices(dict(batch), self.mesh)

  def compile_step(
      self, state: train_state.TrainState, batch_spec: Mapping[str, Any]
  ) -> Any:
    """The compiled `(state, batch) -> (state, scalars)`; donates the state.

    Scalars are f32[]: `loss` (mean over the batch's valid targets), `weight`
    (how many they are), `grad_norm`, `skipped` (1 if loss or gradient is not
    finite or the loss is a spike: then the step changes nothing but its number)
    and the objective's own metrics.
    """
    batch = self._abstract_batch(batch_spec)
    with jax.set_mesh(self.mesh):
      return (
          jax.jit(
              self._step,
              donate_argnums=0,
              # Gradients' shardings drift where only the inputs' are pinned.
              out_shardings=(_shardings(state), None),
          )
          .lower(state, batch)
          .compile()
      )

  def trace_step(self, batch_spec: Mapping[str, Any]) -> None:
    """Goes through a step with shapes alone; raises where they do not fit."""
    state = self.abstract_state(batch_spec)
    with jax.set_mesh(self.mesh):
      jax.eval_shape(self._step, state, self._abstract_batch(batch_spec))

  def step_flops(
      self, batch_spec: Mapping[str, Any], with_remat: bool = True
  ) -> int:
    """Of the matrix products of a step, over all devices; compiles nothing.

    Args:
      batch_spec: Shapes of a batch.
      with_remat: Counts what is computed again for the gradients.
    """
    state = self.abstract_state(batch_spec)
    remat = contextlib.nullcontext() if with_remat else layers.no_remat()
    # The loop over chunks of the vocabulary does not say how often it runs.
    with jax.set_mesh(self.mesh), losses.one_chunk(), remat:
      return flops.matmul_flops(
          self._step, state, self._abstract_batch(batch_spec)
      )

  def _abstract_batch(
      self, batch_spec: Mapping[str, Any]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        key: _with_sharding(x, self._batch_sharding)
        for key, x in batch_spec.items()
    }

  def _step(
      self, state: train_state.TrainState, batch: Batch
  ) -> tuple[train_state.TrainState, Scalars]:
    rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
    grads, loss = self._gradients(state, batch, rng)
    weight = jnp.maximum(loss.weight, 1.0)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.trainable
    )
    norm = optax.global_norm(grads)
    mean = loss.total / weight
    is_spike = jnp.bool(False)
    if self.spike_threshold is not None:
      is_spike = spikes.is_spike(
          state.recent_losses, mean, self.spike_threshold
      )
    is_good = jnp.isfinite(mean) & jnp.isfinite(norm) & ~is_spike
    scalars = {
        'loss': mean,
        'weight': loss.weight,
        'grad_norm': norm,
        bad_steps.SKIPPED: 1.0 - is_good,
    }
    for name, (total, count) in loss.metrics.items():
      scalars[name] = total / jnp.maximum(count, 1.0)
    # A bad step leaves no trace in parameters, moments and counts. Updates are
    # not looked at, which would be another pass over all memory: AdamW's
    # settings are such that finite gradients make finite updates.
    trainable, opt_state = jax.tree.map(
        functools.partial(jnp.where, is_good),
        (optax.apply_updates(state.trainable, updates), opt_state),
        (state.trainable, state.opt_state),
    )
    return state._replace(
        step=state.step + 1,
        trainable=trainable,
        opt_state=opt_state,
        recent_losses=spikes.with_loss(state.recent_losses, mean, is_spike),
    ), scalars

  def _gradients(
      self, state: train_state.TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[Any, objective_lib.Loss]:
    """Gradients of the loss's total, and the loss, over all microbatches."""

    def total(trainable: Any, part: Batch, part_rng: jax.Array) -> Any:
      params = train_state.merge(trainable, state.frozen)
      loss = self.objective.loss(params, part, part_rng)
      return loss.total, loss

    grad = jax.grad(total, has_aux=True)
    num = self.num_microbatches
    if num == 1:
      return grad(state.trainable, batch, rng)

    # Row i goes to microbatch i % num, so that each keeps the mesh's layout.
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(
            x.reshape(x.shape[0] // num, num, *x.shape[1:]), 1, 0
        ),
        batch,
    )

    def add(carry: Any, xs: Any) -> tuple[Any, None]:
      part, index = xs
      part_grads = grad(
          state.trainable, part, jax.random.fold_in(rng, index)
      )
      return jax.tree.map(jnp.add, carry, part_grads), None

    first = jax.eval_shape(
        grad, state.trainable, jax.tree.map(lambda x: x[0], parts), rng
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
    return jax.lax.scan(add, zeros, (parts, jnp.arange(num)))[0]


def select_batch(
    spec: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, jax.ShapeDtypeStruct]:
  """The part of a dataset's batch that an objective reads.

  Raises:
    ValueError: the dataset lacks some of it.
  """
  missing = [key for key in keys if key not in spec]
  if missing:
    raise ValueError(
        f'The objective reads {missing}, and the task gives '
        f'{", ".join(spec)}. Is TASK the right one for this objective?'
    )
  return {
      key: jax.ShapeDtypeStruct(spec[key].shape, spec[key].dtype)
      for key in keys
  }


def _flat_params(state: train_state.TrainState) -> dict[str, Any]:
  return train_state.flatten(train_state.merge(state.trainable, state.frozen))


def _with_sharding(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _shardings(tree: Any) -> Any:
  return jax.tree.map(lambda x: x.sharding, tree)

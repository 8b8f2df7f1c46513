"""The entry function `embed`: users in, their embeddings out."""

from collections.abc import Sequence

import jax
import numpy as np

from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import restore
from user_llm.data import pipeline
from user_llm.data import requests as requests_lib
from user_llm.models import user_encoder
from user_llm.objectives import conditioned_lm
from user_llm.objectives import contrastive
from user_llm.objectives import next_event
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import host_batches


def embed(
    *,
    workdir: str,
    input: str,  # pylint: disable=redefined-builtin
    output: str,
    objective: objective_lib.Objective,
    dataset: pipeline.Dataset | pipeline.Mixture,
    optimizer: optimizers.AdamW,
    num_steps: int,
    batch_size: int,
    seed: int = 0,
    trainable: Sequence[str] = ('.*',),
    init_from: Sequence[checkpoints_lib.InitFrom] = (),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    step: int | None = None,
    rows: int = 64,
) -> None:
  """Embeds each user of a JSONL file; U users, L events, width D.

  In: what `infer` reads; a "question" is ignored. Out: an .npz file with `user`
  str[U], `embedding` f32[U, D] (the output at the last event), `sequence`
  f32[U, L, D] (at each of the last L events; zeros behind them) and `length`
  i32[U], how many they are. A user without events has zeros for both.

  Args:
    workdir: Of a run that has a user encoder, pretrained or contextualised.
    input: Path of the users.
    output: Path to write, whole or not at all.
    objective: As it was trained; likewise the arguments down to `mesh`.
    dataset: See objective.
    optimizer: See objective.
    num_steps: See objective.
    batch_size: See objective.
    seed: See objective.
    trainable: See objective.
    init_from: See objective.
    mesh: Sizes of the mesh axes.
    step: Of the checkpoint; None: the newest.
    rows: Users at a time; rounded up to what the devices can share.

  Raises:
    ValueError: the workdir has no user encoder, or the input is bad: its file
      and line are named and nothing is written.
  """
  config = _encoder_config(objective, workdir)
  reader = requests_lib.RequestReader(dataset.schema, dataset.catalogue)
  requests = list(reader.read(input))
  device_mesh = mesh.make()
  params = restore.params(
      workdir=workdir,
      objective=objective,
      dataset=dataset,
      optimizer=optimizer,
      num_steps=num_steps,
      batch_size=batch_size,
      seed=seed,
      trainable=trainable,
      init_from=init_from,
      mesh=device_mesh,
      step=step,
  )
  variables = {'params': params['user_encoder']}
  encode = jax.jit(user_encoder.UserEncoder(config).apply)
  rows = partitioning.batch_rows(rows, device_mesh)
  sequences, lengths = [], []
  for start in range(0, len(requests), rows):
    part = requests[start : start + rows]
    batch = requests_lib.batch(
        part, dataset.schema, dataset.history_length, rows
    )
    x_BLD = host_batches.run(
        lambda mine: encode(variables, *user_encoder.inputs(mine, config)),
        host_batches.mine(batch, device_mesh),
        device_mesh,
    )
    sequence = np.where(batch['user_mask'][..., None], x_BLD, 0)
    sequences.append(sequence[: len(part)].astype(np.float32))
    lengths.append(batch['history_end'][: len(part), 0])
  if jax.process_index():
    return
  sequence, length = np.concatenate(sequences), np.concatenate(lengths)
  with requests_lib.whole_file(output) as file:
    np.savez(
        file,
        allow_pickle=False,
        user=np.array([request.user for request in requests]),
        embedding=sequence[np.arange(len(length)), length - 1],
        sequence=sequence,
        length=length,
    )
  print(f'{len(requests)} embeddings of width {config.embed_dim} -> {output}')


def _encoder_config(
    objective: objective_lib.Objective, workdir: str
) -> user_encoder.UserEncoderConfig:
  if isinstance(objective, next_event.NextEvent):
    return objective.encoder
  if isinstance(objective, contrastive.Contrastive):
    return objective.model.user_encoder
  if isinstance(objective, conditioned_lm.ConditionedLM):
    if objective.model.has_user:
      return objective.model.user_encoder
  raise ValueError(
      f'--workdir={workdir} is of a run without a user encoder; give one of '
      'runs/pretrain_encoder.gin, runs/pretrain_dual_encoder.gin or '
      'runs/contextualize.gin.'
  )

"""The entry function `embed`: users in, their embeddings out."""

import contextlib

import jax
import numpy as np

from user_llm import atomic
from user_llm import partitioning
from user_llm import restore
from user_llm.data import requests as requests_lib
from user_llm.models import user_encoder
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import host_batches


def embed(
    *,
    workdir: str,
    input: str,  # pylint: disable=redefined-builtin
    output: str,
    run: restore.TrainedRun,
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
    run: How the workdir was made.
    step: Of the checkpoint; None: the newest.
    rows: Users at a time; rounded up to what the devices can share.

  Raises:
    ValueError: the workdir has no causal user encoder, or the input is bad: its
      file and line are named and nothing is written.
  """
  config = _encoder_config(run.objective, workdir)
  dataset = run.dataset
  reader = requests_lib.RequestReader(dataset.schema, dataset.catalogue)
  requests = list(reader.read(input))
  device_mesh = run.mesh.make()
  is_writer = jax.process_index() == 0
  # Opened before hours are spent on what could not be written.
  with (
      atomic.write(output) if is_writer else contextlib.nullcontext()
  ) as file:
    params = run.params(workdir, device_mesh, step)
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
    if file is None:
      return
    sequence, length = np.concatenate(sequences), np.concatenate(lengths)
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
  encoder = getattr(objective, 'encoder', None)
  if not isinstance(encoder, user_encoder.UserEncoderConfig):
    raise ValueError(
        f'--workdir={workdir} is of a run without a user encoder; give one of '
        'runs/pretrain_encoder.gin, runs/pretrain_dual_encoder.gin or '
        'runs/contextualize.gin.'
    )
  if not encoder.causal:
    raise ValueError(
        f'--workdir={workdir} is of an encoder that reads both sides of an '
        'event: its output at the last one is no embedding of the user. Give '
        'one of runs/pretrain_encoder.gin.'
    )
  return encoder

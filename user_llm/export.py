"""The entry function `export`: a workdir's decoder for other programs."""

from user_llm import restore
from user_llm.objectives import conditioned_lm
from user_llm.pretrained import exporting
from user_llm.runtime import distributed

_DTYPES = ('float32', 'bfloat16')


def export(
    *,
    workdir: str,
    output: str,
    run: restore.TrainedRun,
    step: int | None = None,
    tokenizer: str | None = None,
    dtype: str = 'float32',
) -> None:
  """Writes config.json, safetensors and the tokenizer of a run's decoder.

  LoRA is merged into the kernels. What reads users (encoder, resampler,
  projection, cross-attention) has no place there: the result is the language
  model without a user.

  Args:
    workdir: Of a run that has a decoder.
    output: Directory to make, whole or not at all.
    run: How the workdir was made.
    step: Of the checkpoint; None: the newest.
    tokenizer: The vocabulary that it was trained with.
    dtype: To write, float32 or bfloat16.

  Raises:
    ValueError: the workdir has no decoder, no family is such a decoder, or
      there is something at `output`.
  """
  distributed.check_alone('export')
  if not isinstance(run.objective, conditioned_lm.ConditionedLM):
    raise ValueError(
        f'--workdir={workdir} is of a run without a decoder; give one of '
        'runs/contextualize.gin or runs/pretrain_lm.gin.'
    )
  if dtype not in _DTYPES:
    raise ValueError(
        f'EXPORT_DTYPE must be one of {", ".join(_DTYPES)}, not {dtype!r}.'
    )
  config = run.objective.model.decoder
  exporting.check(config, output)
  params = run.params(workdir, run.mesh.make(), step)
  exporting.export(
      params['decoder'], config, output, tokenizer_from=tokenizer, dtype=dtype
  )
  print(f'The decoder of {workdir}, in {dtype} -> {output}')

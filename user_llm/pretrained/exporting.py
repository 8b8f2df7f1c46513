"""Writes a decoder as a directory that Hugging Face's libraries load."""

from collections.abc import Iterator, Mapping
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from user_llm import train_state
from user_llm.data import tokenizer
from user_llm.models import decoder_config
from user_llm.models import lora
from user_llm.pretrained import families
from user_llm.pretrained import hugging_face
from user_llm.pretrained import layout


def check(config: decoder_config.DecoderConfig, path: str) -> dict[str, Any]:
  """The config.json of a decoder that can be written to a path.

  Raises:
    ValueError: there is something already, or no family is such a decoder.
  """
  folder = pathlib.Path(path)
  if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
    raise ValueError(f'{path} exists already; name another directory.')
  return families.hf_config(config)


def export(
    params: Mapping[str, Any],
    config: decoder_config.DecoderConfig,
    path: str,
    *,
    tokenizer_from: str | None = None,
    dtype: Any = None,
    shard_bytes: int = 2 * 10**9,
) -> None:
  """Writes config.json, safetensors and the tokenizer, LoRA merged.

  Args:
    params: Of a `Decoder`; its cross-attentions have no place there and are
      left out.
    config: Of it.
    path: Directory to make, whole or not at all.
    tokenizer_from: Weights (or a tokenizer) whose tokenizer goes with it.
    dtype: To write; None: as the parameters are.
    shard_bytes: Where a file ends and the next begins.

  Raises:
    ValueError: see `check`; or there is no such tokenizer.
  """
  raw = check(config, path)
  flat = train_state.flatten(lora.merge(params, config.lora))
  vocab_size = config.vocab_size
  norm_offset = families.norm_offset(raw)

  def tensors() -> Iterator[tuple[str, np.ndarray]]:
    for parameter in layout.parameters(config):
      value = np.asarray(jax.device_get(flat[parameter.path]))
      if parameter.is_norm and norm_offset:
        value = value.astype(np.float32) - norm_offset
      for name, tensor in parameter.tensors_of(value, vocab_size).items():
        yield name, tensor.astype(dtype or flat[parameter.path].dtype)

  if 0 < config.zero_token_id == vocab_size - 1:
    raw['vocab_size'] -= 1
  found = tokenizer_from and tokenizer.load(tokenizer_from)
  if found:
    raw |= found.specials._asdict()
  folder = pathlib.Path(path).resolve()  # '.' has no name.
  partial = folder.with_name(f'{folder.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)  # Of an export that was killed.
  try:
    hugging_face.write(partial, raw, tensors(), shard_bytes)
    if found:
      found.write(partial)
    if folder.exists():
      # Not replaced: a shell may be in it. What makes it loadable comes last.
      is_config = lambda file: file.name == hugging_face.CONFIG
      for file in sorted(partial.iterdir(), key=is_config):
        file.rename(folder / file.name)
    else:
      partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)

"""Pretrained weights as a `Decoder`'s configuration and parameters.

A path is a directory of Hugging Face's, a GGUF file, or a llama2.c file.
Parameters are read one after the other and put straight onto the mesh; every
tensor of the file is used exactly once, or it raises. A tied head that a file
has as well must be the embeddings.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any, Protocol

import jax
import numpy as np

from user_llm import partitioning
from user_llm import train_state
from user_llm.data import tokenizer
from user_llm.models import cross_attention as cross_attention_lib
from user_llm.models import decoder
from user_llm.models import decoder_config
from user_llm.models import lora as lora_lib
from user_llm.pretrained import families
from user_llm.pretrained import gguf_file
from user_llm.pretrained import hugging_face
from user_llm.pretrained import layout
from user_llm.pretrained import llama2c


class Source(Protocol):
  """Weights in a file, under Hugging Face's names and in its layout.

  Attributes:
    path: Where.
    config: In the words of config.json.
    shapes: Of every tensor, matrices being [out, in].
  """

  path: pathlib.Path
  config: Mapping[str, Any]
  shapes: Mapping[str, tuple[int, ...]]

  def read(self, name: str) -> np.ndarray:
    """One whole tensor, in a float type."""


def open_source(path: str) -> Source:
  """Opens weights in any format.

  Args:
    path: A directory of Hugging Face's, a .gguf file, or llama2.c's .bin.

  Raises:
    ValueError: no weights there, or only a part of them.
  """
  file = pathlib.Path(path)
  if file.is_dir():
    return hugging_face.Directory(file)
  if file.suffix == '.gguf':
    return gguf_file.File(file)
  if file.suffix == '.bin':
    return llama2c.File(file)
  raise ValueError(
      f'{path}: no such weights. Name a directory with config.json and '
      'safetensors, a .gguf file, or llama2.c weights (.bin).'
  )


def _description(path: str) -> Mapping[str, Any]:
  """In the words of config.json, which is enough: weights may be missing."""
  if pathlib.Path(path).is_dir():
    return hugging_face.read_config(pathlib.Path(path))
  return open_source(path).config


def load_config(
    *,
    path: str,
    vocabulary: str | None = None,
    cross_attention: cross_attention_lib.CrossAttentionConfig = (
        cross_attention_lib.CrossAttentionConfig()
    ),
    lora: lora_lib.LoraConfig | lora_lib.NoLoraConfig = lora_lib.NoLoraConfig(),
    dropout_rate: float = 0.0,
    scan_unroll: int = 1,
    remat: bool = False,
) -> decoder_config.DecoderConfig:
  """The decoder that weights fit.

  Args:
    path: See `open_source`.
    vocabulary: Tokenizer that will be used with it; None: the weights' own if
      they have one.
    cross_attention: Where and how users are read.
    lora: See `DecoderConfig`.
    dropout_rate: Likewise.
    scan_unroll: Likewise.
    remat: Likewise.

  Raises:
    ValueError: no such weights, or the tokenizer is not theirs.
  """
  fields = families.decoder_fields(_description(path), path)
  zero_token_id = 0
  if vocabulary is not None or tokenizer.is_at(path):
    found = tokenizer.load(vocabulary or path)
    tokenizer.check_size(found, fields['vocab_size'], path)
    zero_token_id = found.zero_token_id
  fields['vocab_size'] = max(fields['vocab_size'], zero_token_id + 1)
  return decoder_config.DecoderConfig(
      **fields,
      zero_token_id=zero_token_id,
      cross_attention=cross_attention,
      lora=lora,
      dropout_rate=dropout_rate,
      scan_unroll=scan_unroll,
      remat=remat,
  )


def load_params(
    path: str,
    config: decoder_config.DecoderConfig,
    mesh: jax.sharding.Mesh | None = None,
    dtype: Any = None,
) -> dict[str, Any]:
  """Parameters of a `Decoder`, without cross-attentions and LoRA.

  Args:
    path: See `open_source`.
    config: As from `load_config`.
    mesh: Where they go; None: the first device.
    dtype: Of the parameters; None: float32.

  Raises:
    ValueError: weights of another decoder, or incomplete ones.
  """
  mesh = mesh or jax.make_mesh(
      (1, 1, 1),
      partitioning.MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
      devices=jax.devices()[:1],
  )
  boxed = jax.eval_shape(
      decoder.Decoder(config).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 1), np.int32),
  )['params']
  targets = jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
          x.shape, dtype or x.dtype, sharding=sharding
      ),
      partitioning.unbox(boxed),
      partitioning.param_shardings(boxed, mesh),
  )
  flat = train_state.flatten(targets)
  return train_state.unflatten(_load(open_source(path), config, flat))


def _load(
    source: Source,
    config: decoder_config.DecoderConfig,
    targets: Mapping[str, Any],
) -> dict[str, jax.Array]:
  """Values for parameters (by path), with the targets' dtypes and shardings."""
  _check_same_decoder(source, config)
  parameters = layout.parameters(config)
  _check_same_names(source, parameters)
  if config.tied_embeddings and layout.HEAD in source.shapes:
    _check_tied_head(source)
  values = {}
  for parameter in parameters:
    target = targets[parameter.path]
    for name in parameter.tensors:
      shape = parameter.shape(source.shapes[name])
      if shape != target.shape:
        raise ValueError(
            f'{source.path}: {name} has shape {source.shapes[name]}, which '
            f'makes {shape}; the decoder has {target.shape} for '
            f'{parameter.path}.'
        )
    tensors = [source.read(name) for name in parameter.tensors]
    values[parameter.path] = jax.make_array_from_callback(
        target.shape,
        target.sharding,
        lambda index: parameter.value(tensors, index, target.dtype),
    )
  return values


def _check_same_decoder(
    source: Source, config: decoder_config.DecoderConfig
) -> None:
  fields = families.decoder_fields(source.config, str(source.path))
  fields['vocab_size'] = max(fields['vocab_size'], config.zero_token_id + 1)
  others = families.differences(fields, config)
  if others:
    raise ValueError(
        f'{source.path} has weights of another decoder '
        f'({source.config["model_type"]}): '
        + '; '.join(
            f'{name} is {fields[name]} there and {getattr(config, name)} in '
            'DecoderConfig'
            for name in others[:4]
        )
        + '.'
    )


def _check_same_names(
    source: Source, parameters: list[layout.Parameter]
) -> None:
  wanted = {name for p in parameters for name in p.tensors}
  missing = sorted(wanted - source.shapes.keys())
  left_over = sorted(source.shapes.keys() - wanted - {layout.HEAD})
  if missing or left_over:
    raise ValueError(
        f'{source.path} does not have the tensors of a '
        f'{source.config["model_type"]}: {len(missing)} are missing '
        f'{missing[:4]}, {len(left_over)} are left over {left_over[:4]}.'
    )


def _check_tied_head(source: Source) -> None:
  names = layout.HEAD, layout.EMBEDDINGS
  if not np.array_equal(*map(source.read, names)):
    raise ValueError(
        f'{source.path}: {names[0]} is not {names[1]}, though config.json says '
        'that they are tied: set tie_word_embeddings to false there.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
  """Pretrained parameters for a run to start from, in its INIT_FROM.

  Attributes:
    path: See `open_source`.
    config: Of the decoder.
    prefix: Path of the decoder's parameters in the model.
    new: Regexes of parameters under the prefix that start anew, if there are.
  """

  path: str
  config: decoder_config.DecoderConfig
  prefix: str = 'decoder'
  new: tuple[str, ...] = ('.*/(cross_attention|lora_[ab])/',)

  def load(
      self, params: Mapping[str, Any], identity: Mapping[str, str]
  ) -> dict[str, jax.Array]:
    """Values for the parameters that the weights have.

    Args:
      params: Parameters of the run (or their shapes) with shardings, by path.
      identity: Of the run's data; pretrained weights fit any.

    Raises:
      ValueError: the weights do not fit, or do not have everything.
    """
    del identity
    inside = f'{self.prefix}/'
    targets = {
        path.removeprefix(inside): value
        for path, value in params.items()
        if path.startswith(inside)
        and not any(re.match(regex, path) for regex in self.new)
    }
    names = {parameter.path for parameter in layout.parameters(self.config)}
    if targets.keys() != names:
      odd = sorted(targets.keys() ^ names)
      raise ValueError(
          f'INIT_FROM {self.path}: MODEL and the weights differ in {odd[:6]} '
          f'under {self.prefix!r}; what is to start anew must match '
          f'new={self.new}.'
      )
    values = _load(open_source(self.path), self.config, targets)
    return {f'{inside}{path}': value for path, value in values.items()}


"""The tokenizer in a GGUF file's metadata, as the library's that it came from.

A byte-level BPE becomes a `tokenizers.Tokenizer`, pieces with scores a model of
SentencePiece.
"""

from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

# Types of tokens, the same numbers as SentencePiece's types of pieces.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def byte_level(
    metadata: Mapping[str, Any], where: str
) -> tokenizers.Tokenizer:
  """A byte-level BPE.

  Raises:
    ValueError: text is split before it in a way that is unknown.
  """
  tokens = metadata['tokenizer.ggml.tokens']
  tokenizer = tokenizers.Tokenizer(
      models.BPE(
          vocab={token: i for i, token in enumerate(tokens)},
          merges=[
              tuple(merge.split(' ', 1))
              for merge in metadata['tokenizer.ggml.merges']
          ],
      )
  )
  split = metadata.get('tokenizer.ggml.pre', 'default')
  byte_level_split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  by_regex = lambda digits: pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(_SPLIT % digits), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])
  if split in ('default', 'gpt-2'):
    tokenizer.pre_tokenizer = byte_level_split
  elif split == 'smollm':
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level_split]
    )
  elif split == 'llama-bpe':
    tokenizer.pre_tokenizer = by_regex(3)
    tokenizer.model.ignore_merges = True
  elif split == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = by_regex(1)
  else:
    raise ValueError(
        f'{where}: a tokenizer that splits text as {split!r} is not supported '
        '(gpt-2, smollm, llama-bpe, qwen2).'
    )
  tokenizer.decoder = decoders.ByteLevel()
  types = metadata['tokenizer.ggml.token_type']
  for token, kind in zip(tokens, types):
    if kind in (_CONTROL, _USER_DEFINED):
      added = tokenizers.AddedToken(
          token, special=kind == _CONTROL, normalized=False
      )
      tokenizer.add_tokens([added])
  return tokenizer


def pieces(metadata: Mapping[str, Any]) -> bytes:
  """A serialized model of SentencePiece."""
  of = lambda name, default: metadata.get(f'tokenizer.ggml.{name}', default)
  unknown = of('unknown_token_id', 0)
  model = sentencepiece_model_pb2.ModelProto()
  for i, (token, score, kind) in enumerate(
      zip(of('tokens', []), of('scores', []), of('token_type', []))
  ):
    if kind == _USER_DEFINED:
      # llama.cpp looks for them in the text as it is.
      token = token.replace(' ', '\u2581')
    model.pieces.add(
        piece=token, score=score, type=_UNKNOWN if i == unknown else kind
    )
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
  trainer.byte_fallback = True
  trainer.vocab_size = len(model.pieces)
  trainer.unk_id = unknown
  trainer.bos_id = of('bos_token_id', -1)
  trainer.eos_id = of('eos_token_id', -1)
  trainer.pad_id = -1
  normalizer.name = 'identity'
  normalizer.add_dummy_prefix = of('add_space_prefix', True)
  normalizer.remove_extra_whitespaces = False
  return model.SerializeToString(deterministic=True)

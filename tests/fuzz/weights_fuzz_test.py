"""Fuzzes published weights: GGUF, safetensors, llama2.c, tokenizers, JSON."""

import io
import json
import pathlib
import shutil
import tempfile

import gguf
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
import sentencepiece
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import fuzzing
from user_llm.data import tokenizer
from user_llm.models import cross_attention
from user_llm.pretrained import loading

_TINY = pathlib.Path(__file__).parents[1] / 'pretrained' / 'tiny'
_CONFIGS = [
    json.loads((_TINY / family / 'config.json').read_text())
    for family in ('smollm2', 'gemma3', 'llama3')
]
_TEXT = ['the film is good', 'A film of 1995, thé 🎬', 'the the the film'] * 4
_SPECIAL = ('<|end|>', '<s>', '</s>')
# What nobody reads in a test, however it is asked for.
_MAX_VALUES = 1 << 20


def _byte_level() -> tokenizers.Tokenizer:
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  bpe.train_from_iterator(
      _TEXT,
      trainers.BpeTrainer(
          vocab_size=280, show_progress=False, special_tokens=list(_SPECIAL),
          initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      ),
  )
  return bpe


def _pieces() -> bytes:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_TEXT), model_writer=model, model_type='bpe',
      vocab_size=280, byte_fallback=True, hard_vocab_limit=False,
      minloglevel=2, num_threads=1,
  )
  return model.getvalue()


def _gguf(folder: pathlib.Path) -> bytes:
  """One layer of eight, with a tokenizer."""
  raw = json.loads(_byte_level().to_str())['model']
  tokens = sorted(raw['vocab'], key=raw['vocab'].get)
  path = folder / 'original.gguf'
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_block_count(1)
  writer.add_embedding_length(8)
  writer.add_feed_forward_length(8)
  writer.add_context_length(64)
  writer.add_head_count(2)
  writer.add_head_count_kv(1)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('gpt-2')
  writer.add_token_list(tokens)
  writer.add_token_types([3 if t in _SPECIAL else 1 for t in tokens])
  writer.add_token_merges([' '.join(pair) for pair in raw['merges']])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  for name, shape in {
      'token_embd.weight': (len(tokens), 8), 'blk.0.attn_q.weight': (8, 8),
      'blk.0.attn_k.weight': (4, 8), 'output_norm.weight': (8,),
  }.items():
    writer.add_tensor(name, np.ones(shape, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path.read_bytes()


def _llama2c() -> bytes:
  sizes = 8, 8, 1, 2, 2, 12, 4
  dim, hidden, _, heads, _, vocabulary, length = sizes
  count = vocabulary * dim + 3 * dim + 4 * dim**2 + 3 * dim * hidden
  count += length * dim // heads
  header = np.array(sizes, '<i4').tobytes()
  return header + np.ones(count, '<f4').tobytes()


def _safetensors() -> bytes:
  return safetensors_numpy.save({
      'model.embed_tokens.weight': np.ones((12, 8), np.float32),
      'model.norm.weight': np.ones(8, np.float16),
  })


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """Makes a folder for a case, which replaces that of the case before."""

  def make():
    for old in tmp_path.iterdir():
      shutil.rmtree(old)
    return pathlib.Path(tempfile.mkdtemp(dir=tmp_path))

  return make


def _configure(path: str) -> None:
  every = cross_attention.CrossAttentionConfig(every=1)
  loading.load_config(path=path, cross_attention=every)


def _read_all(path: str) -> None:
  source = loading.open_source(path)
  for name, shape in source.shapes.items():
    if 0 <= np.prod(shape, dtype=object) <= _MAX_VALUES:
      source.read(name)


def _use(path: str) -> None:
  found = tokenizer.load(path)
  for text in ('', 'the film', 'thé 🎬\0'):
    found.decode(found.encode(text))
  found.decode(range(min(found.vocab_size, 400)))


_GGUF = _gguf(pathlib.Path(tempfile.mkdtemp()))
_FAST = _byte_level().to_str().encode()


def test_the_originals_are_read(folder):
  path = folder()
  (path / 'a.gguf').write_bytes(_GGUF)
  _configure(str(path / 'a.gguf'))
  (path / 'b.bin').write_bytes(_llama2c())
  (path / 'config.json').write_text(json.dumps(_CONFIGS[0]))
  (path / 'model.safetensors').write_bytes(_safetensors())
  (path / 'tokenizer.model').write_bytes(_pieces())
  for name in ('a.gguf', 'b.bin', '.'):
    _read_all(str(path / name))
  for name in ('a.gguf', 'tokenizer.model', '.'):
    _use(str(path / name))


@fuzzing.fuzz(fuzzing.edited(_GGUF, _GGUF[:700]), quick=400, slow=8_000)
def test_gguf(case, folder):
  path = folder() / 'x.gguf'
  path.write_bytes(case)
  for use in (_configure, _read_all, _use):
    with fuzzing.only_mistakes():
      use(str(path))


@fuzzing.fuzz(fuzzing.edited(_safetensors()), quick=400, slow=8_000)
def test_safetensors(case, folder):
  path = folder()
  (path / 'config.json').write_text(json.dumps(_CONFIGS[0]))
  (path / 'model.safetensors').write_bytes(case)
  with fuzzing.only_mistakes():
    _read_all(str(path))


@fuzzing.fuzz(
    fuzzing.edited_json({
        'metadata': {'total_size': 3},
        'weight_map': {'a': 'model.safetensors', 'b': 'model.safetensors'},
    })
    | fuzzing.json_values(),
    quick=150,
    slow=3_000,
)
def test_an_index_of_shards(case, folder):
  path = folder()
  (path / 'config.json').write_text(json.dumps(_CONFIGS[0]))
  (path / 'model.safetensors.index.json').write_text(json.dumps(case))
  (path / 'model.safetensors').write_bytes(_safetensors())
  with fuzzing.only_mistakes():
    _read_all(str(path))


@fuzzing.fuzz(fuzzing.edited(_llama2c()), quick=300, slow=6_000)
def test_llama2c(case, folder):
  path = folder() / 'x.bin'
  path.write_bytes(case)
  with fuzzing.only_mistakes():
    _configure(str(path))
    _read_all(str(path))


@fuzzing.fuzz(
    fuzzing.edited_json(*_CONFIGS) | fuzzing.json_values(),
    quick=350,
    slow=10_000,
)
def test_config_json(case, folder):
  path = folder()
  (path / 'config.json').write_text(json.dumps(case))
  with fuzzing.only_mistakes():
    _configure(str(path))


@fuzzing.fuzz(fuzzing.edited(_FAST), quick=300, slow=6_000)
def test_tokenizer_json_bytes(case, folder):
  path = folder()
  (path / 'tokenizer.json').write_bytes(case)
  with fuzzing.only_mistakes():
    _use(str(path / 'tokenizer.json'))


@fuzzing.fuzz(
    fuzzing.edited_json(json.loads(_FAST)), quick=150, slow=6_000
)
def test_tokenizer_json_values(case, folder):
  path = folder()
  (path / 'tokenizer.json').write_text(json.dumps(case))
  (path / 'tokenizer_config.json').write_text('{"eos_token": "<|end|>"}')
  with fuzzing.only_mistakes():
    _use(str(path / 'tokenizer.json'))


@fuzzing.fuzz(
    fuzzing.edited_json(
        {'bos_token': {'content': '<s>'}, 'eos_token': '</s>'},
        {'eos_token_id': [1, 2]},
    )
    | fuzzing.json_values(),
    quick=150,
    slow=3_000,
)
def test_tokenizer_config(case, folder):
  path = folder()
  (path / 'tokenizer.json').write_bytes(_FAST)
  for name in ('tokenizer_config.json', 'config.json'):
    (path / name).write_text(json.dumps(case))
  with fuzzing.only_mistakes():
    _use(str(path))


@fuzzing.fuzz(fuzzing.edited(_pieces()), quick=300, slow=6_000)
def test_pieces(case, folder):
  path = folder() / 'x.model'
  path.write_bytes(case)
  with fuzzing.only_mistakes():
    _use(str(path))

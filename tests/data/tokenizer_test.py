"""Pretrained tokenizers: from Hugging Face's files and from GGUF."""

import io
import json

import gguf
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from user_llm.data import tokenizer
from user_llm.data import tokenizer_vocabulary

_LINES = [
    'The 3 films of 1995: Toy Story, Heat! and Casino!',
    "It's a film that I've seen 12 times, wasn't it?",
    'Ünïcödé, 日本語 and some  spaces',
] * 4
_TEXTS = (*_LINES[:3], ' Heat (1995)!', 'new\n\n line 🎬', '!!', '')


def _write_fast(folder, specials=(), split=None, **tokens):
  """A byte-level BPE in Hugging Face's files."""
  folder.mkdir(exist_ok=True)
  bpe = tokenizers.Tokenizer(models.BPE())
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.pre_tokenizer = split or byte_level
  bpe.decoder = decoders.ByteLevel()
  bpe.train_from_iterator(
      _LINES,
      trainers.BpeTrainer(
          vocab_size=320, show_progress=False, special_tokens=list(specials),
          initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      ),
  )
  added = [t['content'] if isinstance(t, dict) else t for t in tokens.values()]
  bpe.add_special_tokens([t for t in added if t])
  bpe.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(json.dumps(tokens))
  return bpe


def _write_pieces(folder, **kwargs):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_LINES), model_writer=model, model_type='bpe',
      vocab_size=340, byte_fallback=True, hard_vocab_limit=False,
      normalization_rule_name='identity', remove_extra_whitespaces=False,
      minloglevel=2, num_threads=1, **kwargs,
  )
  folder.mkdir(exist_ok=True)
  (folder / 'tokenizer.model').write_bytes(model.getvalue())
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _write_gguf(path, model, tokens, types, **more):
  writer = gguf.GGUFWriter(path, 'llama')
  writer.add_tokenizer_model(model)
  writer.add_token_list(tokens)
  writer.add_token_types(types)
  for name, value in more.items():
    getattr(writer, f'add_{name}')(value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path)


def test_a_special_token_at_0_is_padding(tmp_path):
  """As in SmolLM2: <|endoftext|> is 0, and nobody writes it."""
  specials = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
  bpe = _write_fast(
      tmp_path, specials, bos_token='<|im_start|>', eos_token='<|im_end|>'
  )
  found = tokenizer.load(str(tmp_path))
  assert (found.bos_id, found.eos_id, found.zero_token_id) == (1, 2, 0)
  assert found.vocab_size == found.num_published == bpe.get_vocab_size()
  for text in _TEXTS:
    assert found.encode(text) == bpe.encode(text).ids
    ids = [found.bos_id, *found.encode(text), found.eos_id, 0, 0]
    assert found.decode(ids) == text


def test_text_at_0_has_the_first_free_id(tmp_path):
  """As in Qwen: ! is 0, and there is no bos."""
  bpe = _write_fast(
      tmp_path, bos_token=None, eos_token={'content': '<|endoftext|>'}
  )
  assert bpe.id_to_token(0) == '!'
  eos = bpe.token_to_id('<|endoftext|>')
  found = tokenizer.load(str(tmp_path / 'tokenizer.json'))
  assert (found.bos_id, found.eos_id) == (eos, eos)
  assert found.zero_token_id == found.num_published == bpe.get_vocab_size()
  assert found.vocab_size == found.num_published + 1
  for text in _TEXTS:
    want = [i or found.zero_token_id for i in bpe.encode(text).ids]
    assert found.encode(text) == want
    assert found.decode([0, 0, *want, 0]) == text


def test_a_bos_at_0_is_moved_too(tmp_path):
  _write_fast(
      tmp_path, ['<|endoftext|>'],
      bos_token='<|endoftext|>', eos_token='<|endoftext|>',
  )
  found = tokenizer.load(str(tmp_path))
  assert found.bos_id == found.eos_id == found.zero_token_id > 0


def test_special_tokens_in_text_are_text(tmp_path):
  _write_fast(tmp_path, ['<pad>', '<s>', '</s>'], bos_token='<s>',
              eos_token='</s>')
  found = tokenizer.load(str(tmp_path))
  ids = found.encode('Heat</s>')
  assert found.eos_id not in ids
  assert found.decode(ids) == 'Heat</s>'


def test_ids_of_config_json_where_the_tokenizer_says_none(tmp_path):
  _write_fast(tmp_path, ['<pad>', '<s>', '</s>'])
  with pytest.raises(ValueError, match='eos_token_id is -1'):
    tokenizer.load(str(tmp_path))
  (tmp_path / 'config.json').write_text(
      json.dumps({'bos_token_id': 1, 'eos_token_id': [2, 5]})
  )
  found = tokenizer.load(str(tmp_path))
  assert (found.bos_id, found.eos_id) == (1, 2)


def test_pieces_of_a_directory(tmp_path):
  """As in Llama 2: 0 is unknown, which bytes make impossible."""
  want = _write_pieces(tmp_path)
  found = tokenizer.load(str(tmp_path))
  assert (found.bos_id, found.eos_id, found.zero_token_id) == (1, 2, 0)
  for text in _TEXTS:
    assert found.encode(text) == want.encode(text)
    assert 0 not in found.encode(text)
    assert found.decode(found.encode(text)) == text


@pytest.mark.parametrize('split', ['gpt-2', 'smollm'])
def test_byte_level_bpe_in_gguf(tmp_path, split):
  if split == 'smollm':
    splits = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
  else:
    splits = None
  specials = ['<|endoftext|>', '<s>', '</s>']
  bpe = _write_fast(tmp_path, specials, splits, bos_token='<s>',
                    eos_token='</s>')
  raw = json.loads(bpe.to_str())['model']
  tokens = sorted(raw['vocab'], key=raw['vocab'].get)
  path = _write_gguf(
      tmp_path / 'a.gguf', 'gpt2', tokens,
      [3 if token in specials else 1 for token in tokens],
      token_merges=[' '.join(pair) for pair in raw['merges']],
      tokenizer_pre=split, bos_token_id=1, eos_token_id=2,
  )
  found = tokenizer.load(path)
  assert (found.bos_id, found.eos_id, found.zero_token_id) == (1, 2, 0)
  for text in _TEXTS:
    assert found.encode(text) == bpe.encode(text).ids
    assert found.decode(found.encode(text)) == text


@pytest.mark.parametrize('dummy_prefix', [True, False])
def test_pieces_in_gguf(tmp_path, dummy_prefix):
  want = _write_pieces(
      tmp_path, add_dummy_prefix=dummy_prefix,
      user_defined_symbols=['\u2581\u2581'],
  )
  size = want.get_piece_size()
  tokens = [want.id_to_piece(i) for i in range(size)]
  user_defined = tokens.index('\u2581\u2581')
  kinds = [
      2 if want.is_unknown(i) else 3 if want.is_control(i)
      else 6 if want.is_byte(i) else 4 if i == user_defined else 1
      for i in range(size)
  ]
  tokens[user_defined] = '  '
  path = _write_gguf(
      tmp_path / 'a.gguf', 'llama', tokens, kinds,
      token_scores=[want.get_score(i) for i in range(size)],
      add_space_prefix=dummy_prefix, unk_token_id=0, bos_token_id=1,
      eos_token_id=2,
  )
  found = tokenizer.load(path)
  for text in _TEXTS:
    assert found.encode(text) == want.encode(text), text
    assert found.decode(found.encode(text)) == text


def test_whether_a_first_word_has_a_space(tmp_path):
  _write_fast(tmp_path / 'a', ['<pad>', '<s>'], bos_token='<s>',
              eos_token='<s>')
  _write_pieces(tmp_path / 'b')
  assert not tokenizer.load(str(tmp_path / 'a')).adds_space
  assert tokenizer.load(str(tmp_path / 'b')).adds_space


def test_what_is_no_tokenizer_is_named(tmp_path):
  assert not tokenizer.is_at(str(tmp_path))
  with pytest.raises(ValueError, match='no tokenizer.json'):
    tokenizer.load(str(tmp_path))
  (tmp_path / 'tokenizer.json').write_text('{"model"')
  assert tokenizer.is_at(str(tmp_path))
  with pytest.raises(ValueError, match='is not a tokenizer'):
    tokenizer.load(str(tmp_path))
  for model, merges, message in (
      ('rwkv', ['a a'], "model 'rwkv' is not supported"),
      ('gpt2', ['a a'], "splits text as 'tekken' is not supported"),
      ('gpt2', ['b b'], 'is not a tokenizer'),
  ):
    path = _write_gguf(
        tmp_path / f'{model}{merges[0]}.gguf', model, ['a', 'aa'], [1, 1],
        token_merges=merges, tokenizer_pre='tekken',
    )
    with pytest.raises(ValueError, match=message):
      tokenizer.load(path)


def test_a_tokenizer_of_other_weights_is_named(tmp_path):
  _write_fast(tmp_path, ['<pad>', '<s>'], bos_token='<s>', eos_token='<s>')
  found = tokenizer.load(str(tmp_path))
  size = found.num_published
  tokenizer.check_size(found, size, 'w')
  tokenizer.check_size(found, size + 24, 'w')
  for num_rows in (size - 1, size + 2000):
    with pytest.raises(ValueError, match=f'has {size} tokens and the weights'):
      tokenizer.check_size(found, num_rows, 'w')


def test_a_special_token_behind_the_last_row_is_never_used(tmp_path):
  """As Gemma 3's <image_soft_token>, for which small ones have no row."""
  bpe = _write_fast(
      tmp_path, ['<pad>', '<s>'], bos_token='<s>', eos_token='<s>'
  )
  num_rows = bpe.get_vocab_size()
  bpe.add_special_tokens(['<image>'])
  bpe.save(str(tmp_path / 'tokenizer.json'))
  found = tokenizer.load(str(tmp_path))
  assert max(found.encode('<image> Heat')) < num_rows < found.num_published
  tokenizer.check_size(found, num_rows, 'w')
  bpe.add_tokens(['Heat'])
  bpe.save(str(tmp_path / 'tokenizer.json'))
  found = tokenizer.load(str(tmp_path))
  assert max(found.encode('Heat')) > num_rows
  with pytest.raises(ValueError, match='tokens and the weights'):
    tokenizer.check_size(found, num_rows, 'w')


def test_as_a_vocabulary_of_seqio(tmp_path):
  _write_fast(tmp_path, bos_token=None, eos_token='<|endoftext|>')
  found = tokenizer_vocabulary.TokenizerVocabulary(
      tokenizer.load(str(tmp_path))
  )
  ids = found.encode(_LINES[0])
  assert found.pad_id == 0 and 0 not in ids
  assert found.vocab_size == max(ids) + 1
  assert found.decode([*ids, found.eos_id, 5, 6]) == _LINES[0]
  assert found.tokenizer.decode(ids) == f' {_LINES[0]}'
  tensor = found.encode_tf(_LINES[0])
  assert tensor.numpy().tolist() == ids
  assert found.decode_tf(tensor).numpy().decode() == _LINES[0]

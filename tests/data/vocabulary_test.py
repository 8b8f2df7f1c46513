import collections
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import fixtures
from user_llm.data import prompts
from user_llm.data import schema
from user_llm.data import vocabulary

LINES = ['Café  Müller (1985)', 'Léon: The Professional', " 'Tis", 'A', '東京']


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
  path = tmp_path_factory.mktemp('vocabulary') / 'small.model'
  path.write_bytes(vocabulary.train(LINES * 3, size=200))
  return vocabulary.load(str(path))


def test_the_command_tells_only_its_own(tiny_dataset, tmp_path):
  environment = dict(os.environ)
  del environment['TF_CPP_MIN_LOG_LEVEL']
  done = subprocess.run(
      [
          sys.executable, '-m', 'user_llm.data.vocabulary',
          f'--data_dir={tiny_dataset}', f'--output={tmp_path / "v.model"}',
      ],
      env=environment,
      capture_output=True,
      text=True,
      check=True,
  )
  (told,) = done.stderr.splitlines()
  assert told.endswith('pieces, not 1000.')


def test_ids(loaded):
  assert (loaded.pad_id, loaded.eos_id, loaded.unk_id, loaded.bos_id) == (
      0, 1, 2, 3,
  )


@pytest.mark.parametrize('text', LINES + ['other ASCII? ~#{Z}'])
def test_round_trip_is_exact(loaded, text):
  ids = loaded.encode(text)
  assert loaded.unk_id not in ids
  assert loaded.decode(ids) == text


def test_a_foreign_character_is_unknown(loaded):
  assert loaded.unk_id in loaded.encode('Ω')


def test_the_same_lines_give_the_same_bytes():
  assert vocabulary.train(LINES, size=150) == vocabulary.train(LINES, size=150)


def test_fingerprint_is_that_of_the_model(loaded, tmp_path):
  path = tmp_path / 'copy.model'
  path.write_bytes(loaded.sp_model)
  assert vocabulary.fingerprint(loaded) == vocabulary.fingerprint(
      vocabulary.load(str(path))
  )
  path = tmp_path / 'other.model'  # seqio caches models by their path.
  path.write_bytes(vocabulary.train(LINES + ['b'], size=150))
  assert vocabulary.fingerprint(loaded) != vocabulary.fingerprint(
      vocabulary.load(str(path))
  )


def test_command(tiny_dataset, tmp_path, capsys):
  path = tmp_path / 'deep' / 'tiny.model'
  vocabulary.main(['--data_dir', tiny_dataset, '--output', str(path)])
  loaded = vocabulary.load(str(path))
  out = capsys.readouterr()
  assert f'{loaded.vocab_size} pieces' in out.out
  assert 'not 1000' in out.err  # 40 titles do not support that many.
  assert vocabulary.fingerprint(loaded) in out.out
  for item in schema.load_catalogue(tiny_dataset):
    assert loaded.decode(loaded.encode(item.title)) == item.title
  wordings = prompts.templates('next_item', schema.load_schema(
      data_dir=tiny_dataset
  ))
  for question in wordings:
    assert loaded.decode(loaded.encode(question)) == question
  assert [p.name for p in path.parent.iterdir()] == ['tiny.model']


@pytest.mark.parametrize(
    ['output', 'size', 'message'],
    [
        ('x.model', '20', 'larger --size'),
        ('.', '1000', 'is a directory; name a file'),
    ],
)
def test_command_refuses(
    tiny_dataset, tmp_path, capsys, output, size, message
):
  with pytest.raises(SystemExit) as exit_info:
    vocabulary.main([
        '--data_dir', tiny_dataset, '--output', str(tmp_path / output),
        '--size', size,
    ])
  assert exit_info.value.code == 2
  assert message in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_corpus_has_a_wording_of_each_task_an_item(tiny_dataset):
  lines = collections.Counter(vocabulary.corpus(tiny_dataset))
  assert lines['Film 7 (1957)'] == 1 and lines['Comedy'] > 1
  for wordings in (
      ('Which film next?', 'What film follows?', 'The next film?'),
      ('Favourite genre?', 'Preferred genre?', 'Usual genre?'),
      ('Review of', 'Words about', 'Opinion on'),
  ):
    counts = [lines[w] for w in wordings]
    assert sum(counts) == 40 and min(counts) >= 13


def test_texts_are_sampled_from_training_events(tiny_dataset, monkeypatch):
  users = fixtures.random_users()
  every = collections.Counter(
      text
      for user in users
      for item in user.items[:-2]
      for name in fixtures.TEXTS
      if (text := fixtures.text_of(name, item))
  )
  texts = vocabulary.sample_texts(tiny_dataset, schema.LEAVE_ONE_OUT)
  assert collections.Counter(texts) == every
  monkeypatch.setattr(vocabulary, 'MAX_TEXTS', 40)
  monkeypatch.setattr(vocabulary, 'MAX_TEXT_CHARACTERS', 6)
  some = vocabulary.sample_texts(tiny_dataset, schema.LEAVE_ONE_OUT)
  assert 20 < len(some) <= 40
  assert set(some) == {'I have', 'Good f'}


def test_texts_that_a_split_rule_holds_out_are_not_sampled(
    tiny_dataset, tmp_path
):
  users = fixtures.random_users()
  # A user's event i is at second 60 * i.
  times = sorted(60 * i for user in users for i in range(len(user.items)))
  first = times[int(np.ceil(0.8 * (len(times) - 1)))]
  texts = vocabulary.sample_texts(tiny_dataset, schema.GLOBAL_TIME)
  assert collections.Counter(texts) == collections.Counter(
      text
      for user in users
      for i, item in enumerate(user.items)
      for name in fixtures.TEXTS
      if 60 * i < first and (text := fixtures.text_of(name, item))
  )
  # No user has the 52 events of this rule.
  path = tmp_path / 'paper.model'
  vocabulary.main([
      '--data_dir', tiny_dataset, '--output', str(path),
      '--split_rule', 'paper_windows',
  ])
  lines = vocabulary.corpus(tiny_dataset)
  assert path.read_bytes() == vocabulary.train(lines, size=1000)


def test_rare_characters_of_texts_are_spelt_in_bytes(tmp_path):
  rng = np.random.default_rng(0)
  texts = [''.join(rng.choice(list('abcdefgh '), 60)) for _ in range(100)]
  texts.append('❤ \U0001f600')
  path = tmp_path / 'texts.model'
  path.write_bytes(vocabulary.train(LINES * 3, size=500, texts=texts))
  loaded = vocabulary.load(str(path))
  for text in LINES + ['❤ \U0001f600 and Ω']:
    ids = loaded.encode(text)
    assert loaded.unk_id not in ids
    assert loaded.decode(ids) == text
  assert len(loaded.encode('東')) <= 2 < len(loaded.encode('❤'))


def test_no_file(tmp_path):
  with pytest.raises(ValueError, match='VOCABULARY .* does not exist'):
    vocabulary.load(str(tmp_path / 'none.model'))


def test_not_a_model(tmp_path):
  path = tmp_path / 'bad.model'
  path.write_text('not a model')
  with pytest.raises(ValueError, match='is not a SentencePiece model'):
    vocabulary.load(str(path))


@pytest.mark.slow
def test_round_trip_of_every_film(real_data):
  lines = (real_data / 'movielens' / 'ml-1m' / 'movies.dat').read_text(
      encoding='latin-1'
  )
  titles = [line.split('::')[1] for line in lines.splitlines()]
  model = vocabulary.train(titles, size=1000)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert processor.vocab_size() == 1000
  for title in titles:
    assert processor.decode(processor.encode(title)) == title


def test_pretrained_tokenizers_encode_text_behind_a_space(tmp_path):
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  bpe.train_from_iterator(LINES, trainers.BpeTrainer(
      vocab_size=300, special_tokens=['<pad>', '</s>'], show_progress=False,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  ))
  bpe.save(str(tmp_path / 'tokenizer.json'))
  (tmp_path / 'tokenizer_config.json').write_text('{"eos_token": "</s>"}')
  loaded = vocabulary.load(str(tmp_path))
  assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (1, 1, 0)
  for text in LINES:
    assert loaded.encode(text) == bpe.encode(f' {text}').ids
    assert loaded.decode(loaded.encode(text)) == text
  assert vocabulary.encode_all(loaded, ['', 'A']) == [[], loaded.encode('A')]
  assert len(vocabulary.fingerprint(loaded)) == 16
  assert vocabulary.vocab_size(path=str(tmp_path)) == bpe.get_vocab_size()


def test_models_with_other_special_ids_are_pretrained_ones(tmp_path):
  """As Llama 2's: unknown, bos, eos. What is unknown must not be padding."""
  path = tmp_path / 'llama.model'
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(LINES), model_writer=model, vocab_size=60,
      hard_vocab_limit=False, minloglevel=2,
  )
  path.write_bytes(model.getvalue())
  loaded = vocabulary.load(str(path))
  assert (loaded.bos_id, loaded.eos_id) == (1, 2)
  unknown = loaded.encode('\u03a9')[-1]
  assert unknown == loaded.vocab_size - 1 > 0

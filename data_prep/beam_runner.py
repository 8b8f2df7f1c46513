"""Which runner takes the pipelines, and what it is told.

Workers import `data_prep` and `user_llm`: their image, or what they mount, must
have this checkout on PYTHONPATH and its dependencies, the extra `beam` too.
"""

from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runners
from apache_beam.runners.portability import fn_api_runner

from data_prep import progress

DIRECT = 'DirectRunner'
# It holds everything in the memory of one Python process: 1.7 GB, and 150
# CPU-seconds, for the 25 MB of MovieLens 1M.
_MAX_DIRECT_BYTES = 32 << 20


class Runner:
  """Runs pipelines one after another.

  Attributes:
    options: Beam's.
  """

  def __init__(self, name: str, options: Sequence[str]):
    """Prepares for pipelines.

    Args:
      name: 'DirectRunner', 'FlinkRunner', 'SparkRunner', 'DataflowRunner', or
        another one that Beam knows.
      options: Flags of Beam and of the runner.

    Raises:
      ValueError: Beam knows no such runner.
    """
    self._is_direct = name == DIRECT
    runner = [] if self._is_direct else [f'--runner={name}']
    self.options = pipeline_options.PipelineOptions([*runner, *options])
    # Now, not after an hour of parsing.
    beam_runners.create_runner(name)

  def check_size(self, num_bytes: int) -> None:
    """Raises a ValueError if that much input is too much for the runner."""
    if self._is_direct and num_bytes > _MAX_DIRECT_BYTES:
      raise ValueError(
          f'--runner={DIRECT} is for trying things out: it holds all in the '
          f'memory of one process, and {num_bytes:,} bytes of input are more '
          f'than the {_MAX_DIRECT_BYTES:,} it is given. Leave out '
          '--engine=beam (the local engine is made for one machine and any '
          'size), or give the --runner of a cluster.'
      )

  def run(self, name: str, build: Callable[[beam.Pipeline], None]) -> None:
    """Builds a pipeline, and waits until it is done."""
    # Beam's own choice for DirectRunner would fetch a binary from the network.
    runner = fn_api_runner.FnApiRunner() if self._is_direct else None
    with (
        progress.stage(f'beam: {name}'),
        beam.Pipeline(runner, self.options) as pipeline,
    ):
      build(pipeline)

"""Runs the processes of one machine and restarts them by exit code.

  python -m launch.supervisor --processes=2 --logs=DIR -- ENTRY_ARGUMENTS

Each rank writes to a log file of its own; the first one is shown as well. On
SIGTERM or ctrl-C all ranks are told to save and end; the second time they are
killed, unless that comes so soon that it is the same signal.
"""

import argparse
from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from launch import exit_codes

_POLL_SECS = 0.1
# How long other ranks may take to fail of the same mistake by themselves.
_SAME_MISTAKE_SECS = 2.0


@dataclasses.dataclass(kw_only=True)
class Supervisor:
  """The ranks of one machine.

  Attributes:
    command: Of each rank.
    processes: How many ranks; if several, they are told of each other.
    logs: Folder of the logs.
    first_rank: Of this machine, for the names of the logs.
    environment: Of each rank.
    grace_secs: From the first signal to SIGKILL.
    pause_secs: Before the first restart; it doubles.
    max_pause_secs: The longest; it is the first where another process has the
      workdir, which may take long to save and end.
    exit_file: Where machines of one job tell each other that it is over.
    same_secs: Signals so soon after the first one are the same one, from a
      queue and from a parent that passes it on.
    upload_secs: How often the logs are closed, which is when gcsfuse uploads.
  """

  command: Sequence[str]
  processes: int
  logs: pathlib.Path
  first_rank: int = 0
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  grace_secs: float = 120.0
  pause_secs: float = 1.0
  max_pause_secs: float = 60.0
  exit_file: pathlib.Path | None = None
  same_secs: float = 5.0
  upload_secs: float = 30.0

  def __post_init__(self):
    self._num_signals = 0
    self._signalled_secs = float('-inf')
    self._ranks: list[subprocess.Popen] = []

  def run(self) -> int:
    """Until the job is done or cannot go on; returns its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._on_signal)
    pause_secs = self.pause_secs
    while True:
      code = self._run_once()
      is_over = self._num_signals or not exit_codes.is_retried(code)
      self._say(exit_codes.describe(code))
      if is_over:
        self._tell(code)
        return code
      told = self._told()
      if told is not None:
        self._say(f'another host ended with {exit_codes.describe(told)}')
        return told
      if code == exit_codes.IN_USE:
        pause_secs = self.max_pause_secs
      self._say(f'restart in {pause_secs:.0f} s')
      self._sleep(pause_secs)
      pause_secs = min(2 * pause_secs, self.max_pause_secs)
      if self._num_signals:
        return code

  def _run_once(self) -> int:
    self.logs.mkdir(parents=True, exist_ok=True)
    paths = [
        self.logs / f'rank-{self.first_rank + i:04d}.log'
        for i in range(self.processes)
    ]
    port = _free_port()
    with _Shown(paths[0]):
      self._ranks = [
          self._start(i, path, port) for i, path in enumerate(paths)
      ]
      if self._num_signals:  # It came while they were being started.
        self._signal(signal.SIGTERM)
      codes = self._wait(paths)
    self._ranks = []
    return exit_codes.of_job(codes)

  def _start(
      self, index: int, path: pathlib.Path, port: int
  ) -> subprocess.Popen:
    environment = {**os.environ, **self.environment, 'PYTHONUNBUFFERED': '1'}
    if self.processes > 1:
      environment |= {
          'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
          'JAX_NUM_PROCESSES': str(self.processes),
          'JAX_PROCESS_ID': str(index),
      }
    with path.open('ab') as log:
      return subprocess.Popen(
          self.command,
          env=environment,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          start_new_session=True,  # ctrl-C comes to us alone.
      )

  def _wait(self, logs: Sequence[pathlib.Path]) -> list[int]:
    """Codes of the ranks that ended by themselves, in the order of ending."""
    running = list(self._ranks)
    codes: list[int] = []
    killed_at = float('inf')
    is_killed = False
    upload_at = time.monotonic() + self.upload_secs
    while running:
      if time.monotonic() >= upload_at:
        _upload(logs)
        upload_at = time.monotonic() + self.upload_secs
      for rank in [r for r in running if r.poll() is not None]:
        running.remove(rank)
        if not is_killed:
          codes.append(exit_codes.of_process(rank.returncode))
      if any(codes) or self._num_signals:
        killed_at = min(killed_at, time.monotonic() + self._patience(codes))
      if running and (
          time.monotonic() >= killed_at or self._num_signals > 1
      ):
        is_killed = True
        self._signal(signal.SIGKILL)
        codes.append(128 + signal.SIGKILL)
      time.sleep(_POLL_SECS)
    return codes

  def _patience(self, codes: Sequence[int]) -> float:
    """Seconds that the other ranks still have."""
    if self._num_signals or exit_codes.PREEMPTED in codes:
      return self.grace_secs
    return _SAME_MISTAKE_SECS

  def _on_signal(self, *unused: object) -> None:
    now = time.monotonic()
    if now - self._signalled_secs < self.same_secs:
      return
    self._signalled_secs = now
    self._num_signals += 1
    self._signal(signal.SIGTERM)

  def _signal(self, number: int) -> None:
    for rank in self._ranks:
      if rank.poll() is None:
        rank.send_signal(number)

  def _sleep(self, secs: float) -> None:
    end = time.monotonic() + secs
    while time.monotonic() < end and not self._num_signals:
      time.sleep(_POLL_SECS)

  def _tell(self, code: int) -> None:
    """Tells the other hosts that it is over; the first one, if all is well."""
    is_told_by_first = code == exit_codes.DONE and self.first_rank
    is_over = not exit_codes.is_retried(code) and not is_told_by_first
    if self.exit_file is not None and is_over:
      row = {'code': code, 'rank': self.first_rank}
      self.exit_file.write_text(json.dumps(row), encoding='utf-8')

  def _told(self) -> int | None:
    if self.exit_file is None or not self.exit_file.is_file():
      return None
    return json.loads(self.exit_file.read_text(encoding='utf-8'))['code']

  def _say(self, text: str) -> None:
    print(f'launch: {text}', file=sys.stderr, flush=True)


def _upload(logs: Sequence[pathlib.Path]) -> None:
  """Closes what the ranks keep open: any close of a file will do."""
  for path in logs:
    with contextlib.suppress(OSError):
      path.open('ab').close()


class _Shown:
  """Copies what is added to a file to the terminal."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._copy, daemon=True)
    self._start = path.stat().st_size if path.is_file() else 0

  def __enter__(self) -> '_Shown':
    self._thread.start()
    return self

  def __exit__(self, *unused: object) -> None:
    self._is_over.set()
    self._thread.join()

  def _copy(self) -> None:
    while not self._path.is_file() and not self._is_over.is_set():
      time.sleep(_POLL_SECS)
    if not self._path.is_file():
      return
    with self._path.open('rb') as file:
      file.seek(self._start)
      is_last = False
      while True:
        sys.stdout.buffer.write(file.read())
        sys.stdout.flush()
        if is_last:
          return
        is_last = self._is_over.wait(_POLL_SECS)


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> int:
  argv = list(sys.argv[1:] if argv is None else argv)
  end = argv.index('--')
  parser = argparse.ArgumentParser(prog='launch.supervisor', allow_abbrev=False)
  parser.add_argument('--processes', type=int, default=1)
  parser.add_argument('--fake_devices', type=int, default=0)
  parser.add_argument('--logs', type=pathlib.Path, required=True)
  parser.add_argument('--grace_secs', type=float, default=120.0)
  parser.add_argument('--exit_file', type=pathlib.Path)
  args = parser.parse_args(argv[:end])
  environment = {}
  if args.fake_devices:
    flags = os.environ.get('XLA_FLAGS', '')
    count = f'--xla_force_host_platform_device_count={args.fake_devices}'
    environment = {
        'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{flags} {count}'.strip()
    }
  return Supervisor(
      command=[sys.executable, '-m', 'launch.entry', *argv[end + 1 :]],
      processes=args.processes,
      logs=args.logs,
      first_rank=int(os.environ.get('USER_LLM_WORKER', '0')),
      environment=environment,
      grace_secs=args.grace_secs,
      exit_file=args.exit_file,
  ).run()


if __name__ == '__main__':
  sys.exit(main())

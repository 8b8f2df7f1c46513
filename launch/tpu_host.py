#!/usr/bin/env python3
"""Start-up script of each Cloud TPU VM: mounts, then becomes the container.

It runs alone, as root, on the VM's own Python (3.8 or newer). What to do is in
the VM's metadata under `user-llm-job`, which `backends/tpu_vm.py` writes.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/'
_GCSFUSE = 'https://packages.cloud.google.com/apt'
_CONTAINER = 'user-llm'
# Before a command that failed is tried again.
_WAITS_SECS = (10, 60)


def main():
  """Returns only if something fails; then the watcher is told, and ends it."""
  job = json.loads(_metadata('user-llm-job'))
  try:
    _start(job)
  except (Exception, SystemExit) as error:
    _tell(job['exit_url'], '%s: %s' % (socket.gethostname(), error))
    raise


def _start(job):
  """Becomes the container."""
  for mount, source in job['volume'].items():
    _mount(mount, source)
  environment = dict(os.environ, HOME='/root')
  for name, secret in job['secret'].items():
    environment[name] = _output(
        'gcloud', 'secrets', 'versions', 'access', 'latest',
        '--secret=' + secret,
    )
  registry = job['image'].split('/')[0]
  if registry.endswith(('pkg.dev', 'gcr.io')):
    _output('gcloud', 'auth', 'configure-docker', registry, '--quiet')
  _output('docker', 'pull', '--quiet', job['image'], env=environment)
  subprocess.run(['docker', 'rm', '--force', _CONTAINER], check=False)
  argv = docker_argv(job, _worker())
  os.execvpe(argv[0], argv, environment)


def _tell(url, problem):
  """Writes what the supervisor would have written, had it been started."""
  with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
    json.dump({'code': 1, 'problem': problem}, file)
    file.flush()
    _output('gcloud', 'storage', 'cp', file.name, url)


def docker_argv(job, worker):
  """The container's command line; secrets are only named in it."""
  argv = [
      'docker', 'run', '--rm', '--name=' + _CONTAINER,
      # Both are what libtpu needs.
      '--privileged', '--network=host',
      '--stop-timeout=%d' % job['grace_secs'],
      '--env=USER_LLM_WORKER=%d' % worker,
  ]
  argv += ['--env=' + name for name in job['secret']]
  argv += ['--volume=%s:%s' % (mount, mount) for mount in job['volume']]
  return argv + [job['image']] + job['command']


def _worker():
  """The number of this host in the whole job."""
  worker = int(_metadata('agent-worker-number', '0'))
  settings = _metadata('tpu-env', '')
  found = re.search(r"^MEGASCALE_SLICE_ID:\s*'?(\d+)", settings, re.MULTILINE)
  if not found:
    return worker
  endpoints = _metadata('worker-network-endpoints', '')
  return int(found.group(1)) * len(endpoints.split(',')) + worker


def _metadata(name, default=None):
  request = urllib.request.Request(
      _METADATA + 'attributes/' + name, headers={'Metadata-Flavor': 'Google'}
  )
  try:
    with urllib.request.urlopen(request, timeout=30) as reply:
      return reply.read().decode()
  except urllib.error.HTTPError:
    if default is None:
      raise
    return default


def _mount(mount, source):
  """Mounts 'gs://BUCKET/FOLDER'."""
  if shutil.which('gcsfuse') is None:
    _install_gcsfuse()
  if os.path.ismount(mount):  # The VM was restarted.
    return
  os.makedirs(mount, exist_ok=True)
  bucket, _, folder = source[len('gs://') :].partition('/')
  only = ['--only-dir=' + folder] if folder else []
  # A checkpoint is done when its folder has been renamed; the most files of one
  # that may be, where the default is none.
  limit = '--rename-dir-limit=200000'
  _output('gcsfuse', '--implicit-dirs', limit, *only, bucket, mount)


def _install_gcsfuse():
  release = _output('lsb_release', '-c', '-s')
  key = urllib.request.urlopen(_GCSFUSE + '/doc/apt-key.gpg').read()
  with open('/usr/share/keyrings/cloud.google.asc', 'wb') as file:
    file.write(key)
  with open('/etc/apt/sources.list.d/gcsfuse.list', 'w') as file:
    file.write(
        'deb [signed-by=/usr/share/keyrings/cloud.google.asc] %s gcsfuse-%s '
        'main\n' % (_GCSFUSE, release)
    )
  _output('apt-get', 'update')
  _output('apt-get', 'install', '--yes', 'gcsfuse')


def _output(*argv, env=None):
  """What a command prints; a machine that has just started has bad moments."""
  for wait_secs in _WAITS_SECS + (None,):
    result = subprocess.run(
        argv, stdout=subprocess.PIPE, env=env, check=False
    )
    if not result.returncode:
      return result.stdout.decode().strip()
    if wait_secs is not None:
      time.sleep(wait_secs)
  sys.exit(
      '%s failed with exit code %d.'
      % (' '.join(argv[:3]), result.returncode)
  )


if __name__ == '__main__':
  main()

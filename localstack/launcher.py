"""Starts LocalStack on loopback, with the init hooks of this folder. LocalStack's own interpreter runs this file.

It changes four things that LocalStack's configuration can't:

- LocalStack's Twisted server ignores the interface of an IPv4 address and listens on 0.0.0.0.
- Outside its container, LocalStack looks for init hooks under the state folder.
- LocalStack takes 2-3 s to stop, though it has nothing to save.
- Outside its container, LocalStack has no index of AWS's APIs. It reads the specifications of all of AWS at every
  start, which takes more than half of the CPU of a start. This file creates the index once, next to the packages that
  it depends on.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from localstack.aws import spec
from localstack.logging.setup import setup_logging_from_config
from localstack.runtime import current
from twisted.internet import endpoints

from localstack import config


class _LoopbackEndpoint(endpoints.TCP4ServerEndpoint):
    def __init__(self, reactor, port):
        super().__init__(reactor, port, interface="127.0.0.1")


def _keep_index():
    config.dirs.static_libs = sys.prefix  # where LocalStack looks for it
    index = Path(sys.prefix, spec._get_catalog_filename())
    if not index.exists():
        part = index.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # if the folder can't be written, LocalStack runs without an index
            spec.build_service_index_cache(str(part))
            part.replace(index)  # other systems may be starting too


def run():
    """Runs LocalStack until a signal ends the process."""
    endpoints.TCP4ServerEndpoint = _LoopbackEndpoint  # its server looks the class up when it binds
    config.dirs.init = str(Path(__file__).with_name("init"))
    _keep_index()
    setup_logging_from_config()
    runtime = current.initialize_runtime()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    runtime.run()


if __name__ == "__main__":
    run()

"""Starts LocalStack bound to loopback, with the init hooks of this folder; run by LocalStack's own interpreter.

Three things that its configuration can't say:

- its Twisted server drops the interface of an IPv4 address and listens on 0.0.0.0;
- outside its container it looks for init hooks under the state folder;
- it takes 2-3 s to stop, though it has nothing to keep.
"""

import os
import signal
from pathlib import Path

from twisted.internet import endpoints

from localstack import config
from localstack.logging.setup import setup_logging_from_config
from localstack.runtime import current


class _LoopbackEndpoint(endpoints.TCP4ServerEndpoint):
    def __init__(self, reactor, port):
        super().__init__(reactor, port, interface="127.0.0.1")


def run():
    """Runs LocalStack until a signal ends the process."""
    endpoints.TCP4ServerEndpoint = _LoopbackEndpoint  # its server looks the class up when it binds
    config.dirs.init = str(Path(__file__).with_name("init"))
    setup_logging_from_config()
    runtime = current.initialize_runtime()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    runtime.run()


if __name__ == "__main__":
    run()

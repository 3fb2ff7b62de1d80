"""Ctrl-C asks a server to stop; the next one does not wait for it."""

import signal
import subprocess
import sys

import pytest

WAITING = """
import threading, time
from openledger.cli.serve import until_interrupted
threading.Timer(0.2, print, ["listening"], {"flush": True}).start()
until_interrupted()
print("stopping", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(second: signal.Signals) -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(second)

        assert process.wait(30) == -second

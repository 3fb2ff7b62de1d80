"""The house's own rule of time is kept by `tests/conftest.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

_TESTS = """
import time
import pytest

def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_works_long():
    work(0.8)

@pytest.mark.slow
def test_says_that_it_works_long():
    work(0.8)

def test_waits_long():
    time.sleep(0.8)

@pytest.mark.slow
def test_may_take_longer_than_others(request):
    assert request.node.get_closest_marker("timeout").args == (600,)

@pytest.mark.slow
@pytest.mark.timeout(900)
def test_may_choose_for_itself(request):
    assert request.node.get_closest_marker("timeout").args == (900,)
"""


def test_a_test_that_works_long_must_say_so(tmp_path: Path) -> None:
    """In a pytest of its own, with the limit set to a fraction of a second."""
    tests = tmp_path / "test_long.py"
    tests.write_text(_TESTS)
    (tmp_path / "conftest.py").write_text(
        "from tests import conftest\n"
        "from tests.conftest import pytest_collection_modifyitems, pytest_runtest_call\n"
        "conftest.MOST_SECONDS = 0.2\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:randomly", str(tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 4 passed" in done.stdout
    assert "::test_works_long took" in done.stdout
    assert "make it quicker or mark it slow" in done.stdout

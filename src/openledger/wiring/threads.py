"""How the threads of arithmetic wait for each other."""

import os


def let_waiting_threads_sleep() -> None:
    """To be called before torch is first imported, which reads it once.

    Threads that spin while they wait cost a busy machine many times the work (decision 18).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

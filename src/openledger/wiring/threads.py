"""How the threads of arithmetic wait for each other."""

import os

# Turns of the waiting loop, some microseconds: long enough to bridge the gap to the next operation
# on quiet cores, too short to keep a busy core from the thread that is waited for (decision 18).
_SPINS = "2000"


def limit_spinning() -> None:
    """Let threads that wait spin for a moment, then sleep, unless the user has chosen otherwise.

    To be called before torch is first imported, which reads it once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)

"""Run by a test in a process of its own, to be killed: `train_forever.py BASE RUN STEPS`.

Prints a line after each step; kills itself, with no chance to tidy up, after STEPS of them.
"""

import os
import signal
import sys
from pathlib import Path

from openledger.lm.base import load_base
from openledger.training.finetune import finetune
from openledger.training.task import Progress, Stage, Watch
from tests.training.songs import small_task


def main(base: str, run: str, steps: str) -> None:
    def tell(progress: Progress) -> None:
        if progress.stage is Stage.TRAINING and progress.done == int(steps):
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(load_base(Path(base)), small_task(), Path(run), Watch(tell, save_every=2))


if __name__ == "__main__":
    main(*sys.argv[1:])

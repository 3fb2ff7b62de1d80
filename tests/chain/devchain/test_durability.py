"""Kill -9 at random moments: what was acknowledged is there, and blocks are whole."""

import json
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chain.devchain.conftest import Node

WRITER = """
import sys
from pathlib import Path
from tests.chain.devchain.conftest import OTHER, Node
node = Node(Path(sys.argv[1]))
while True:
    print(node.send(to=OTHER, value=1), flush=True)
"""


@pytest.mark.slow
def test_a_killed_chain_keeps_every_block_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    chance = random.Random(5)
    acknowledged: list[str] = []
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged.append(process.stdout.readline().strip())
        time.sleep(chance.uniform(0.0, 0.4))
        process.kill()
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.stdout.close()
        process.wait()

        node = Node(path)
        head = int(node.ask("eth_blockNumber"), 16)
        balance = int(node.ask("eth_getBalance", "0x" + "11" * 20, "latest"), 16)
        receipts = [node.ask("eth_getTransactionReceipt", sent) for sent in acknowledged]
        parents = [node.ask("eth_getBlockByNumber", hex(n), False) for n in range(head + 1)]
        node.chain.close()

        assert head == balance
        assert head - len(acknowledged) in range(5)  # one that was not printed, each time
        assert all(receipt["status"] == "0x1" for receipt in receipts), json.dumps(receipts)
        assert all(b["parentHash"] == a["hash"] for a, b in pairwise(parents))

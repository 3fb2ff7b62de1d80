"""Kill a writer at any moment: every acknowledged transaction is there, and no half of one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openledger.storage import schema
from openledger.storage.database import Database
from openledger.storage.records.money import calls
from tests.storage.rows import GATEWAY, PAYER, sums

WRITER = """
import sys
from openledger.storage.database import Database
from tests.storage.rows import charge, fund, next_call, sums
from tests.storage.rows import GATEWAY, PAYER, sums
from openledger.storage.records.money import calls

database = Database(sys.argv[1])
with database.transaction() as transaction:
    fund(transaction, 10**9)
    start = calls.tip(transaction, GATEWAY, PAYER).gateway_sequence
for number in range(start, 10**6):
    with database.transaction() as transaction:
        charge(transaction, number, fee=7)
    print(number, flush=True)
"""


@pytest.mark.parametrize("delay", [0.02, 0.1])
def test_a_killed_writer_loses_nothing_acknowledged(
    template: Path, tmp_path: Path, delay: float
) -> None:
    path = tmp_path / "openledger.db"
    path.write_bytes(template.read_bytes())
    acknowledged = 0
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        heard = writer.stdout.read().split("\n")
        writer.wait()
        writer.stdout.close()
        acknowledged = max([acknowledged, *(int(line) for line in heard[:-1])])

    database = Database(path)
    schema.check(database)
    with database.transaction() as transaction:
        found = sums(transaction)
        at = calls.tip(transaction, GATEWAY, PAYER)
        assert transaction.connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()

    assert found.receipts >= acknowledged
    assert found.receipts == at.gateway_sequence - 1
    assert found.fees == 7 * found.receipts == at.payer_total
    assert found.held == 0

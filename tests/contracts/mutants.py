"""Mutants of the money contracts: each rule broken once, to see that a test notices.

Operators: drop an assert; turn a comparison to its neighbour; swap + and -, and with or; drop an
assignment to storage. A mutant is killed by a failing unit test or by the money machine.

    .venv-contracts/bin/python tests/contracts/mutants.py [Escrow] [evidence] [merkle] [Payouts]
"""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

import boa  # noqa: E402 - the path comes first
import pytest  # noqa: E402
import world  # noqa: E402
from boa.contracts.vyper.vyper_contract import VyperDeployer  # noqa: E402
from boa.interpret import set_search_paths  # noqa: E402

MACHINE = "test_money_machine.py"
FILES = {
    "Escrow": "Escrow.vy",
    "evidence": "modules/evidence.vy",
    "merkle": "modules/merkle.vy",
    "Payouts": "Payouts.vy",
}
SWAPS = (
    (" >= ", " > "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" == ", " != "),
    (" != ", " == "),
    (" + ", " - "),
    (" - ", " + "),
    (" += ", " -= "),
    (" and ", " or "),
    (" or ", " and "),
    ("min(", "max("),
)
LIMIT_S = 600


def mutants(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, what was done, and the text of each mutant."""
    for start, end in statements(text):
        source = text[start:end]
        number = text[:start].count("\n") + 1
        indent = source[: len(source) - len(source.lstrip())]
        if source.lstrip().startswith(("assert ", "self.")):
            calls = re.search(r"extcall|^self\._\w+\(", source.lstrip())
            if not calls:
                yield number, "drop", text[:start] + indent + "pass\n" + text[end:]
        for old, new in SWAPS:
            for found in re.finditer(re.escape(old), source):
                if in_string(source, found.start()) or "constant(" in source:
                    continue
                changed = source[: found.start()] + new + source[found.end() :]
                yield number, f"{old.strip()} to {new.strip()}", text[:start] + changed + text[end:]


def statements(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the statements in function bodies, docstrings and events left out."""
    offset, depth, begin = 0, 0, None
    is_body = is_doc = False
    for line in text.splitlines(keepends=True):
        bare = line.split("#")[0].strip() if '"' not in line else line.strip()
        if line[:1] not in (" ", "\n", ")", "#"):
            is_body = False
        if depth == 0 and bare.startswith("def "):
            is_body = True
        if bare.startswith('"""'):
            is_doc = not is_doc or (len(bare) > 3 and bare.endswith('"""'))
        elif is_body and not is_doc and bare:
            begin = offset if begin is None else begin
            depth += sum(bare.count(c) for c in "([{") - sum(bare.count(c) for c in ")]}")
            if depth == 0:
                is_head = text[begin : begin + 8].startswith(("def ", "@"))
                if not is_head and text[begin] == " ":
                    yield begin, offset + len(line)
                begin = None
        offset += len(line)


def in_string(source: str, position: int) -> bool:
    return source[:position].count('"') % 2 == 1


def survives(copy: Path, broken: str) -> bool:
    """Whether all tests pass with the contracts of `copy`, in a child of this process."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status == 0
    signal.alarm(LIMIT_S)  # a mutant that never ends is killed as well
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.update(EXAMPLES="12", STEPS="12", NO_SHRINK="1")
    set_search_paths([str(copy)])
    affected = {"merkle": ("Escrow", "Payouts"), "evidence": ("Escrow",)}.get(broken, (broken,))
    sound = world.deployer_of

    @cache
    def deployer_of(name: str) -> VyperDeployer:
        return boa.load_partial(str(copy / f"{name}.vy")) if name in affected else sound(name)

    world.deployer_of = deployer_of
    world.World.__init__.__defaults__ = (deployer_of,)
    first = "test_payouts.py" if broken == "Payouts" else "test_escrow.py"
    tests = (first, "test_vectors.py", "test_escrow.py", "test_payouts.py", MACHINE)
    paths = [str(HERE / name) for name in dict.fromkeys(tests)]
    # A child must not run its parent's clean-up.
    os._exit(int(pytest.main(["-x", "-q", "--tb=no", *paths])))


def main() -> None:
    """Run all mutants of the named files and print who survives."""
    names = sys.argv[1:] or list(FILES)
    killed, survivors = 0, []
    for name in ("OpenToken", "Identity", "Datanets", "Models", "Escrow", "Payouts"):
        world.deployer_of(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "contracts"
        shutil.copytree(world.CONTRACTS, copy)
        if not survives(copy, "merkle"):
            sys.exit("the tests fail without any mutant")
        for name in names:
            path = copy / FILES[name]
            text = path.read_text()
            for number, what, mutant in mutants(text):
                path.write_text(mutant)
                if survives(copy, name):
                    survivors.append(f"{name}:{number} {what}")
                    sys.stdout.write(f"SURVIVED {survivors[-1]}\n")
                else:
                    killed += 1
                sys.stdout.write(f"{killed} killed, {len(survivors)} alive: {name}:{number}\n")
                sys.stdout.flush()
            path.write_text(text)
    total = killed + len(survivors)
    sys.stdout.write(f"{killed} of {total} killed ({100 * killed / max(1, total):.1f} %)\n")


if __name__ == "__main__":
    main()

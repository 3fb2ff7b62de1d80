"""Compile the contracts into package data, or check that the shipped artifacts are theirs.

`build.py` writes `src/openledger/chain/artifacts/<Name>.json`; `--check` compiles and compares;
`--check-sources` needs no compiler and compares the digests of the sources only.
"""

import argparse
import json
import re
import sys
from hashlib import sha256
from pathlib import Path

CONTRACTS = Path(__file__).parent
ARTIFACTS = CONTRACTS.parent / "src" / "openledger" / "chain" / "artifacts"
NAMES = ("OpenToken", "Identity", "Datanets", "Models", "Payouts", "Escrow")
COMPILER = "0.4.3"

_IMPORT = re.compile(r"^from (modules|interfaces) import (\w+)$", re.MULTILINE)


def sources_of(name: str) -> list[Path]:
    """A contract's file and all that it includes, directly or not, by path."""
    found: set[Path] = set()
    waiting = [CONTRACTS / f"{name}.vy"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for folder, module in _IMPORT.findall(path.read_text()):
            suffix = ".vyi" if folder == "interfaces" else ".vy"
            waiting.append(CONTRACTS / folder / f"{module}{suffix}")
    return sorted(found)


def digest_of(name: str) -> str:
    """sha256 over path and text of every source, so that any edit shows."""
    total = sha256()
    for path in sources_of(name):
        text = path.read_bytes()
        total.update(f"{path.relative_to(CONTRACTS).as_posix()}\n{len(text)}\n".encode() + text)
    return total.hexdigest()


def compile_contract(name: str) -> str:
    """The artifact of one contract, as the text of its file."""
    import vyper
    from vyper.compiler import compile_from_file_input
    from vyper.compiler.input_bundle import FilesystemInputBundle

    if not vyper.__version__.startswith(COMPILER):
        raise SystemExit(f"vyper {vyper.__version__} is not {COMPILER}: run scripts/contracts")
    bundle = FilesystemInputBundle([CONTRACTS])
    output = compile_from_file_input(
        bundle.load_file(f"{name}.vy"), input_bundle=bundle, output_formats=["abi", "bytecode"]
    )
    artifact = {
        "name": name,
        "compiler": f"vyper {COMPILER}",
        "sources_sha256": digest_of(name),
        "abi": output["abi"],
        "bytecode": output["bytecode"],
    }
    return json.dumps(artifact, indent=1) + "\n"


def stale(name: str, *, compiles: bool) -> bool:
    """Whether the shipped artifact differs from what the sources give."""
    path = ARTIFACTS / f"{name}.json"
    if not path.exists():
        return True
    text = path.read_text()
    if compiles:
        return text != compile_contract(name)
    return bool(json.loads(text)["sources_sha256"] != digest_of(name))


def main() -> None:
    """Write or check; exits with 1 and the names of stale artifacts."""
    parser = argparse.ArgumentParser(description="Compile the contracts into package data.")
    parser.add_argument("--check", action="store_true", help="compile and compare")
    parser.add_argument("--check-sources", action="store_true", help="compare source digests")
    options = parser.parse_args()
    if options.check or options.check_sources:
        found = [name for name in NAMES if stale(name, compiles=options.check)]
        if found:
            sys.exit(f"stale artifacts: {', '.join(found)}; run scripts/contracts --build")
        return
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (ARTIFACTS / f"{name}.json").write_text(compile_contract(name))


if __name__ == "__main__":
    main()

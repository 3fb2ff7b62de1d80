"""The commands as users type them: results on stdout, one sentence and an exit code for errors."""

import errno
import gc
import importlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner, Result

from openledger.cli import output
from openledger.cli.context import importing
from openledger.cli.main import _globals_first, app
from openledger.lm.tokenizer import Tokenizer
from openledger.storage.home import Home
from openledger.storage.records.data.accounts import AccountKind
from openledger.wiring.platform import open_platform
from tests import market as fair
from tests.lm.families.foreign import write_folder

HEAVY = ("torch", "transformers", "web3", "sqlalchemy", "eth", "fastapi")
MODELS = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
MONEY = ("wallet", "deposited", "free", "earned", "claimable", "claimed")


@pytest.fixture
def home(market_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(market_home, tmp_path / "home"))


def run(home: Path, *arguments: str, as_json: bool = True) -> Result:
    environment = {
        "OPENLEDGER_HOME__CACHE": str(home.parent / "cache"),
        "OPENLEDGER_MODELS__BASE": "tiny",
    }
    options = ["--home", str(home), *(["--json"] if as_json else [])]
    return CliRunner().invoke(app, [*options, *arguments], env=environment)


def told(home: Path, *arguments: str) -> dict[str, object]:
    """What a command that succeeds says with --json."""
    result = run(home, *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def refusal(home: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command that fails."""
    result = run(home, *arguments)
    error = json.loads(result.stdout)["error"]
    assert error["message"] in result.stderr
    return result.exit_code, error["message"]


def commands(group: TyperGroup, *above: str) -> dict[tuple[str, ...], TyperCommand]:
    """Every command by the words that call it."""
    found: dict[tuple[str, ...], TyperCommand] = {}
    for name, one in group.commands.items():
        if isinstance(one, TyperGroup):
            found |= commands(one, *above, name)
        else:
            assert isinstance(one, TyperCommand)
            found[(*above, name)] = one
    return found


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, TyperGroup)
COMMANDS = commands(ROOT)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    assert isinstance(ROOT, TyperGroup)
    label, _, line = (COMMANDS[words].epilog or "").partition(": ")
    program, *arguments = shlex.split(line)
    above = ROOT.make_context(program, _globals_first(arguments))
    rest = [*above._protected_args, *above.args]  # what is left after the global options
    parsed = COMMANDS[words].make_context(words[-1], rest[len(words) :], parent=above)

    assert (label, program) == ("Example", "openledger")
    assert tuple(rest[: len(words)]) == words
    assert parsed.args == []
    assert line in " ".join(CliRunner().invoke(app, [*words, "--help"]).stdout.split())


def test_a_full_disk_has_its_own_code_wherever_a_command_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        pytest.raises(typer.Exit) as left,
        output.told(output.Output(as_json=True, is_quiet=True)),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "bundle.json")

    assert left.value.exit_code == 7
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "storage_full"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['openledger', '--help']\n"
        "from openledger.cli.main import run\n"
        "try: run()\nexcept SystemExit: pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert "HEAVY []" in found.stdout
    assert "Start with: openledger demo" in found.stdout
    assert seconds < 1.0  # of the processor; the figure is in docs/reference/figures.md


def test_garbage_is_looked_for_again_after_imports_even_failed_ones() -> None:
    was_looking: list[bool] = []

    def fail() -> None:
        with importing():
            was_looking.append(gc.isenabled())
            importlib.import_module("no_such_module")

    with pytest.raises(ModuleNotFoundError):
        fail()

    assert (was_looking, gc.isenabled()) == ([False], True)
    gc.unfreeze()


@pytest.mark.slow
def test_what_needs_no_model_works_without_torch(
    home: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with open_platform(fair.settings(home)) as platform:
        [made] = fair.paid_calls(platform, tokenizer, 1)
        platform.settle.run()
    note, bundle = tmp_path / "note.txt", tmp_path / "receipt.json"
    note.write_text("The ferry leaves at noon, and the piper plays a slow air for those who wait.")
    commands = (
        ("receipt", "show", made.receipt_id, "--bundle", str(bundle)),
        ("receipt", "verify", str(bundle)),
        ("wallet", "new", "alice"),
        ("wallet", "balance", "alice"),
        ("datanet", "create", "sea", "--description", "The sea.", "--licence", "CC0-1.0"),
        ("datanet", "add", "sea", str(note), "--as", "alice", "--licence", "CC0-1.0"),
        ("datanet", "show", "sea"),
        ("epoch", "show"),
        ("doctor",),
    )

    assert failing_without_models(home, commands) == []


@pytest.mark.slow
def test_serving_without_torch_is_told_with_its_cure(home: Path) -> None:
    [said] = failing_without_models(home, [("serve", "--port", "0")])

    assert "pip install" in said
    assert "Exit(7)" in said or "SystemExit(7)" in said


def failing_without_models(home: Path, commands: Sequence[Sequence[str]]) -> list[str]:
    """What those commands say that fail where the model packages cannot be imported."""
    code = (
        "import json, sys\n"
        f"sys.modules.update(dict.fromkeys({MODELS!r}))\n"
        "from typer.testing import CliRunner\n"
        "from openledger.cli.main import app\n"
        "ran = [CliRunner().invoke(app, one) for one in json.loads(sys.argv[1])]\n"
        "print(json.dumps([f'{one.output} {one.exception!r}' for one in ran if one.exit_code]))\n"
    )
    asked = json.dumps([["--home", str(home), *command] for command in commands])
    command = [sys.executable, "-c", code, asked]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    failing: list[str] = json.loads(found.stdout)
    return failing


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", CliRunner().invoke(app, ["--version"]).stdout)


def test_wallets_speak_json_with_money_as_decimal_strings(home: Path) -> None:
    made = told(home, "wallet", "new", "alice")
    has = told(home, "wallet", "deposit", "alice", "1.5", "--faucet")
    every = told(home, "wallet", "balance")
    accounts = every["accounts"]

    assert made["label"] == "user/alice"
    assert has["deposited"] == has["free"] == "1500000000000000000"
    assert isinstance(accounts, list)
    assert all(isinstance(one[name], str) for one in accounts for name in MONEY)
    assert told(home, "wallet", "claim") == {"paid": [], "total": "0"}


def test_a_reserved_name_means_the_platforms_own_account(home: Path) -> None:
    with open_platform(fair.settings(home)) as platform:
        impostor = platform.account("user/operator", AccountKind.USER, "operator")
    found = told(home, "wallet", "balance", "operator")["accounts"]

    assert isinstance(found, list)
    assert [one["label"] for one in found] == ["operator"]
    assert found[0]["address"] != impostor.address


def test_keys_are_made_and_revoked(home: Path) -> None:
    key = told(home, "wallet", "key", "dev", "--daily-cap", "0.5")

    assert str(key["key"]).startswith(str(key["prefix"]))
    assert told(home, "wallet", "revoke", str(key["prefix"])) == {}
    assert refusal(home, "wallet", "revoke", "sk-ol-nobody")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("datanet", "show", "tiny-tunse"), 3, "tiny-tunes"),
        (("datanet", "verify", "none"), 3, "none"),
        (("model", "show", "openledger/tiny-tune"), 3, "tiny-tunes"),
        (("model", "show", "no name"), 2, ""),
        (("model", "usage", "openledger/tiny-tune"), 3, "tiny-tunes"),
        (("run", "watch", "tiny-tuns"), 3, "tiny-tunes"),
        (("wallet", "balance", "devv"), 3, "dev"),
        (("wallet", "deposit", "dev", "much"), 2, "at most 18 places, not 'much'"),
        (("wallet", "deposit", "dev", "-1"), 2, ""),
        (("wallet", "deposit", "dev", "0"), 2, "more than 0"),
        (("wallet", "deposit", "dev", "1000000"), 5, "get some first"),
        (("receipt", "show", "rcp_none"), 2, ""),
        (("receipt", "verify", "/no/such/file"), 3, "there is no file"),
        (("epoch", "show"), 3, "no epoch is settled"),
        (("epoch", "show", "7"), 3, "epoch 7"),
        (("epoch", "show", "99999999999999999999"), 2, "give a smaller one"),
        (("model", "show", "openledger/tiny-tunes@99999999999999999999"), 2, "not a model name"),
        (("wallet", "deposit", "dev", "9" * 5_000), 2, "an amount of OPEN"),
        (("epoch", "settle"), 1, "make a call"),
        (("datanet", "add", "tiny-tunes", "/no/such/file", "--as", "dev"), 3, "no file"),
        (("wallet", "new", "operator"), 2, "reserved"),
        (("wallet", "new", "Treasury"), 2, "reserved"),
        (("wallet", "new", "vault/home"), 2, "without a slash"),
        (("wallet", "new", "behalf/tiny/Ann"), 2, "without a slash"),
        (("wallet", "new", " "), 2, "without a slash"),
        (("wallet", "new", "a" * 101), 2, "1 to 100"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    home: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    if "-1" in arguments:
        assert run(home, *arguments).exit_code == status  # Typer itself takes it for an option
        return
    found, said = refusal(home, *arguments)

    assert found == status
    assert message in said


def test_a_port_that_no_machine_has_is_wrong_use(home: Path) -> None:
    result = run(home, "serve", "--port", "99999")

    assert result.exit_code == 2
    assert "65535" in result.stderr


def test_files_are_added_or_refused_with_a_reason(home: Path, tmp_path: Path) -> None:
    good, empty = tmp_path / "note.txt", tmp_path / "empty.txt"
    good.write_text("The ferry leaves at noon, and the piper plays a slow air for those who wait.")
    empty.write_bytes(b"")
    add = ("datanet", "add", "tiny-tunes", "--as", "dev", "--licence", "CC0-1.0")
    made = told(home, *add, str(good))

    assert made["state"] == "approved"
    assert told(home, *add, str(good))["id"] == made["id"]
    assert refusal(home, *add, str(empty)) == (
        2,
        "empty.txt is empty (0 bytes): give a file with text",
    )
    assert refusal(home, *add, "--claim", "thief", str(good))[0] == 2


def test_a_copy_and_a_wrong_licence_have_their_own_exit_codes(home: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("The ferry leaves at noon, and the piper plays a slow air for those who wait.")
    told(home, "wallet", "new", "bert")
    given = ("datanet", "add", "tiny-tunes", str(note))
    status, licence = refusal(home, *given, "--as", "dev", "--licence", "GPL-3.0-only")
    told(home, *given, "--as", "dev", "--licence", "CC0-1.0")
    copy = run(home, "--json", *given, "--as", "bert", "--licence", "CC0-1.0")

    assert (status, "GPL-3.0-only" in licence) == (4, True)
    assert (copy.exit_code, json.loads(copy.stdout)["error"]["code"]) == (1, "duplicate")


def test_datanets_are_created_listed_shown_and_verified(home: Path) -> None:
    create = ("datanet", "create", "sea", "--description", "Songs of the sea.")
    made = told(home, *create, "--licence", "CC0-1.0")
    listed = told(home, "datanet", "list")["datanets"]

    assert made["number"] == 2
    assert isinstance(listed, list)
    assert [one["name"] for one in listed] == ["tiny-tunes", "sea"]
    assert told(home, "datanet", "verify", "tiny-tunes")["contributions"] == 4
    assert len(str(told(home, "datanet", "show", "tiny-tunes")["head"])) == 64


def test_a_damaged_blob_fails_verification(home: Path) -> None:
    blob = max((one for one in Home(home).blobs.rglob("*") if one.is_file()), key=str)
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(bytes(raw))

    assert refusal(home, "datanet", "verify", "tiny-tunes")[0] == 6


def test_models_and_runs_are_listed_shown_and_deprecated(home: Path) -> None:
    models = told(home, "model", "list")["releases"]
    shown = told(home, "model", "show", "openledger/tiny-tunes")
    runs = told(home, "run", "list")["runs"]

    assert isinstance(models, list)
    assert isinstance(runs, list)
    assert [one["name"] for one in models] == [shown["name"]] == ["openledger/tiny-tunes@1"]
    assert models[0]["terms"]["price"]["input_1k"] == "1000000000000000"
    assert [one["state"] for one in runs] == ["trained"]
    assert told(home, "run", "watch", "tiny-tunes")["state"] == "trained"
    assert told(home, "model", "deprecate", "openledger/tiny-tunes@1")["is_deprecated"] is True


def test_bases_are_added_listed_and_shown(home: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "small-1", "mistral")
    options = ["--licence", "MIT", "--owner", "me"]
    added = told(home, "base", "add", str(tmp_path / "small-1"), *options)
    listed = run(home, "base", "list", as_json=False)
    shown = run(home, "base", "show", "small-1", as_json=False)

    assert told(home, "base", "show", str(added["digest"])) == added
    assert told(home, "base", "list")["bases"] == [added]
    assert "small-1  mistral" in listed.stdout
    for field in ("digest", "weights", "tokenizer", "template", "licence", "source_digest"):
        assert str(added[field]) in shown.stdout
    assert refusal(home, "base", "show", "small")[0] == 3
    assert refusal(home, "base", "add", str(tmp_path), *options)[0] == 3


def test_the_money_identity_is_checked(home: Path) -> None:
    assert told(home, "epoch", "check")["holds"] is True


def test_a_home_in_use_is_not_available(home: Path) -> None:
    with Home(home).own():
        status, message = refusal(home, "wallet", "balance")

    assert status == 7
    assert "another process owns" in message


def test_a_tampered_receipt_fails_verification(
    home: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with open_platform(fair.settings(home)) as platform:
        [made] = fair.paid_calls(platform, tokenizer, 1)
    bundle = tmp_path / "receipt.json"
    told(home, "receipt", "show", made.receipt_id, "--bundle", str(bundle))
    sound = run(home, "receipt", "verify", str(bundle))
    raw = bundle.read_text()
    fee = str(made.fee)
    assert fee in raw
    bundle.write_text(raw.replace(fee, str(made.fee - 1)))

    assert sound.exit_code == 0, sound.output
    assert refusal(home, "receipt", "verify", str(bundle))[0] == 6


def test_what_is_no_receipt_or_no_anchors_is_told_apart(home: Path, tmp_path: Path) -> None:
    bundle, anchors = tmp_path / "bundle", tmp_path / "anchors"
    bundle.write_bytes(b'{"version":1}')
    anchors.write_bytes(b"{}")

    assert refusal(home, "receipt", "verify", str(bundle))[0] == 6
    assert refusal(home, "receipt", "verify", str(bundle), "--anchors", str(anchors))[0] == 2


def test_a_home_is_backed_up_and_restored(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    told(home, "db", "backup", str(target))
    told(tmp_path / "new", "db", "restore", str(target))

    assert told(tmp_path / "new", "wallet", "balance", "dev") == told(
        home, "wallet", "balance", "dev"
    )
    assert told(home, "db", "upgrade")["what"] == "upgraded"


def test_the_doctor_looks_at_this_machine(home: Path) -> None:
    findings = told(home, "doctor")["findings"]

    assert isinstance(findings, list)
    assert {one["what"] for one in findings} >= {"Python", "disk", "home"}


def test_people_read_tables(home: Path) -> None:
    runner = CliRunner()
    for command in (
        ["wallet", "balance"],
        ["datanet", "show", "tiny-tunes"],
        ["model", "list"],
        ["model", "show", "openledger/tiny-tunes"],
        ["model", "usage"],
        ["run", "list"],
        ["epoch", "check"],
        ["doctor"],
    ):
        result = runner.invoke(app, ["--home", str(home), *command])
        assert result.exit_code == 0
        assert not result.stdout.startswith("{")


def test_another_chain_than_the_homes_is_wrong_use(home: Path) -> None:
    result = CliRunner().invoke(app, ["--home", str(home), "--chain", "mainnet", "wallet", "claim"])

    assert result.exit_code == 2
    assert "'mainnet' is no chain" in result.stderr
    assert fair.MODEL not in result.stdout


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, "2000 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_waiting_threads_spin_briefly_in_every_command_whichever_way_it_comes_to_torch(
    chosen: dict[str, str], found: str
) -> None:
    """The runtime of the threads reads its variables once, when torch is first imported."""
    code = (
        "import os, sys; sys.argv = ['openledger', '--version']\n"
        "from openledger.cli.main import run\n"
        "names = ['GOMP_SPINCOUNT', 'OMP_WAIT_POLICY']\n"
        "try: run()\n"
        "except SystemExit: print(*map(os.environ.get, names), 'torch' in sys.modules)"
    )
    set_here = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {name: value for name, value in os.environ.items() if name not in set_here}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean | chosen)

    assert done.stdout.splitlines()[-1] == f"{found} False"


def absent(name: str | None) -> ImportError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def absent_driver() -> ImportError:
    """As fsspec tells of it."""
    error = ImportError("Install s3fs to access S3")
    error.__cause__ = absent("s3fs")
    return error


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (absent("torch"), "needs torch: pip install torch=="),
        (absent("transformers.models"), "needs transformers: pip install torch=="),
        (absent("psycopg"), "needs psycopg: pip install 'openledger[postgres]'"),
        (absent("openai"), "needs openai: pip install 'openledger[demo]'"),
        (absent_driver(), "needs s3fs: pip install 'openledger[s3]'"),
        (absent("gcsfs"), "needs gcsfs: pip install gcsfs"),
        (ImportError("libpq is away"), "does not load: libpq is away; install it again"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_cure(
    capsys: pytest.CaptureFixture[str], as_json: bool, error: ImportError, cure: str
) -> None:
    with (
        pytest.raises(typer.Exit) as left,
        output.told(output.Output(as_json=as_json, is_quiet=False)),
    ):
        raise error
    said = capsys.readouterr()

    assert left.value.exit_code == 7
    assert cure in said.err
    assert ('"unavailable"' in said.out) is as_json
    with (
        pytest.raises(ModuleNotFoundError),
        output.told(output.Output(as_json=as_json, is_quiet=False)),
    ):
        raise ModuleNotFoundError("our own bug", name="openledger.nothing")


def test_a_receipt_whose_attribution_is_not_done_says_so(home: Path, tokenizer: Tokenizer) -> None:
    with open_platform(fair.settings(home)) as platform:
        made = fair.call(fair.desk(platform, tokenizer), fair.payer(platform).address)
    shown = run(home, "receipt", "show", made.receipt_id, as_json=False).stdout

    assert "not known yet" in shown
    assert "commons" not in shown


def test_a_key_is_all_that_the_output_holds(home: Path) -> None:
    """So that a script may take the whole of it."""
    said = run(home, "wallet", "key", "dev", as_json=False).stdout

    assert re.fullmatch(r"sk-ol-\w{40}\n", said)

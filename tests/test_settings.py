from pathlib import Path

import pytest

from openledger.core.errors import InvalidInputError
from openledger.settings import Settings, load


def test_without_anything_the_defaults_stand() -> None:
    assert load({}, {}, ()) == Settings()


def test_flags_beat_the_environment_that_beats_files_in_their_order(tmp_path: Path) -> None:
    weak, strong = tmp_path / "weak.toml", tmp_path / "strong.toml"
    weak.write_text('[serve]\nport = 1\nhost = "weak"\n[chain]\nurl = "weak"\nchain_id = 5\n')
    strong.write_text('[serve]\nhost = "strong"\n[chain]\nurl = "strong"\n')
    environment = {"OPENLEDGER_CHAIN__URL": "environment", "OTHER": "x", "OPENLEDGER_ALONE": "x"}
    files = (weak, strong, tmp_path / "missing.toml")
    found = load({"chain": {"url": "flag"}, "home": {"path": None}}, environment, files)

    assert (found.serve.port, found.serve.host) == (1, "strong")
    assert (found.chain.url, found.chain.chain_id) == ("flag", 5)
    assert load({}, environment, files).chain.url == "environment"
    assert found.home.path == Settings().home.path


def test_names_in_the_environment_stand_between_commas() -> None:
    found = load({}, {"OPENLEDGER_SERVE__HOSTS": "models.example, 192.0.2.7,"}, ())

    assert found.serve.hosts == ("models.example", "192.0.2.7")


def test_numbers_in_the_environment_are_read_as_numbers() -> None:
    found = load(
        {}, {"OPENLEDGER_SERVE__PORT": "9", "OPENLEDGER_CHAIN__CONFIRM_TIMEOUT_S": "2.5"}, ()
    )

    assert (found.serve.port, found.chain.confirm_timeout_s) == (9, 2.5)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OPENLEDGER_SERVE__PROT": "1"}, "prot"),
        ({"OPENLEDGER_SERVR__PORT": "1"}, "servr"),
        ({"OPENLEDGER_SERVE__PORT": "many"}, "int"),
        ({"OPENLEDGER_SERVE__PORT": "99999"}, "65535"),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load({}, environment, ())


@pytest.mark.parametrize("text", [b"[serve", b"\xff\xfe", b"serve = 3"])
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "openledger.toml"
    path.write_bytes(text)

    with pytest.raises(InvalidInputError, match=r"openledger\.toml|section"):
        load({}, {}, (path,))


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load({}, {}, (tmp_path,))


def test_the_process_environment_and_the_usual_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openledger.toml").write_text("[serve]\nport = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OPENLEDGER_SERVE__HOST", "127.0.0.2")
    found = load({})

    assert (found.serve.port, found.serve.host) == (3, "127.0.0.2")

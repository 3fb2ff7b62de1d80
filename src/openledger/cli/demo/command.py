"""The command itself: which home, which acts, and what to try next."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openledger.cli.context import Context, importing, of
from openledger.cli.output import told

if TYPE_CHECKING:
    from openledger.cli.demo.script import Act

TINY_BASE = "tiny"
_MARKER = "demo.json"
_DOOMED = ".deleted-by-openledger-demo"


def demo(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="All three Datanets instead of folk music only.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option(help="A dozen tunes and the unit tests' model: every step in seconds.")
    ] = False,
    serve: Annotated[bool, typer.Option(help="Leave the server running at the end.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start over instead of going on.")] = False,
) -> None:
    """Contribute, train, publish, call, attribute, settle, claim: the whole story on real data.

    Run it again after any interruption: it goes on where it stopped.
    """
    started = time.monotonic()
    with told((here := _home_of(of(context), is_tiny=tiny)).output):
        _prepare_home(here.home, is_fresh=fresh)
        _run(here, started, _acts(everything=everything, tiny=tiny), is_left_running=serve)


def _run(here: Context, started: float, acts: "list[Act]", *, is_left_running: bool) -> None:
    # Before the imports, which take seconds.
    here.output.talk(f"Everything below happens in {here.home}, on a chain of its own.")
    with importing():
        from openledger.cli.demo.story import Story
        from openledger.cli.serve import until_interrupted
        from openledger.web.server import serving
        from openledger.wiring.platform import open_platform

    with open_platform(here.settings) as platform:
        story = Story(platform, here.output, started)
        made = story.make_all(acts)
        key = story.fund()
        with serving(platform, here.settings.serve.port if is_left_running else 0) as server:
            answered = [story.ask(server, key, act) for act in made]
            story.settle()
            claims = story.claim()
            outcome = story.end(answered, claims, story.check())
            here.output.talk(_next(here, outcome.calls[0].receipt))
            here.output.result(outcome, f"\nThe whole demo took {outcome.seconds:.0f} s.")
            if is_left_running:
                here.output.talk(f"serving {server.url}/v1 with the key {key}; Ctrl-C stops")
                until_interrupted()


def _acts(*, everything: bool, tiny: bool) -> "list[Act]":
    from openledger.cli.demo import script

    if tiny:
        return [script.TINY]
    return [script.FOLK_MUSIC, *([script.LINUX_MANUAL, script.BRETON] if everything else [])]


def _home_of(here: Context, *, is_tiny: bool) -> Context:
    """A home of the demo's own, unless one was named."""
    from openledger.settings import HomeSettings

    flags = {section: dict(fields) for section, fields in here.flags.items()}
    if here.settings.home.path == HomeSettings().path:
        name = "-demo-tiny" if is_tiny else "-demo"
        flags["home"] = {**flags.get("home", {}), "path": HomeSettings().path + name}
    if is_tiny:
        flags["models"] = {"base": TINY_BASE}
    return Context(flags=flags, as_json=here.as_json, is_quiet=here.is_quiet or here.as_json)


def _prepare_home(home: Path, *, is_fresh: bool) -> None:
    from openledger.core.errors import ConflictError, HomeBusyError
    from openledger.storage.home import Home

    home = home.resolve()  # a link stays one
    marker, doomed = home / _MARKER, home.with_name(f".{home.name}{_DOOMED}")
    shutil.rmtree(doomed, ignore_errors=True)  # what a killed deletion left
    if is_fresh and home.exists() and any(home.iterdir()):
        if not marker.exists():
            raise ConflictError(f"{home} was not made by the demo; --fresh deletes only its own")
        if Home(home).is_owned():
            raise HomeBusyError(f"{home} is in use; stop that process first")
        _delete(home, doomed)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not any(home.iterdir()):
        marker.write_text("{}\n")


def _delete(home: Path, doomed: Path) -> None:
    """Half deleted, it must still be known as the demo's own, or be out of the way."""
    try:
        home.rename(doomed)
    except OSError:  # a mount point, or a folder above that is not ours: the marker goes last
        for child in sorted(home.iterdir(), key=lambda child: child.name == _MARKER):
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    else:
        shutil.rmtree(doomed)


def _next(here: Context, receipt: str) -> str:
    # scripts/demo installs it in .venv, which is not on everyone's path.
    program = "openledger" if shutil.which("openledger") else sys.argv[0]
    own = f"{program} --home {here.home}"
    is_tiny = here.settings.models.base == TINY_BASE
    before = "\n  export OPENLEDGER_MODELS__BASE=tiny" if is_tiny else ""
    return f"""
What to try next:{before}
  {own} receipt show {receipt} --bundle receipt.json
  {own} epoch show --anchors anchors.json
  {program} --home $(mktemp -d) receipt verify receipt.json --anchors anchors.json
  {own} wallet balance
  {own} serve"""

"""`openledger base`: bring base models in, and see which there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import short, table, told

if TYPE_CHECKING:
    from openledger.operations.bases import BaseView

app = typer.Typer(no_args_is_help=True, help="Bring base models in and see which there are.")


@app.command(epilog="Example: openledger base add Qwen3-0.6B --licence Apache-2.0 --owner Qwen")
def add(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder in the format of Hugging Face.")],
    licence: Annotated[str, typer.Option(help="An SPDX id, or LicenseRef- and a name.")],
    owner: Annotated[str, typer.Option(help="Who made the model.")],
    name: Annotated[str | None, typer.Option(help="What it is called here: the folder's.")] = None,
) -> None:
    """Check a model of the Llama, Mistral or Qwen family and copy it into the home."""
    from openledger.operations.bases import ADD, NewBase

    with told((here := of(context)).output):
        path = folder.absolute()
        made = here.act(ADD, NewBase(str(path), name or path.name, licence, owner))
        here.output.result(
            made,
            f"{made.name} is base model {made.digest}; to work with it, set\n"
            f"  OPENLEDGER_MODELS__BASE={made.name}",
        )


@app.command("list", epilog="Example: openledger base list")
def list_all(context: typer.Context) -> None:
    """List the base models that are here; the one this home works with is marked."""
    from openledger.operations.bases import LIST
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        found = here.act(LIST, Nothing())
        rows = [
            [
                "*" if one.is_chosen else "",
                one.name,
                one.family,
                _count(one.parameters),
                str(one.context),
                one.licence,
                _mib(one.serving_bytes),
                short(one.digest),
            ]
            for one in found.bases
        ]
        heads = ["", "base", "family", "parameters", "context", "licence", "memory", "digest"]
        here.output.result(found, table(heads, rows))


@app.command(epilog="Example: openledger base show tiny")
def show(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name or digest.")]
) -> None:
    """Show a base model: the digests that bind it, its licence, the memory it needs."""
    from openledger.operations.bases import SHOW, WhichBase

    with told((here := of(context)).output):
        found = here.act(SHOW, WhichBase(name))
        here.output.result(found, _card(found))


def _card(base: "BaseView") -> str:
    facts = {
        "digest": base.digest,
        "family": f"{base.family}, {_count(base.parameters)} parameters, {base.context} tokens",
        "licence": f"{base.licence}, of {base.owner}",
        "source": f"{base.source}, {base.source_digest}",
        "weights": f"{base.weights} ({base.dtype}, {_mib(base.stored_bytes)})",
        "tokenizer": base.tokenizer,
        "template": base.template,
        "config": base.config,
        "memory": (
            f"{_mib(base.serving_bytes)} to serve it in {base.serving_dtype}, "
            f"{base.kv_token_bytes} bytes a token of the KV cache"
        ),
        "folder": base.folder,
    }
    chosen = ", this home's" if base.is_chosen else ""
    lines = [f"{base.name}: {base.title}{chosen}"]
    return "\n".join([*lines, *(f"  {name:<10} {fact}" for name, fact in facts.items())])


def _count(parameters: int) -> str:
    millions = parameters / 1_000_000
    return f"{millions / 1_000:.1f} B" if millions >= 1_000 else f"{millions:.1f} M"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f} MiB"

"""`openledger wallet`: accounts, deposits, API keys, claims."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import open_amount, short, table, told
from openledger.core.money import from_open

app = typer.Typer(no_args_is_help=True, help="Accounts, deposits, API keys and claims.")


@app.command(epilog="Example: openledger wallet new me")
def new(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A short name: alice.")]
) -> None:
    """Make an account, or find it. Its key stays in this home's encrypted keystore."""
    from openledger.operations.wallets import NEW, Name

    with told((here := of(context)).output):
        made = here.act(NEW, Name(name))
        here.output.result(made, f"{made.label} is {made.address} (kept in this home)")


@app.command(epilog="Example: openledger wallet balance me")
def balance(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="An account; none: all.")] = None,
) -> None:
    """Show what accounts hold, deposited, earned and can claim, in OPEN."""
    from openledger.operations.wallets import BALANCE, ClaimFor

    with told((here := of(context)).output):
        found = here.act(BALANCE, ClaimFor(name))
        rows = [
            [
                one.label,
                short(one.address),
                open_amount(one.wallet),
                open_amount(one.free),
                open_amount(one.earned),
                open_amount(one.claimable),
            ]
            for one in found.accounts
        ]
        head = ["account", "address", "wallet", "free for calls", "earned", "claimable"]
        here.output.result(found, table(head, rows))


@app.command(epilog="Example: openledger wallet deposit developer 5 --faucet")
def deposit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An account of this home.")],
    amount: Annotated[str, typer.Argument(help="OPEN, such as 5 or 0.25.")],
    faucet: Annotated[
        bool, typer.Option(help="Take play money first; development chain only.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(help="Makes a repeat safe: the same key is the same deposit.")
    ] = None,
) -> None:
    """Prepay calls at this gateway; what is not used can leave again."""
    from openledger.operations.wallets import DEPOSIT, Deposit

    with told((here := of(context)).output):
        has = here.act(DEPOSIT, Deposit(name, from_open(amount), faucet, key))
        here.output.result(has, f"{has.label} has {open_amount(has.free)} OPEN free for calls")


@app.command(epilog="Example: openledger wallet withdraw developer 0.5")
def withdraw(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An account of this home.")],
    amount: Annotated[str, typer.Argument(help="OPEN, such as 5 or 0.25.")],
    key: Annotated[
        str | None, typer.Option(help="Goes on with the withdrawal that was given this key.")
    ] = None,
) -> None:
    """Take back what no call has used; where the contract has a delay, run it again after that."""
    from openledger.operations.wallets import WITHDRAW, Withdraw

    with told((here := of(context)).output):
        made = here.act(WITHDRAW, Withdraw(name, from_open(amount), key))
        when = datetime.fromtimestamp(made.ready_at, UTC).isoformat(timespec="minutes")
        text = (
            f"{open_amount(made.waiting)} OPEN wait until {when}; then run\n"
            f"  openledger wallet withdraw {name} {amount} --key {made.key}"
            if made.waiting
            else f"{amount} OPEN are back in the account of {made.label}"
        )
        here.output.result(made, text)


@app.command(epilog="Example: openledger wallet key developer --label laptop --daily-cap 1")
def key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Account whose deposits pay.")],
    label: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    daily_cap: Annotated[str | None, typer.Option(help="Most OPEN a day.")] = None,
    total_cap: Annotated[str | None, typer.Option(help="Most OPEN ever.")] = None,
) -> None:
    """Make an API key; it is shown once."""
    from openledger.operations.wallets import NEW_KEY, NewKey

    with told((here := of(context)).output):
        caps = [None if cap is None else from_open(cap) for cap in (daily_cap, total_cap)]
        made = here.act(NEW_KEY, NewKey(name, label, *caps))
        here.output.talk("Keep it: it is not shown again.")
        here.output.result(made, made.key)


@app.command(epilog="Example: openledger wallet revoke sk-ol-a1B2c3")
def revoke(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="The first 12 characters of the key.")],
) -> None:
    """Refuse an API key from now on."""
    from openledger.operations.wallets import REVOKE_KEY, Prefix

    with told((here := of(context)).output):
        here.output.result(here.act(REVOKE_KEY, Prefix(prefix)), f"{prefix}… is revoked")


@app.command(epilog="Example: openledger wallet claim me")
def claim(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="An account; none: all of this home.")] = None,
) -> None:
    """Pay out what accounts earned in settled epochs; nobody needs gas."""
    from openledger.operations.wallets import CLAIM, ClaimFor

    with told((here := of(context)).output):
        made = here.act(CLAIM, ClaimFor(name))
        rows = [[one.label, open_amount(one.amount), short(one.tx_hash)] for one in made.paid]
        text = table(["account", "OPEN", "transaction"], rows) if rows else "nothing to claim"
        here.output.result(made, text)

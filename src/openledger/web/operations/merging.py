"""Releases made into one, by a run that trains nothing."""

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.ids import parse_model
from openledger.operations.models import MERGE, NewMerge, RunView
from openledger.storage.records.data import datanets
from openledger.web.operations.implementation import Implementation
from openledger.web.operations.models import queue
from openledger.web.operations.wallets import find
from openledger.wiring.platform import Platform

_MOST_MEMBERS = 16


def merge(platform: Platform, new: NewMerge) -> RunView:
    """Begin a merge on chain and queue it."""
    from openledger.flows.model.train.flow import known_run
    from openledger.flows.model.train.flow import start as begin
    from openledger.flows.model.train.merge import plan_merge, stored_merge
    from openledger.flows.model.train.plan import Order
    from openledger.flows.money.infer.choose import find_offered
    from openledger.training.merging.ways import Merging, Way

    if new.way not in list(Way):
        raise InvalidInputError(f"{new.way!r} is no way to merge: choose one of {', '.join(Way)}")
    way = Way(new.way)
    merging = Merging(way) if way is Way.SVD else Merging(way, new.density_bps)
    shop, builder = platform.models.workshop, find(platform, new.builder)
    run = known_run(shop, builder, new.key)
    if run is not None:
        wish = stored_merge(shop, run, parse_model(new.model), merging, new.rank)
    else:
        recipe = msgspec.structs.replace(platform.models.default_recipe, rank=new.rank)
        with platform.database.read() as transaction:
            offered = find_offered(transaction, new.model, _MOST_MEMBERS)
        pairs = [(one.release, one.weight_ppb) for one in offered]
        wish = plan_merge(shop, pairs, merging, recipe)
    with platform.database.transaction() as transaction:
        wanted = tuple(datanets.get(transaction, one) for one in wish.datanets)
    order = Order(
        key=new.key,
        name=new.name,
        builder=builder,
        datanets=wanted,
        recipe=wish.recipe,
        held_out_bps=0,  # what is held out follows from the members
        scored_tunes=new.scored_tunes,
        merge=wish.merge,
    )
    return queue(platform, begin(shop, order))


IMPLEMENTED = (Implementation(MERGE, merge),)

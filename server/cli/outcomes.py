"""Checks of the sales that were played: the ledger's answers against our own computation."""

import json
from collections.abc import Mapping, Sequence

from cellbook.v1 import auction_pb2, audit_pb2, event_pb2, ledger_pb2, saga_pb2
from server.cli.audit.trace import problems
from server.cli.bidfile import expected
from server.cli.books import Logs
from server.cli.checks import Check, found
from server.cli.play import Featured, Sale


def sold_as_expected(sales: Sequence[Sale]) -> Check:
    """Each auction ended as an ascending auction must: `expected` is computed from the bids alone."""
    wrong = []
    for sale in sales:
        due = expected(sale.lot)
        got = (sale.accepted, sale.refused, sale.winner_number, sale.price_minor)
        wanted = (due.accepted, due.refused, due.winner, due.price_minor)
        if got != wanted:
            wrong.append(f"auction {sale.lot.key}: (accepted, refused, winner, price) {got}, not {wanted}")
    return found("every auction sold as its bids demand", wrong, f"{len(sales)} auctions")


def all_settled(sales: Sequence[Sale]) -> Check:
    won = [sale for sale in sales if sale.winner]
    wrong = [
        f"auction {sale.lot.key}: {auction_pb2.AuctionState.Name(sale.state)},"
        f" saga {saga_pb2.SagaState.Name(sale.saga_state)}"
        for sale in won
        if sale.state != auction_pb2.AUCTION_STATE_SETTLED or sale.saga_state != saga_pb2.SAGA_STATE_COMPLETED
    ]
    return found("every win settled", wrong, f"{len(won)} settlements completed")


def assets_owned(sales: Sequence[Sale], assets: Mapping[str, auction_pb2.Asset]) -> Check:
    """`assets`: by resource name. Each belongs to the winner, or still to the seller, and is not locked."""
    wrong = []
    for sale in sales:
        owner, asset = sale.winner or sale.auction.seller, assets[sale.auction.asset]
        if (asset.owner_user_id, asset.owner_cell, asset.locked_by) != (owner.user_id, owner.cell, ""):
            held = f"{asset.owner_user_id} in {asset.owner_cell}, locked by {asset.locked_by or 'nothing'}"
            wrong.append(f"{sale.lot.item}: {held}, not {owner.label}'s")
    return found("every asset with its winner or its seller", wrong, f"{len(sales)} assets")


def featured_paid(featured: Featured, trace: Sequence[event_pb2.Event]) -> Check:
    """The winner paid the price; the seller received the price less the fee in the log."""
    price = featured.sale.price_minor
    fee = sum(
        int(json.loads(event.payload_json)["fee_minor"]) for event in trace if event.event_type == "PENDING_SETTLED"
    )
    paid = _all(featured.before.winner) - _all(featured.after.winner)
    earned = _all(featured.after.seller) - _all(featured.before.seller)
    wrong = [
        *([f"the winner paid {paid}, the price is {price}"] if paid != price else []),
        *([f"the seller got {earned}, due are {price} less {fee}"] if earned != price - fee else []),
    ]
    return found("winner and seller moved by the price", wrong, f"{price:,} paid, {fee:,} of it fee")


def featured_traced(featured: Featured, traced: audit_pb2.TraceResponse, logs: Logs) -> Check:
    """The trace is complete, and holds every event of the settlement that is in any log."""
    told = {each.event.event_id for each in traced.events}
    of_saga = {
        event.event_id for events in logs.values() for event in events if event.correlation_id == featured.sale.saga_id
    }
    wrong = [*problems(traced), *(f"event {event_id} is not in it" for event_id in sorted(of_saga - told))]
    return found("the settlement's trace is what the logs say", wrong, f"{len(told)} events, {len(of_saga)} of its own")


def _all(balance: ledger_pb2.Balance) -> int:
    return balance.available_minor + balance.reserved_minor + balance.pending_minor

"""AuditService: state at a past moment."""

from uuid import UUID

from cellbook.v1 import audit_pb2 as pb
from cellbook.v1.audit_pb2_grpc import AuditServiceServicer
from cells.audit.history.moments import Moment
from server.services.accesses import note_access
from server.services.audit_parts import AuditParts, Context, map_store_errors
from server.wire import history as wire
from server.wire.common import parse_optional_uuid, parse_page_size, parse_uuid


class HistoryRpcs(AuditServiceServicer):
    parts: AuditParts

    async def ListBalances(self, request: pb.ListBalancesRequest, _context: Context) -> pb.ListBalancesResponse:
        note_access(self.parts.cell.accesses)
        size, place = parse_page_size(request.page_size), wire.parse_place(request.page_token)
        moment = Moment(position=place.position) if place else await self._moment(request)
        point = await map_store_errors(self.parts.history.point(moment))
        after = place or wire.first_place(point.position)
        rows = self.parts.lookups.all_balances_at((after.account_id, after.currency), point.position, size + 1)
        return wire.listed_to_proto(await map_store_errors(rows), size, point, self.parts.cell.name)

    async def GetTrialBalance(
        self, request: pb.GetTrialBalanceRequest, _context: Context
    ) -> pb.GetTrialBalanceResponse:
        moment = await self._moment(request)
        return wire.trial_to_proto(await map_store_errors(self.parts.trial.at(moment)), self.parts.cell.name)

    async def CheckStream(self, request: pb.CheckStreamRequest, _context: Context) -> pb.CheckStreamResponse:
        aggregate_id = parse_uuid(request.aggregate_id, "aggregate_id")
        note_access(self.parts.cell.accesses, aggregate_id)
        moment = wire.parse_moment(request.as_of) if request.HasField("as_of") else None
        return wire.verification_to_proto(
            await map_store_errors(self.parts.stream_checks.check(aggregate_id, moment)), self.parts.cell.name
        )

    async def ListHomes(self, request: pb.ListHomesRequest, _context: Context) -> pb.ListHomesResponse:
        after = parse_optional_uuid(request.after_user, "after_user") or UUID(int=0)
        homes = await map_store_errors(self.parts.lookups.homes(after, parse_page_size(request.page_size)))
        return pb.ListHomesResponse(
            homes=[pb.UserHome(user_id=str(each.user_id), epoch=each.epoch, moving_to=each.moving_to) for each in homes]
        )

    async def _moment(self, request: pb.ListBalancesRequest | pb.GetTrialBalanceRequest) -> Moment:
        """The requested moment, or the end of the log."""
        if request.HasField("as_of"):
            return wire.parse_moment(request.as_of)
        return Moment(position=(await map_store_errors(self.parts.cell.store.head())).position)

"""The handlers of clients."""

from __future__ import annotations

from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import client_pb2
from dunwell_server.billing.rpc import messages, requests
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import clients
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import expected_version, id_value
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level


class ClientHandlers(BillingHandlers):
    """Clients."""

    async def CreateClient(self, request: pb.CreateClientRequest, context: Any) -> pb.CreateClientResponse:
        new = requests.new_client(request.client)

        async def work(uow: UnitOfWork) -> pb.CreateClientResponse:
            client = await clients.create_client(uow, new)
            return pb.CreateClientResponse(client=messages.client_message(uow, client))

        return await self._calls.write(request, pb.CreateClientResponse, work)

    async def GetClient(self, request: pb.GetClientRequest, context: Any) -> pb.GetClientResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")

        async def work(uow: UnitOfWork) -> pb.GetClientResponse:
            client = await clients.get_client(uow, client_id)
            return pb.GetClientResponse(client=await messages.present_client(uow, client))

        return await self._calls.read(work)

    async def UpdateClient(self, request: pb.UpdateClientRequest, context: Any) -> pb.UpdateClientResponse:
        paths = checked_paths(request.update_mask, client_pb2.Client)
        client_id = id_value(Prefix.CLIENT, request.client.id, "client.id")

        async def work(uow: UnitOfWork) -> pb.UpdateClientResponse:
            message = messages.client_message(uow, await clients.get_client(uow, client_id, lock=True))
            apply_mask(message, request.client, paths)
            changes = requests.client_changes(message, sorted(top_level(paths)))
            client = await clients.update_client(
                uow, client_id, changes, expected_version=expected_version(request.etag)
            )
            return pb.UpdateClientResponse(client=await messages.present_client(uow, client))

        return await self._calls.write(request, pb.UpdateClientResponse, work)

    async def ListClients(self, request: pb.ListClientsRequest, context: Any) -> pb.ListClientsResponse:
        query, page = requests.client_query(request), self._pager.read(request)
        by_name = query.order == "NAME_ASC"

        async def work(uow: UnitOfWork) -> pb.ListClientsResponse:
            found = await clients.list_clients(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.name if by_name else row.create_time, row.id))
            return pb.ListClientsResponse(
                clients=[messages.client_message(uow, client) for client in shown], next_page_token=token
            )

        return await self._calls.read_once(work)

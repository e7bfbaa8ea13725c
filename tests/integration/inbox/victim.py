"""A process that takes one webhook in and applies it, for tests that kill it on the way: URL, firm, account, body in hex."""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from dunwell_server.platform.database import Database
from tests.integration.inbox.conftest import House


async def main(url: str, firm: UUID, account: UUID, body: bytes) -> None:
    database = await Database.open(url, max_size=4)
    try:
        house = House(database)
        await house.send(account, body)
        await house.work(firm)
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3]), bytes.fromhex(sys.argv[4])))

"""DataService: what somebody keeps. The token says whose; no request does."""

import asyncio
from operator import attrgetter
from typing import Any

from sixfold.data.v1 import data_pb2 as pb
from sixfold.data.v1 import data_pb2_grpc

from service.domain import json_text, paging
from service.rpc import caller, convert
from service.store import record_deletes, record_writes, records
from service.store.db import Database

# Characters of JSON. The longest values take 50 to 200 ms to check, and all calls would wait.
CHECKED_AT_ONCE = 16 * 1024
_NAME = attrgetter("collection", "key")


class DataService(data_pb2_grpc.DataServiceServicer):
    """One method per RPC. `page_key` makes page tokens ours.

    Those that read records answer in bytes (see models.Record), which the generated types do not
    know.
    """

    def __init__(self, db: Database, *, page_key: bytes) -> None:
        self._db = db
        self._page_key = page_key

    async def GetUserData(self, request: pb.GetUserDataRequest, _: Any = None) -> bytes:  # type: ignore[override]
        page, next_page_token = await self._page(request, "GetUserData")
        rest = pb.GetUserDataResponse(next_page_token=next_page_token, revision=page.revision)
        convert.set_user(rest.user, page.user)
        return convert.page(page, rest)

    async def GetRecord(self, request: pb.GetRecordRequest, _: Any = None) -> bytes:  # type: ignore[override]
        me = caller.get()
        return await records.get(self._db, me, request.collection, request.key)

    async def BatchGetRecords(self, request: pb.BatchGetRecordsRequest, _: Any = None) -> bytes:  # type: ignore[override]
        names = list(map(_NAME, request.names))
        return convert.batch(names, await records.batch_get(self._db, caller.get(), names))

    async def PutRecord(self, request: pb.PutRecordRequest, _: Any = None) -> pb.PutRecordResponse:
        if len(request.json) <= CHECKED_AT_ONCE:
            json_text.check(request.json)
        else:
            await asyncio.to_thread(json_text.check, request.json)
        write = record_writes.Write(
            collection=request.collection,
            key=request.key,
            json=request.json,
            if_revision=request.if_revision if request.HasField("if_revision") else None,
            if_absent=request.if_absent,
            expire_time=convert.time(request, "expire_time"),
        )
        written = await record_writes.put(self._db, caller.get(), write, convert.request(request))
        return pb.PutRecordResponse(
            revision=written.revision,
            create_time=convert.timestamp(written.create_time),
            update_time=convert.timestamp(written.update_time),
        )

    async def DeleteRecord(
        self, request: pb.DeleteRecordRequest, _: Any = None
    ) -> pb.DeleteRecordResponse:
        deletion = record_deletes.Deletion(
            request.collection, request.key, request.if_revision, request.allow_missing
        )
        written = await record_deletes.delete(
            self._db, caller.get(), deletion, convert.request(request)
        )
        return pb.DeleteRecordResponse(revision=written.revision)

    async def ListRecords(self, request: pb.ListRecordsRequest, _: Any = None) -> bytes:  # type: ignore[override]
        page, next_page_token = await self._page(request, "ListRecords")
        return convert.page(page, pb.ListRecordsResponse(next_page_token=next_page_token))

    async def _page(
        self, request: pb.GetUserDataRequest | pb.ListRecordsRequest, method: str
    ) -> tuple[records.Page, str]:
        me = caller.get()
        query = f"{method} {request.collection}"
        after = paging.unseal(self._page_key, me, query, request.page_token)
        size = paging.size(request.page_size)
        page = await records.page(self._db, me, request.collection, after, size)
        if not page.more:
            return page, ""
        last = _NAME(pb.GetRecordResponse.FromString(page.records[-1]).record)
        return page, paging.seal(self._page_key, me, query, last)

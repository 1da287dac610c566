"""Carries out the steps of a flow in the calling task."""
# ruff: noqa: ASYNC109 (a timeout here is the rpc's deadline, which the server must be told)

import asyncio
from operator import attrgetter
from typing import Any, Self, TypeVar

import grpc
from grpc import aio

from sixfold import _health
from sixfold._driver import Deadline, Driver, arguments
from sixfold._flows import Acquire, Flow, Send, Sleep, Step
from sixfold.auth.v1 import auth_pb2_grpc
from sixfold.data.v1 import data_pb2_grpc
from sixfold.errors import SixfoldError, of_rpc

T = TypeVar("T")


class AsyncStubs:
    """The generated stubs on the client's channel. They add no token, deadline or error class."""

    def __init__(self, channel: aio.Channel) -> None:
        self.auth = auth_pb2_grpc.AuthServiceStub(channel)
        self.data = data_pb2_grpc.DataServiceStub(channel)
        self.health = _health.HealthStub(channel.unary_unary)


class AsyncDriver(Driver):
    """Any number of tasks of one event loop can share one."""

    def _open(self) -> asyncio.Lock:
        # The channel belongs to the loop it is opened in, and there may be none yet.
        self._channel: aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        return self._lock

    @property
    def stubs(self) -> AsyncStubs:
        """The generated stubs, for what the client has no method for. Needs a running loop."""
        self._guard()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop = loop
            self._channel = (
                aio.secure_channel(self._target, self._credentials, options=self._options)
                if self._credentials
                else aio.insecure_channel(self._target, options=self._options)
            )
            self._stubs = AsyncStubs(self._channel)
        elif self._loop is not loop:
            raise RuntimeError(
                f"this {type(self).__name__} belongs to another event loop: make one in each"
            )
        return self._stubs

    async def close(self) -> None:
        """Closes the connections. The session lives on; `logout()` ends it."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[T], timeout: float | None) -> T:
        try:
            stubs = self.stubs
            deadline = self._deadline(timeout)
            step = next(flow)
            while True:
                try:
                    answer = await self._do(step, stubs, deadline)
                except SixfoldError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    async def _do(self, step: Step, stubs: AsyncStubs, deadline: Deadline) -> Any:
        match step:
            case Send():
                call = attrgetter(step.method)(stubs)
                try:
                    return await call(step.request, **arguments(step, deadline))
                except grpc.RpcError as error:
                    raise of_rpc(error) from error
                except asyncio.CancelledError:
                    # grpc.aio cancels what is in flight when a channel closes. Nobody cancelled
                    # this task then, so it must not look as if somebody had.
                    task = asyncio.current_task()
                    if not self._closed or (task and task.cancelling()):
                        raise
                    raise SixfoldError("channel closed", grpc.StatusCode.CANCELLED) from None
            case Acquire():
                try:
                    async with asyncio.timeout(deadline.left()):
                        await self._lock.acquire()
                except TimeoutError:
                    raise deadline.exceeded() from None
                return None
            case Sleep():
                deadline.left(at_least=step.seconds)
                await asyncio.sleep(step.seconds)
                return None

"""Carries out the steps of a flow in the calling thread."""

import threading
import time
from operator import attrgetter
from typing import Any, Self, TypeVar

import grpc

from sixfold import _health
from sixfold._driver import Deadline, Driver, arguments
from sixfold._flows import Acquire, Flow, Send, Sleep, Step
from sixfold.auth.v1 import auth_pb2_grpc
from sixfold.data.v1 import data_pb2_grpc
from sixfold.errors import SixfoldError, of_rpc

T = TypeVar("T")


class Stubs:
    """The generated stubs on the client's channel. They add no token, deadline or error class."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.auth = auth_pb2_grpc.AuthServiceStub(channel)
        self.data = data_pb2_grpc.DataServiceStub(channel)
        self.health = _health.HealthStub(channel.unary_unary)


class SyncDriver(Driver):
    """Any number of threads can share one."""

    def _open(self) -> threading.Lock:
        self._channel = (
            grpc.secure_channel(self._target, self._credentials, options=self._options)
            if self._credentials
            else grpc.insecure_channel(self._target, options=self._options)
        )
        self._stubs = Stubs(self._channel)
        self._lock = threading.Lock()
        return self._lock

    @property
    def stubs(self) -> Stubs:
        """The generated stubs, for what the client has no method for."""
        self._guard()
        return self._stubs

    def close(self) -> None:
        """Closes the connections. The session lives on; `logout()` ends it."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[T], timeout: float | None) -> T:
        try:
            self._guard()
            deadline = self._deadline(timeout)
            step = next(flow)
            while True:
                try:
                    answer = self._do(step, deadline)
                except SixfoldError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    def _do(self, step: Step, deadline: Deadline) -> Any:
        match step:
            case Send():
                call = attrgetter(step.method)(self._stubs)
                try:
                    return call(step.request, **arguments(step, deadline))
                except grpc.RpcError as error:
                    raise of_rpc(error) from error
            case Acquire():
                while not self._lock.acquire(timeout=deadline.left()):
                    pass
                return None
            case Sleep():
                deadline.left(at_least=step.seconds)
                time.sleep(step.seconds)
                return None

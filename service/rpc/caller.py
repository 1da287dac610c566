"""The Caller of the current call, set by the Auth layer for the handler inside it."""

from contextvars import ContextVar

from service.domain.models import Caller

_current: ContextVar[Caller] = ContextVar("sixfold_caller")


def get() -> Caller:
    """Who calls. Raises LookupError in a public method: it must not ask."""
    return _current.get()


def set_current(caller: Caller) -> None:
    """Say who calls, for the task that serves the call."""
    _current.set(caller)

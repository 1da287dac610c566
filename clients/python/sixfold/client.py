"""The client for threads and plain programs. `async_client.py` is its twin, method for method."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from sixfold import _calls, _convert, _flows
from sixfold._sync import SyncDriver
from sixfold.models import KeySet, Record, Tokens, User, UserData, Written


class Client(SyncDriver):
    """Sixfold, synchronously. Share one among all threads; make one per process.

    Every method takes `timeout`, the seconds all of it may take (5 unless the constructor says
    otherwise), and raises a `sixfold.errors.SixfoldError`.
    """

    def ready(self, timeout: float | None = None) -> None:
        """Waits until the service can serve. Raises DeadlineExceeded."""
        self._run(_calls.ready(), timeout)

    def create_user(self, username: str, password: str, *, timeout: float | None = None) -> User:
        """Makes a user; it does not log in. Raises AlreadyExists."""
        return self._run(_calls.create_user(self._session, username, password), timeout)

    def login(self, username: str, password: str, *, timeout: float | None = None) -> User:
        """Opens a session, in place of any other. Raises Unauthenticated, ResourceExhausted.

        The password is not kept: when this session ends, calls raise Unauthenticated.
        """
        flow = _flows.login(self._session, username, password)
        return _convert.user(self._run(flow, timeout))

    def logout(self, *, timeout: float | None = None) -> None:
        """Ends the session, on every process at once. Calls then raise until `login()`."""
        self._run(_flows.logout(self._session), timeout)

    def refresh(self, *, timeout: float | None = None) -> Tokens:
        """New tokens now. Seldom needed: every call sees to it that its token is good."""
        return self._run(_calls.refresh(self._session), timeout)

    def me(self, *, timeout: float | None = None) -> User:
        """Who is logged in."""
        return self._run(_calls.me(self._session), timeout)

    def change_password(
        self,
        current: str,
        new: str,
        *,
        keep_other_sessions: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Replaces the password; ends the user's other sessions. Never retried.

        Raises Unauthenticated (BAD_CREDENTIALS) when `current` is wrong.
        """
        flow = _calls.change_password(
            self._session, current, new, keep_other_sessions=keep_other_sessions
        )
        self._run(flow, timeout)

    def keys(self, *, timeout: float | None = None) -> KeySet:
        """The public keys to verify access tokens with. Needs no session."""
        return self._run(_calls.keys(), timeout)

    def user_data(
        self,
        collection: str | None = None,
        *,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> UserData:
        """One page: the user, its revision, and records of one or all collections.

        `page_size` is the most records wanted: 50 when 0, at most 1,000.
        """
        flow = _calls.user_data(self._session, collection, page_size, page_token)
        return self._run(flow, timeout)

    def records(
        self,
        collection: str | None = None,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Record]:
        """Every record of one or all collections, page after page; `timeout` is for each."""
        token = ""
        while True:
            page = self.user_data(
                collection, page_size=page_size, page_token=token, timeout=timeout
            )
            yield from page.records
            if not (token := page.next_page_token):
                return

    def list(
        self, collection: str, *, page_size: int = 0, timeout: float | None = None
    ) -> Iterator[Record]:
        """Every record of one collection, by key, page after page; `timeout` is for each."""
        token = ""
        while True:
            flow = _calls.list_page(self._session, collection, page_size, token)
            records, token = self._run(flow, timeout)
            yield from records
            if not token:
                return

    def get(self, collection: str, key: str, *, timeout: float | None = None) -> Record:
        """One record. Raises NotFound."""
        return self._run(_calls.get(self._session, collection, key), timeout)

    def get_many(
        self, names: Iterable[tuple[str, str]], *, timeout: float | None = None
    ) -> dict[tuple[str, str], Record]:
        """Those of the named records (collection, key) that there are, by name, in that order.

        Read a hundred at a time, or as many as fit one answer, and each such part as it was at one
        instant.
        """
        return self._run(_calls.get_many(self._session, names), timeout)

    def put(
        self,
        collection: str,
        key: str,
        value: Any,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        expire_time: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Writes one record: makes it, or replaces it whole.

        `value` is anything `json.dumps` takes, or `Json` for exact text. `if_revision` raises
        Conflict when that is not the record's revision any more, `if_absent` AlreadyExists when
        there is one. `request_id` (a UUID) names the write, which happens once however often it
        is sent; without it each call is a write of its own, and still safe to retry inside.
        """
        flow = _calls.put(
            self._session,
            collection,
            key,
            value,
            if_revision=if_revision,
            if_absent=if_absent,
            expire_time=expire_time,
            request_id=request_id,
        )
        return self._run(flow, timeout)

    def delete(
        self,
        collection: str,
        key: str,
        *,
        if_revision: int | None = None,
        allow_missing: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Deletes one record; the revision at which, 0 when there was none and that is allowed.

        Raises NotFound, Conflict.
        """
        flow = _calls.delete(
            self._session, collection, key, if_revision=if_revision, allow_missing=allow_missing
        )
        return self._run(flow, timeout)

    def update(
        self,
        collection: str,
        key: str,
        fn: Callable[[Any], Any],
        *,
        timeout: float | None = None,
    ) -> Written:
        """Writes `fn(value now, None if there is none)`, and no other write is lost.

        `fn` runs again with the newer value whenever somebody wrote in between: let it be quick
        and without effects. Raises Conflict or AlreadyExists after ten tries.
        """
        return self._run(_calls.update(self._session, collection, key, fn), timeout)

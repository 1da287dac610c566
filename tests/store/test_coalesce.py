"""Questions in flight at the same moment share a statement, and nothing else."""

import asyncio
from collections.abc import Sequence

import pytest

from service.domain.errors import DatabaseUnavailable, Overloaded
from service.store import coalesce
from service.store.coalesce import Coalesced


class Statements:
    """Answers n with 2n, one statement at a time when told to go on; keeps what each was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()

    async def load(self, questions: Sequence[int]) -> list[int]:
        self.asked.append(list(questions))
        await self.gate.wait()
        if 13 in questions:
            raise ValueError("13 is not to be had")
        if 99 in questions:
            raise DatabaseUnavailable
        return [2 * question for question in questions]


def asking(coalesced: Coalesced[int, int], *questions: int) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(coalesced.ask(question)) for question in questions]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_question_runs_at_once_in_its_own_task() -> None:
    statements = Statements()
    statements.gate.set()
    tasks = len(asyncio.all_tasks())

    answer = await Coalesced(statements.load).ask(21)

    assert answer == 42
    assert len(asyncio.all_tasks()) == tasks


async def test_questions_that_come_while_a_statement_runs_share_the_next() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    tasks = asking(coalesced, 1, 2, 3, 4)
    await settle()

    statements.gate.set()

    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert statements.asked == [[1], [2, 3, 4]]


async def test_a_statement_is_never_wider_than_allowed() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1, width=3)
    tasks = asking(coalesced, *range(20, 30))
    await settle()

    statements.gate.set()
    await asyncio.gather(*tasks)

    assert max(map(len, statements.asked)) == 3


async def test_a_cancelled_question_hurts_no_other() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    first, second, third, fourth = asking(coalesced, 1, 2, 3, 4)
    await settle()

    first.cancel()
    third.cancel()
    statements.gate.set()

    assert [await second, await fourth] == [4, 8]
    assert [3] not in statements.asked
    assert 3 not in statements.asked[-1]


async def test_a_question_that_fails_fails_alone() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    tasks = asking(coalesced, 1, 2, 13, 4)
    await settle()

    statements.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [answers[i] for i in (0, 1, 3)] == [2, 4, 8]
    assert isinstance(answers[2], ValueError)


async def test_a_database_that_is_away_is_away_for_all_in_the_statement() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    tasks = asking(coalesced, 1, 2, 99)
    await settle()

    statements.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in answers] == [int, DatabaseUnavailable, DatabaseUnavailable]
    assert answers[1] is not answers[2]


async def test_a_statement_that_never_ends_ends_with_its_last_caller() -> None:
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    lost = asking(coalesced, 1, 2, 3)
    await settle()

    for task in lost:
        task.cancel()
    await settle()
    statements.gate.set()

    async with asyncio.timeout(5):
        assert await coalesced.ask(4) == 8


async def test_a_statement_that_hangs_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "PATIENCE_SECONDS", 0.001)
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=3)
    tasks = asking(coalesced, 1, 2, 3)
    await asyncio.sleep(0.05)
    tasks += asking(coalesced, 4)
    await asyncio.sleep(0.05)
    tasks += asking(coalesced, 5)
    await asyncio.sleep(0.05)

    assert statements.asked == [[1], [2, 3], [4]]
    statements.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]


async def test_who_comes_one_after_another_beside_one_that_hangs_waits_for_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "PATIENCE_SECONDS", 0.001)
    hangs = asyncio.Event()

    async def load(questions: Sequence[int]) -> Sequence[int]:
        if 13 in questions:
            await hangs.wait()
        return questions

    coalesced = Coalesced(load)
    tasks = asking(coalesced, 13)
    await settle()

    async with asyncio.timeout(5):
        for number in range(20, 40):
            assert await coalesced.ask(number) == number
    hangs.set()
    assert await asyncio.gather(*tasks) == [13]


async def test_those_who_left_make_room_for_those_who_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "QUEUE", 2)
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    first, second, third = asking(coalesced, 1, 2, 3)
    await settle()

    second.cancel()
    third.cancel()
    await settle()
    (fourth,) = asking(coalesced, 4)
    await settle()
    statements.gate.set()

    assert [await first, await fourth] == [2, 8]


async def test_more_than_may_wait_are_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "QUEUE", 2)
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    tasks = asking(coalesced, 1, 2, 3, 4)
    await settle()

    statements.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [*answers[:3]] == [2, 4, 6]
    assert isinstance(answers[3], Overloaded)


async def test_without_a_connection_nobody_waits_for_one_twice() -> None:
    gate, asked = asyncio.Event(), []

    async def load(questions: Sequence[int]) -> list[int]:
        asked.append(list(questions))
        await gate.wait()
        if len(asked) < 2:
            raise Overloaded
        return list(questions)

    coalesced = Coalesced(load)
    tasks = asking(coalesced, 1, 2, 3)
    await settle()
    gate.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in answers] == [Overloaded] * 3
    assert asked == [[1]]
    assert await coalesced.ask(4) == 4


async def test_no_question_is_left_behind_by_a_statement_that_is_just_ending() -> None:
    async def load(questions: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        return list(questions)

    coalesced = Coalesced(load, at_once=2, width=4)

    async def caller(seed: int) -> None:
        for turn in range(100):
            if (seed + turn) % 3 == 0:
                await asyncio.sleep(0)
            if (seed * turn) % 7 == 1:
                impatient = asyncio.ensure_future(coalesced.ask(seed))
                await asyncio.sleep(0)
                impatient.cancel()
            assert await coalesced.ask(seed) == seed

    async with asyncio.timeout(30):
        await asyncio.gather(*(caller(seed) for seed in range(60)))
        while coalesced._running:  # it may be waiting for more to come
            await asyncio.sleep(0)

    assert not coalesced._waiting


class Quick:
    """Answers at once; keeps how many each statement was for."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    async def load(self, questions: Sequence[int]) -> list[int]:
        self.widths.append(len(questions))
        return list(questions)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns count, and not how fast this machine is."""
    monkeypatch.setattr(coalesce, "FAST_SECONDS", 60)
    monkeypatch.setattr(coalesce, "HOLD_SECONDS", 60)


async def one_a_turn(coalesced: Coalesced[int, int], count: int) -> None:
    """As a grpc.aio server hands over calls."""
    tasks = []
    for number in range(count):
        tasks += asking(coalesced, number)
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == list(range(count))


async def test_questions_that_come_fast_one_after_another_are_gathered(
    untimed: None,
) -> None:
    quick = Quick()
    coalesced = Coalesced(quick.load)
    for number in range(coalesce.TRY_EVERY - 1):
        await coalesced.ask(number)

    await one_a_turn(coalesced, 8)
    await one_a_turn(coalesced, 5)

    assert quick.widths == [*[1] * (coalesce.TRY_EVERY - 1), 8, 5]


async def test_who_is_alone_after_all_goes_on_after_some_turns_and_the_next_at_once(
    untimed: None,
) -> None:
    quick = Quick()
    coalesced = Coalesced(quick.load)
    turns = []

    for number in range(2 * coalesce.TRY_EVERY):
        (task,) = asking(coalesced, number)
        turns.append(0)
        while not task.done():
            await asyncio.sleep(0)
            turns[-1] += 1

    held = [number + 1 for number, waited in enumerate(turns) if waited > 3]
    assert held == [coalesce.TRY_EVERY, 2 * coalesce.TRY_EVERY]
    assert max(turns) < coalesce.QUIET_TURNS + 10


@pytest.mark.parametrize(("waiting", "held"), [(coalesce.CROWD - 1, True), (coalesce.CROWD, False)])
async def test_how_many_are_company_enough(
    untimed: None, monkeypatch: pytest.MonkeyPatch, waiting: int, held: bool
) -> None:
    monkeypatch.setattr(coalesce, "TRY_EVERY", 2)
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=1)
    statements.gate.set()
    await coalesced.ask(0)
    statements.gate.clear()
    tasks = asking(coalesced, 1, 2, 3)  # the second try: these gather
    while len(statements.asked) < 2:
        await asyncio.sleep(0)
    crowd = list(range(20, 20 + waiting))
    tasks += asking(coalesced, *crowd)
    await settle()

    statements.gate.set()
    await settle()
    tasks += asking(coalesced, 40)
    await asyncio.gather(*tasks)

    assert statements.asked[:2] == [[0], [1, 2, 3]]
    assert statements.asked[2] == ([*crowd, 40] if held else crowd)


async def test_a_statement_that_ends_while_others_gather_leaves_them_alone(
    untimed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who gather would halve the company, and the second find nobody."""
    monkeypatch.setattr(coalesce, "TRY_EVERY", 1)
    monkeypatch.setattr(coalesce, "PATIENCE_SECONDS", 0)
    statements = Statements()
    coalesced = Coalesced(statements.load, at_once=2)
    statements.gate.set()
    await coalesced.ask(0)
    statements.gate.clear()
    tasks = asking(coalesced, 1, 2, 3)
    async with asyncio.timeout(5):
        while len(statements.asked) < 2:
            await asyncio.sleep(0)
        tasks += asking(coalesced, 4)  # for which that statement takes too long already
        while not coalesced._gathering:
            await asyncio.sleep(0)

    statements.gate.set()
    await tasks[0]
    tasks += asking(coalesced, 5, 6)
    await asyncio.gather(*tasks)

    assert statements.asked == [[0], [1, 2, 3], [4, 5, 6]]
    assert coalesced._holding


async def test_questions_that_come_slowly_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "FAST_SECONDS", 0)
    quick = Quick()
    coalesced = Coalesced(quick.load)

    await one_a_turn(coalesced, 3 * coalesce.TRY_EVERY)

    assert set(quick.widths) == {1}


async def test_nobody_is_held_for_long_while_others_keep_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "FAST_SECONDS", 60)
    monkeypatch.setattr(coalesce, "HOLD_SECONDS", 0)
    quick = Quick()
    coalesced = Coalesced(quick.load)

    await one_a_turn(coalesced, 100)

    assert max(quick.widths) <= coalesce.CROWD

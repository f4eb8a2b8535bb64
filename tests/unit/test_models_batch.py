"""A failing item fails alone, a failing model fails nobody's job, and a hung one is noticed."""

import asyncio
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from serve_app.errors import ModelRejected, ModelTimeout, ModelUnready, ReplicaLost, TransientFailure
from serve_app.models.forward import BatchRunner, ForwardThread
from tests.toy_model import WordStatistics


class Halves(WordStatistics):
    """Halves numbers; an odd one fails the batch, and a broken model fails on everything."""

    broken = False

    def forward(self, items: Sequence[Any]) -> list[Any]:
        if self.broken or any(item % 2 for item in items):
            raise ArithmeticError("odd")
        return [item // 2 for item in items]


class Hung(Halves):
    """Its forward pass ends when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def forward(self, items: Sequence[Any]) -> list[Any]:
        self.release.wait()
        return list(items)


@pytest.fixture
def hung() -> Iterator[Hung]:
    model = Hung()
    yield model
    model.release.set()


@pytest.fixture
def thread() -> Iterator[ForwardThread]:
    made = ForwardThread()
    yield made
    made.close()


class Flaky(Halves):
    """A device that is busy with 7; `broken` makes it busy with everything."""

    def forward(self, items: Sequence[Any]) -> list[Any]:
        if self.broken or 7 in items:
            raise ConnectionError("the device is busy")
        return [item // 2 for item in items]


async def test_an_item_whose_failure_may_pass_is_not_rejected(thread: ForwardThread):
    answers = await BatchRunner(Flaky(), thread, known_good=2, deadline_s=5).run([2, 7, 4])
    assert (answers[0], answers[2]) == (1, 2)
    assert isinstance(answers[1], TransientFailure)
    assert answers[1].detail == "ConnectionError: the device is busy"


async def test_a_model_that_fails_on_its_warm_up_item_too_is_unready(thread: ForwardThread):
    flaky = Flaky()
    flaky.broken = True
    with pytest.raises(ModelUnready):
        await BatchRunner(flaky, thread, known_good=2, deadline_s=5).run([2, 4])


async def test_only_the_failing_items_are_rejected(thread: ForwardThread):
    answers = await BatchRunner(Halves(), thread, known_good=2, deadline_s=5).run([2, 3, 4, 5])
    assert answers[0] == 1
    assert answers[2] == 2
    assert [type(answers[place]) for place in (1, 3)] == [ModelRejected, ModelRejected]
    assert "ArithmeticError" in answers[1].detail


async def test_a_model_that_fails_on_its_own_input_rejects_nobody(thread: ForwardThread):
    model = Halves()
    model.broken = True
    with pytest.raises(ModelUnready, match="warm-up"):
        await BatchRunner(model, thread, known_good=2, deadline_s=5).run([2, 4])


async def test_a_wrong_number_of_outputs_is_the_model_s_fault(thread: ForwardThread):
    class Mute(Halves):
        def forward(self, items: Sequence[Any]) -> list[Any]:
            return []

    with pytest.raises(ModelUnready):
        await BatchRunner(Mute(), thread, known_good=2, deadline_s=5).run([2])


async def test_a_hung_forward_is_noticed_once_and_for_all(thread: ForwardThread, hung: Hung):
    batch = BatchRunner(hung, thread, known_good=2, deadline_s=0.05)
    with pytest.raises(ReplicaLost, match="longer than") as caught:
        await batch.run([2, 6])
    assert caught.value.hung
    assert thread.hung
    with pytest.raises(ReplicaLost, match="hangs"):
        await asyncio.wait_for(batch.run([4]), 1)


async def test_a_single_item_that_hangs_ends_as_its_own_failure(thread: ForwardThread, hung: Hung):
    [answer] = await BatchRunner(hung, thread, known_good=2, deadline_s=0.05).run([2])
    assert type(answer) is ModelTimeout
    assert "0.05 s" in answer.detail
    assert thread.hung


async def test_a_single_item_that_fails_and_then_hangs_ends_as_its_own_failure(
    thread: ForwardThread, hung: Hung, monkeypatch: pytest.MonkeyPatch
):
    def fail_once(items: Sequence[Any]) -> list[Any]:
        monkeypatch.undo()
        raise ArithmeticError("once")

    monkeypatch.setattr(hung, "forward", fail_once)
    [answer] = await BatchRunner(hung, thread, known_good=2, deadline_s=0.05).run([2])
    assert type(answer) is ModelTimeout


async def test_a_caller_that_goes_takes_no_time_from_the_next(thread: ForwardThread):
    """The next one's deadline begins when the thread is free: a healthy item must not be taken for one that hangs."""
    release = threading.Event()
    first = asyncio.create_task(thread.run(release.wait, deadline_s=5))
    await asyncio.sleep(0)  # it has its turn
    second = asyncio.create_task(thread.run(lambda: "well", deadline_s=0.2))
    first.cancel()
    await asyncio.wait((first, second), timeout=0.4)
    assert first.cancelled()
    assert not second.done()
    release.set()
    assert await second == "well"


async def test_an_item_that_is_lost_on_its_way_to_the_thread_is_not_waited_for_without_end(thread: ForwardThread):
    """One of Serve's queue of batches that never ends would hold the chunk and the suspects behind it for ever."""
    lost = asyncio.get_running_loop().create_future()
    with pytest.raises(ReplicaLost, match="No forward pass took"):
        await asyncio.wait_for(thread.expect(lost, deadline_s=0.05), 1)
    assert thread.hung  # so that Serve replaces the replica


async def test_the_thread_is_one_and_of_low_priority(thread: ForwardThread):
    import os

    def who() -> tuple[int, int, int]:
        here = threading.get_native_id()
        started: list[int] = []
        child = threading.Thread(target=lambda: started.append(os.getpriority(os.PRIO_PROCESS, 0)))
        child.start()
        child.join()
        return here, os.getpriority(os.PRIO_PROCESS, here), started[0]

    first, second = [await thread.run(who, deadline_s=5) for _ in range(2)]
    assert first == second
    lower = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    assert first[1:] == (lower, lower)


async def test_answer_i_belongs_to_item_i_in_ten_thousand_random_batches(thread: ForwardThread):
    chance = random.Random(20261121)
    batch = BatchRunner(Halves(), thread, known_good=2, deadline_s=30)
    logging.getLogger("serve_app.models.forward").setLevel(logging.CRITICAL)
    try:
        for _ in range(10_000):
            odd = chance.random() < 0.1  # in one of ten batches items fail, which then run one by one
            items = [2 * chance.randrange(10**6) + (odd and chance.random() < 0.3) for _ in range(chance.randint(1, 8))]
            answers = await batch.run(items)
            assert [None if isinstance(one, ModelRejected) else one for one in answers] == [
                None if item % 2 else item // 2 for item in items
            ]
    finally:
        logging.getLogger("serve_app.models.forward").setLevel(logging.NOTSET)

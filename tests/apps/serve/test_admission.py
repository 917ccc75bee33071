"""The queue: so many at a time, every client its turn, no place lost, none given twice."""

from __future__ import annotations

import asyncio

import pytest
from myna.apps.serve.admission import Admission
from myna.apps.serve.problems import BusyError


def run(job):
    return asyncio.run(job())


class Crowd:
    """Requests that are worked on until they are told to end."""

    def __init__(self, admission: Admission):
        self.admission, self.order = admission, []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task] = {}

    async def come(self, client: str, name: str) -> asyncio.Task:
        self.ends[name] = asyncio.Event()

        async def work():
            async with self.admission.slot(client):
                self.order.append(name)
                await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(work())
        await self.settle()
        return self.tasks[name]

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def test_a_hundred_requests_of_one_do_not_keep_another_waiting():
    async def job():
        crowd = Crowd(Admission(1, 10))
        for i in range(5):
            await crowd.come("greedy", f"g{i}")
        await crowd.come("modest", "m0")
        await crowd.come("third", "t0")
        for name in ("g0", "m0", "t0", "g1", "g2"):
            await crowd.end(name)
        return crowd.order

    order = run(job)
    assert order[0] == "g0"
    assert set(order[1:4]) == {"g1", "m0", "t0"}
    assert order.index("m0") < order.index("g2")


def test_who_has_the_least_under_way_goes_first():
    async def job():
        crowd = Crowd(Admission(2, 10))
        for name in ("a0", "a1", "a2"):
            await crowd.come("a", name)
        await crowd.come("b", "b0")
        await crowd.end("a0")
        return crowd.order

    assert run(job) == ["a0", "a1", "b0"]


def test_a_full_queue_says_when_to_come_again():
    async def job():
        crowd = Crowd(Admission(1, 1))
        await crowd.come("a", "a0")
        await crowd.come("b", "b0")
        with pytest.raises(BusyError, match="try again in") as raised:
            crowd.admission.check("c")
        refused = await crowd.come("c", "c0")
        with pytest.raises(BusyError):
            await refused
        assert 1 <= int(raised.value.headers["Retry-After"]) <= 60
        return crowd.admission.n_active, crowd.admission.n_waiting

    assert run(job) == (1, 1)


def test_who_fills_the_queue_loses_a_place_to_who_has_none():
    async def job():
        crowd = Crowd(Admission(1, 3))
        for i in range(4):
            await crowd.come("greedy", f"g{i}")
        crowd.admission.check("modest")  # does not raise
        await crowd.come("modest", "m0")
        with pytest.raises(BusyError):
            await crowd.tasks["g3"]
        assert not crowd.tasks["g2"].done()
        for name in ("g0", "g1", "m0", "g2"):
            await crowd.end(name)
        return crowd.order, crowd.admission.n_active, crowd.admission.n_waiting

    order, active, waiting = run(job)
    assert sorted(order) == ["g0", "g1", "g2", "m0"]
    assert (active, waiting) == (0, 0)


def test_who_goes_while_waiting_leaves_nothing_behind():
    async def job():
        crowd = Crowd(Admission(1, 5))
        for name in ("a0", "b0", "c0"):
            await crowd.come(name[0], name)
        crowd.tasks["b0"].cancel()
        await crowd.settle()
        assert crowd.admission.n_waiting == 1
        await crowd.end("a0")
        # Let in, and gone in the same moment.
        await crowd.come("d", "d0")
        crowd.ends["c0"].set()
        await asyncio.sleep(0)
        crowd.tasks["d0"].cancel()
        await crowd.settle()
        await crowd.come("e", "e0")
        return crowd.order, crowd.admission.n_active

    order, active = run(job)
    assert order[0] == "a0"
    assert order[-1] == "e0"
    assert active == 1


def test_any_number_that_come_and_go_are_never_more_than_the_slots():
    async def job():
        admission = Admission(3, 100)
        most = 0

        async def work(i: int):
            nonlocal most
            async with admission.slot(f"client {i % 7}"):
                most = max(most, admission.n_active)
                await asyncio.sleep(0.001 * (i % 3))

        tasks = [asyncio.create_task(work(i)) for i in range(80)]
        await asyncio.sleep(0.002)
        for task in tasks[::5]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return most, admission.n_active, admission.n_waiting

    assert run(job) == (3, 0, 0)


def test_one_client_leaves_places_to_the_others():
    async def job():
        crowd = Crowd(Admission(4, 0, most=3))
        for i in range(3):
            await crowd.come("greedy", f"g{i}")
        fourth = await crowd.come("greedy", "g3")
        with pytest.raises(BusyError, match="as many as one may have"):
            crowd.admission.check("greedy")
        await crowd.come("modest", "m0")
        await crowd.end("g0")
        await crowd.come("greedy", "g4")
        with pytest.raises(BusyError, match="this client has 3"):
            await fourth
        return crowd.order

    assert run(job) == ["g0", "g1", "g2", "m0", "g4"]

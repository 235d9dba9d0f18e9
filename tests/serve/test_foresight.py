"""The twins that foresee a turn's end: there is never more than one, and none for a silence that is over."""

import asyncio
from types import SimpleNamespace

import pytest

from speechstream.events import Final
from speechstream.serve.realtime.hearing import Hearing, Stretch


class Twin:
    """A stream whose end is told when it is let go."""

    def __init__(self, texts):
        self.texts, self.closed, self.over, self.finished = list(texts), False, False, False
        self.go = asyncio.Event()

    def finish(self):
        self.finished = True

    def close(self):
        self.closed = True
        self.go.set()

    def __aiter__(self):
        return self

    async def __anext__(self):
        await self.go.wait()
        if self.closed or not self.texts:
            raise StopAsyncIteration
        return Final(self.texts.pop(0), (), 0.0, 0.0)


class Ears(Twin):
    """A stream that remembers its twins."""

    def __init__(self):
        super().__init__([])
        self.twins = []

    def fork(self):
        self.twins.append(Twin([f"foreseen {len(self.twins)}"]))
        return self.twins[-1]


async def hearing():
    told, tasks = [], []

    async def step(event):
        told.append((event.number, event.text))

    connection = SimpleNamespace(
        step=step,
        wall=lambda: 0.0,
        put=lambda make: tasks.append(asyncio.ensure_future(make())),
        spawn=lambda work: tasks.append(asyncio.ensure_future(work)),
    )
    h = Hearing(connection)
    h.ears = Stretch(Ears(), 0.0, True)
    return h, told, tasks


async def settled(tasks):
    done = 0
    while done < len(tasks):
        done = len(tasks)
        await asyncio.gather(*tasks)


def test_a_newer_wish_takes_the_place_of_the_older():
    async def do():
        h, told, tasks = await hearing()
        h.foresee(1)
        await asyncio.sleep(0)
        h.foresee(2)
        first, second = h.ears.stream.twins
        assert first.closed and not second.closed
        second.go.set()
        await settled(tasks)
        assert second.closed
        return told

    assert asyncio.run(do()) == [(2, "foreseen 1")]


@pytest.mark.parametrize("how", ["give_up", "close"])
def test_a_silence_that_is_over_closes_its_twin(how):
    async def do():
        h, told, tasks = await hearing()
        h.foresee(1)
        await asyncio.sleep(0)
        getattr(h, how)()
        assert h.ears.stream.twins[0].closed
        await settled(tasks)
        return told

    assert asyncio.run(do()) == []

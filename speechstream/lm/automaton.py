"""Automata over bytes: built with moves on nothing, then made deterministic (the subset construction, Rabin and Scott 1959)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

MAX_NODES = 20_000
DEAD = 0


class Builder:
    """moves[n]: (first byte, last byte, node); nothing[n]: nodes that are reached without reading."""

    def __init__(self) -> None:
        self.moves: list[list[tuple[int, int, int]]] = []
        self.nothing: list[list[int]] = []

    def node(self) -> int:
        if len(self.moves) >= 4 * MAX_NODES:
            raise ValueError("that is too large: its lengths and lists multiply")
        self.moves.append([])
        self.nothing.append([])
        return len(self.moves) - 1

    def skip(self, a: int, b: int) -> int:
        self.nothing[a].append(b)
        return b

    def byte(self, a: int, ranges: Iterable[tuple[int, int]], b: int | None = None) -> int:
        end = self.node() if b is None else b
        self.moves[a] += [(first, last, end) for first, last in ranges]
        return end

    def text(self, a: int, text: str) -> int:
        for byte in text.encode():
            a = self.byte(a, [(byte, byte)])
        return a

    def after(self, a: int, mark: str) -> int:
        """A comma or a colon, and perhaps a space."""
        a = self.text(a, mark)
        self.skip(a, end := self.node())
        return self.byte(a, [(32, 32)], end)

    def times(self, a: int, one: Callable[[int], int], least: int, most: int | None) -> int:
        """`one` at least and at most so often; None: without end."""
        for _ in range(least):
            a = one(a)
        if most is None:
            self.skip(one(a), a)
            return self.skip(a, self.node())
        end = self.node()
        for _ in range(most - least):
            self.skip(a, end)
            a = one(a)
        return self.skip(a, end)

    def letter(self, a: int) -> int:
        """A letter of a string, as UTF-8 or escaped, never half a surrogate pair."""
        end, tail = self.node(), (0x80, 0xBF)
        self.byte(a, [(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F)], end)
        for lead, *more in (
            ((0xC2, 0xDF), tail),
            ((0xE0, 0xE0), (0xA0, 0xBF), tail),
            ((0xE1, 0xEC), tail, tail),
            ((0xED, 0xED), (0x80, 0x9F), tail),
            ((0xEE, 0xEF), tail, tail),
            ((0xF0, 0xF0), (0x90, 0xBF), tail, tail),
            ((0xF1, 0xF3), tail, tail, tail),
            ((0xF4, 0xF4), (0x80, 0x8F), tail, tail),
        ):
            n = self.byte(a, [lead])
            for r in more[:-1]:
                n = self.byte(n, [r])
            self.byte(n, [more[-1]], end)
        escaped = self.text(a, "\\")
        self.byte(escaped, [(ord(c), ord(c)) for c in '"\\/bfnrt'], end)
        hexes = [(48, 57), (65, 70), (97, 102)]
        u = self.text(escaped, "u")
        second = self.byte(u, [(48, 57), (65, 67), (97, 99), (69, 70), (101, 102)])
        third = self.byte(second, hexes)
        self.byte(self.byte(u, [(68, 68), (100, 100)]), [(48, 55)], third)
        self.byte(self.byte(third, hexes), hexes, end)
        return end

    def digits(self, a: int, least: int, most: int) -> int:
        return self.times(a, lambda n: self.byte(n, [(48, 57)]), least, most)

    def number(self, a: int, whole: bool) -> int:
        minus = self.text(a, "-")
        self.skip(a, minus)
        zero = self.text(minus, "0")
        end = self.digits(self.byte(minus, [(49, 57)]), 0, 14)
        self.skip(zero, end)
        if whole:
            return end
        point = self.skip(self.digits(self.text(end, "."), 1, 15), self.node())
        self.skip(end, point)
        e = self.byte(point, [(69, 69), (101, 101)])
        sign = self.byte(e, [(43, 43), (45, 45)])
        self.skip(e, sign)
        return self.either(point, self.digits(sign, 1, 2))

    def either(self, a: int, b: int) -> int:
        end = self.node()
        self.skip(a, end)
        return self.skip(b, end)


def deterministic(b: Builder, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """The table (nodes, 256) of the next node, DEAD (0) for none, and which nodes end a text. The first node is 1."""

    def closed(nodes: Iterable[int]) -> frozenset[int]:
        found, new = set(nodes), list(nodes)
        while new:
            for n in b.nothing[new.pop()]:
                if n not in found:
                    found.add(n)
                    new.append(n)
        # only what reads or ends tells nodes apart
        return frozenset(n for n in found if b.moves[n] or n == end)

    first = closed([start])
    numbers, todo, rows = {first: 1}, [first], [np.zeros(256, np.int32)]
    for nodes in todo:  # which grows
        moves = [m for n in nodes for m in b.moves[n]]
        borders = sorted({m[0] for m in moves} | {m[1] + 1 for m in moves})
        row = np.zeros(256, np.int32)
        for low, high in zip(borders, borders[1:]):
            into = closed([n for f, last, n in moves if f <= low and high - 1 <= last])
            if not into:
                continue
            if into not in numbers:
                if len(numbers) >= MAX_NODES:
                    raise ValueError(f"that is too large: more than {MAX_NODES} nodes")
                numbers[into] = len(numbers) + 1
                todo.append(into)
            row[low:high] = numbers[into]
        rows.append(row)
    final = np.array([False, *(end in nodes for nodes in numbers)])
    return np.stack(rows), final


def distances(table: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Bytes (nodes,) to the nearest end; of DEAD a great many."""
    before: list[list[int]] = [[] for _ in table]
    for node, row in enumerate(table):
        for after in np.unique(row).tolist():
            before[after].append(node)
    found = np.full(len(table), np.iinfo(np.int32).max, np.int64)
    nearest, distance = np.flatnonzero(final).tolist(), 0
    while nearest:
        found[nearest] = distance
        distance += 1
        nearest = list({b for n in nearest for b in before[n] if b and found[b] > distance})
    return found

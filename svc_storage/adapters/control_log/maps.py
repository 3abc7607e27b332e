"""Maps that can be rolled back. A transaction works on the state itself; a journal holds what it replaced, so nothing is copied."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Journal:
    """What changed since the last commit, newest last."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Map[Any, Any], Any, Any]] = []

    def note(self, changed: Map[Any, Any], key: Any, before: Any) -> None:
        """`before` None: nothing was there."""
        self._replaced.append((changed, key, before))

    def mark(self) -> int:
        return len(self._replaced)

    def back_to(self, mark: int) -> None:
        """Undoes everything after `mark`."""
        while len(self._replaced) > mark:
            changed, key, before = self._replaced.pop()
            changed.restore(key, before)

    def keep(self) -> None:
        """What was done stays."""
        self._replaced.clear()


class Map(Generic[K, V]):
    """Keys and values that are never None."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._values: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        self._journal.note(self, key, self._values.get(key))
        self.restore(key, value)

    def remove(self, key: K) -> None:
        """A missing key is no error."""
        if (before := self._values.get(key)) is not None:
            self._journal.note(self, key, before)
            self.restore(key, None)

    def restore(self, key: K, value: V | None) -> None:
        """Without a note in the journal."""
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def copy(self) -> dict[K, V]:
        return dict(self._values)


class OrderedMap(Map[K, V]):
    """One that can also be read in the order of its keys."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._keys: list[Any] = []

    def restore(self, key: K, value: V | None) -> None:
        if value is None and key in self._values:
            del self._keys[bisect_left(self._keys, key)]
        elif value is not None and key not in self._values:
            insort(self._keys, key)
        super().restore(key, value)

    def after(self, key: Any) -> Iterator[tuple[K, V]]:
        """Pairs above `key`, ascending. The map must not change meanwhile."""
        for found in islice(self._keys, bisect_right(self._keys, key), None):
            yield found, self._values[found]

    def pairs(self) -> Iterator[tuple[K, V]]:
        return ((key, self._values[key]) for key in self._keys)

    def first(self) -> K | None:
        return self._keys[0] if self._keys else None

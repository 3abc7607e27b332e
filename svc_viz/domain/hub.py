"""One upstream stream per question, however many pages show it; a page that is slow sees the latest, never a queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from millrace.errors import MillraceError
from svc_viz.ports import Answer, Answers, Clock, ForecastAsk, Interrupted, Question, Resumed

T = TypeVar("T")
log = logging.getLogger(__name__)

LINGER_S = 5.0
"""How long a question nobody shows any more is kept: a reload finds it warm."""
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
SUSPECT_S = 0.5
MAX_STREAMS = 400
MAX_FORECASTS = 64
MAX_SHARED = 512


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a question is not answered now. `lasting`: asking again cannot mend it. `since_ms`: 1970-based."""

    reason: str
    message: str
    since_ms: float
    lasting: bool = False


@dataclass(slots=True)
class Latest:
    """What a question's stream said last. `number` rises with each answer."""

    answer: Answer | None = None
    trouble: Trouble | None = None
    number: int = 0


class Mailbox:
    """A session's inbox: which of its slots changed since it last looked. Posting never waits and never grows."""

    def __init__(self) -> None:
        self._changed: dict[Hashable, None] = {}
        self._wake = asyncio.Event()

    def post(self, slot: Hashable) -> None:
        self._changed[slot] = None
        self._wake.set()

    async def wait(self) -> None:
        await self._wake.wait()

    def take(self) -> list[Hashable]:
        """The changed slots, oldest first; the box is empty afterwards."""
        found = list(self._changed)
        self._changed.clear()
        self._wake.clear()
        return found


@dataclass(slots=True)
class _Stream:
    latest: Latest = field(default_factory=Latest)
    followers: dict[Follower, None] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    closing: asyncio.TimerHandle | None = None


class Follower:
    """One slot's hold on one question; `close` it when the slot asks something else."""

    def __init__(self, hub: Hub, question: Question, notify: Callable[[], None]) -> None:
        self._hub, self.question, self.notify = hub, question, notify

    @property
    def latest(self) -> Latest:
        return self._hub.latest(self.question)

    def close(self) -> None:
        self._hub.leave(self)


class Hub:
    """Shares streams between sessions of one principal. `min_interval_ms`: least time between two answers of a question."""

    def __init__(
        self, answers: Answers, clock: Clock, *, min_interval_ms: int = 250, suspects: Callable[[], str] = str
    ) -> None:
        """`suspects`: why analysis is believed not to answer although no stream broke (a frozen process breaks none); empty else."""
        self._answers, self._clock, self._interval, self._suspects = answers, clock, min_interval_ms, suspects
        self._streams: dict[Question, _Stream] = {}
        self._forecasts: dict[ForecastAsk, Answer | MillraceError] = {}
        self._shared: dict[Hashable, tuple[tuple[object, ...], Any]] = {}
        self._former: dict[ForecastAsk, tuple[ForecastAsk, Answer]] = {}

    @property
    def streams(self) -> int:
        """Questions that are followed now."""
        return sum(1 for stream in self._streams.values() if stream.followers)

    def latest(self, question: Question) -> Latest:
        stream = self._streams.get(question)
        return stream.latest if stream else Latest()

    def follow(self, question: Question, notify: Callable[[], None]) -> Follower:
        """`notify` is called on each change, at once when there is an answer already."""
        stream = self._streams.setdefault(question, _Stream())
        follower = Follower(self, question, notify)
        stream.followers[follower] = None
        if stream.closing is not None:
            stream.closing.cancel()
            stream.closing = None
        if stream.task is None or stream.task.done():
            stream.task = asyncio.create_task(self._run(question, stream), name=f"follow {question.table}")
        if stream.latest.answer is not None or stream.latest.trouble is not None:
            notify()
        self._shed()
        return follower

    def leave(self, follower: Follower) -> None:
        stream = self._streams.get(follower.question)
        if stream is None or stream.followers.pop(follower, 0) == 0 or stream.followers:
            return
        stream.closing = asyncio.get_running_loop().call_later(LINGER_S, self._drop, follower.question)

    def shared(self, key: Hashable, held: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` gives, made once for the same key and the very same objects in `held`: sessions that show the same draw it once."""
        known = self._shared.get(key)
        if (
            known is not None
            and len(known[0]) == len(held)
            and all(a is b for a, b in zip(known[0], held, strict=True))
        ):
            found: T = known[1]
            return found
        while len(self._shared) >= MAX_SHARED:
            del self._shared[next(iter(self._shared))]
        made = make()
        self._shared[key] = (held, made)
        return made

    async def query(self, question: Question) -> Answer:
        """Once, past the streams: for exports, which must be complete."""
        return await self._answers.query(question)

    async def forecast(self, ask: ForecastAsk) -> Answer:
        """Computed once per ask; an ask names the time it ends at. Raises MillraceError, also from memory."""
        if (known := self._forecasts.get(ask)) is None:
            try:
                known = await self._answers.forecast(ask)
            except MillraceError as error:
                known = error
            while len(self._forecasts) >= MAX_FORECASTS:
                del self._forecasts[next(iter(self._forecasts))]
            self._forecasts[ask] = known
        if isinstance(known, MillraceError):
            raise known
        while len(self._former) >= MAX_FORECASTS:
            del self._former[next(iter(self._former))]
        self._former[_timeless(ask)] = (ask, known)
        return known

    def former(self, ask: ForecastAsk) -> tuple[ForecastAsk, Answer] | None:
        """The newest forecast of the same series, whatever time it ends at: a new page shows it until its own is there."""
        return self._former.get(_timeless(ask))

    async def suspect(self) -> None:
        """Looks for frozen peers, for ever; run it as background work."""
        frozen = False
        while True:
            why = self._suspects()
            if why or frozen:
                frozen = bool(why)
                for stream in tuple(self._streams.values()):
                    self._apply(stream, Interrupted("UNREACHABLE", why) if why else Resumed())
            await asyncio.sleep(SUSPECT_S)

    async def close(self) -> None:
        tasks = [stream.task for stream in self._streams.values() if stream.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._streams.clear()

    def _shed(self) -> None:
        """Brushing asks a new question per step: streams without followers go early when there are many."""
        idle = [question for question, stream in self._streams.items() if not stream.followers]
        for question in idle[: max(0, len(self._streams) - MAX_STREAMS)]:
            self._drop(question)

    def _drop(self, question: Question) -> None:
        stream = self._streams.get(question)
        if stream is not None and not stream.followers:
            del self._streams[question]
            if stream.closing is not None:
                stream.closing.cancel()
            if stream.task is not None:
                stream.task.cancel()

    async def _run(self, question: Question, stream: _Stream) -> None:
        """Follows for ever: what repeating may mend is tried again, what it cannot waits longest."""
        tries = 0
        while True:
            try:
                async with aclosing(self._answers.follow(question, min_interval_ms=self._interval)) as events:
                    async for event in events:
                        tries = 0 if not isinstance(event, Interrupted) else tries
                        self._apply(stream, event)
                self._fail(stream, "STREAM_ENDED", "the stream of answers ended")
            except MillraceError as error:
                self._fail(stream, error.reason, error.message)
            except Exception:
                log.exception("a stream of answers failed")
                self._fail(stream, "UNEXPECTED", "the page could not follow this question")
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1

    def _apply(self, stream: _Stream, event: Answer | Interrupted | Resumed) -> None:
        match event:
            case Answer():
                stream.latest = Latest(event, None, stream.latest.number + 1)
            case Interrupted(reason, message):
                self._fail(stream, reason, message)
                return
            case Resumed():
                if stream.latest.trouble is None:
                    return
                stream.latest = Latest(stream.latest.answer, None, stream.latest.number)
        self._tell(stream)

    def _fail(self, stream: _Stream, reason: str, message: str) -> None:
        old = stream.latest.trouble
        since = old.since_ms if old else self._clock().timestamp() * 1000
        trouble = Trouble(reason, message, since, lasting=_lasting(reason))
        if trouble != old:
            stream.latest = Latest(stream.latest.answer, trouble, stream.latest.number)
            self._tell(stream)

    def _tell(self, stream: _Stream) -> None:
        for follower in tuple(stream.followers):
            follower.notify()


def _timeless(ask: ForecastAsk) -> ForecastAsk:
    return replace(ask, question=replace(ask.question, start=None, end=None))


_LASTING = frozenset(
    {
        "FIELD_INVALID",
        "FIELD_REQUIRED",
        "SQL_INVALID",
        "TABLE_NOT_FOUND",
        "NOT_ALLOWED",
        "RESULT_TOO_LARGE",
        "MEMORY_LIMIT",
        "UNEXPECTED",
    }
)


def _lasting(reason: str) -> bool:
    """True where the question itself is at fault, so that the card says error, not stale."""
    return reason in _LASTING

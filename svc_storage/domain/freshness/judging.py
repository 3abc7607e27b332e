"""What a source, a transform, a table or a reader says of itself, judged. Pure: no I/O, times are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from svc_storage.domain.control.leases import LeaseSight
from svc_storage.domain.freshness.hops import Cause, Hop, Kind, State, seconds, short, time_text
from svc_storage.domain.freshness.works import ReaderSight, Work
from svc_storage.domain.writing.trouble import Trouble
from svc_storage.ports import SAME_ROWS, CommitKind, Committed, Version

S = 1_000_000
LATE_US = 3 * S
"""A transform may need so long for what is new, beyond its own delay."""
LATE_TRY_US = 10 * S
"""A worker that did not try again so long after it wanted to is not there."""
READER_LATE_US = 30 * S
NEW_US = 5 * S
"""A worker may need so long to take up what was just stored."""
LETTERS_US = 300 * S
"""Commits of this long are looked at for dead letters."""
LETTERS_SHARE = 0.5
TRYING_US = 3 * S
"""A commit that takes longer is held up by the store."""
_CONFLICTS = frozenset({"COMMIT_CONFLICT", "ALREADY_EXISTS"})
_AWAY = frozenset({"STORE_UNAVAILABLE", "COMMIT_UNKNOWN", "DISK_FULL", "CHECKSUM_MISMATCH", "FILE_MISSING"})


@dataclass(frozen=True, slots=True)
class Waiting:
    """What of an input a transform has not taken in: after `done`, up to `head`; `since_us`: the first commit of rows of it."""

    table: str
    done: Version
    head: Version
    since_us: int


def of_work(work: Work, lease: LeaseSight | None, now_us: int) -> Hop:
    """A source or a transform, without what waits for it. `lease` None: it could not be asked for."""
    source = work.kind == "source"
    hop = Hop(
        kind=Kind.SOURCE if source else Kind.TRANSFORM,
        name=work.name,
        evidence=_seen(work, lease, now_us),
        replica=(lease.holder if lease and lease.held else "") or work.worker,
        summary=_at_work(work, now_us),
    )
    word = f"the {work.kind} {short(work.name)}"
    paused, failing = (
        (Cause.SOURCE_PAUSED, Cause.SOURCE_FAILING) if source else (Cause.TRANSFORM_PAUSED, Cause.TRANSFORM_FAILING)
    )
    if work.paused:
        return _stalled(hop, paused, f"{word} is paused by its spec", work.told_us, "set `paused: false` and apply it")
    if work.state == "PAUSED" and work.looked_at:
        why = "mend what the cause says and apply it again"
        cause = failing if work.cause else paused
        return _stalled(hop, cause, f"{word} stopped until a person acts: {work.cause}", work.told_us, why)
    if work.state == "BACKING_OFF" and not _given_up(work, lease, now_us):
        why = "mend what the cause says; it tries again by itself"
        return _stalled(hop, failing, f"{word} fails and tries again: {work.cause}", work.told_us, why)
    if work.own_pace and work.state != "FINISHED":
        if lease is None:
            return replace(
                hop, state=State.UNKNOWN, cause=Cause.NO_ANSWER, summary=f"{word}: who works on it could not be read"
            )
        if not lease.held:
            return _nobody(hop, word, work, lease, now_us)
    if not work.own_pace and work.cause:
        why = "mend what the cause says and run it again"
        return _stalled(hop, failing, f"the last run of {word} failed: {work.cause}", work.told_us, why)
    if work.own_pace and not work.looked_at:
        text = f"{word} has a new spec that no worker has taken up yet"
        return replace(hop, state=State.UNKNOWN, cause=Cause.NOT_LOOKED_AT, summary=text, since_us=work.told_us)
    return hop


def of_transform(work: Work, lease: LeaseSight | None, waiting: Sequence[Waiting], now_us: int) -> Hop:
    """A transform, with what of its inputs waits for it."""
    hop = of_work(work, lease, now_us)
    late = [one for one in waiting if now_us - one.since_us > LATE_US + work.delay_us]
    seen = dict(hop.evidence)
    for one in waiting:
        seen[f"input.{short(one.table)}"] = f"{one.done} of {one.head}"
    hop = replace(hop, evidence=seen)
    if hop.state > State.UNKNOWN or not late:
        return hop
    oldest = min(late, key=lambda one: one.since_us)
    what = f"{one_or_more(oldest.head - oldest.done)} of {short(oldest.table)}"
    return replace(
        hop,
        state=State.BEHIND,
        cause=Cause.TRANSFORM_BEHIND,
        summary=f"the transform {short(work.name)} is behind: {what} wait since {seconds(now_us - oldest.since_us)}",
        since_us=oldest.since_us,
        next_step="see what its worker does (`replica`); a transform that is not incremental reads all rows each time",
    )


def one_or_more(versions: int) -> str:
    return f"{versions} version{'' if versions == 1 else 's'}"


def of_reader(reader: ReaderSight, head: Version, since_us: int | None, now_us: int) -> Hop:
    """`since_us`: the first commit that it has not read; None: it has read all."""
    hop = Hop(
        kind=Kind.SUBSCRIBER,
        name=reader.name,
        summary=f"the reader {short(reader.name)} has read all",
        evidence={"version": str(reader.version), "head": str(head), "moved": time_text(reader.moved_us)},
    )
    if since_us is None or now_us - since_us < READER_LATE_US:
        return hop
    return replace(
        hop,
        state=State.BEHIND,
        cause=Cause.SUBSCRIBER_BEHIND,
        summary=f"the reader {short(reader.name)} has {one_or_more(head - reader.version)} left to read",
        since_us=since_us,
        next_step="see why that program does not read on; delete the reader when it is gone for good",
    )


# -- tables -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class TableSight:
    """A table as this replica sees it. `commits`: the newest ones, ascending. `trying_us`: a commit has been under way for so long."""

    head: Version
    commits: Sequence[Committed] = ()
    trouble: Trouble | None = None
    trouble_us: int = 0
    trying_us: int = 0
    failure: str = ""


def of_table(name: str, sight: TableSight, told: Mapping[str, Work], now_us: int) -> Hop:
    """`told`: reason -> the worker that says so of its commits to this table."""
    rows_us = rows_time_us(sight.commits)
    seen = {"version": str(sight.head)}
    if rows_us is not None:
        seen["newest_rows"] = time_text(rows_us)
    hop = Hop(kind=Kind.TABLE, name=name, evidence=seen, summary=f"{short(name)} takes commits")
    if bad := _of_store(hop, sight, told, now_us):
        return bad
    return _of_letters(hop, sight.commits, now_us)


def rows_time_us(commits: Sequence[Committed]) -> int | None:
    """When rows last came or went; None when none of these commits did that."""
    return next((one.commit.time_us for one in reversed(commits) if moves_rows(one)), None)


def moves_rows(one: Committed) -> bool:
    commit = one.commit
    return commit.kind not in (*SAME_ROWS, CommitKind.FENCE) and bool(commit.adds or commit.removes)


def _of_store(hop: Hop, sight: TableSight, told: Mapping[str, Work], now_us: int) -> Hop | None:
    table, trouble = short(hop.name), sight.trouble
    away = "look at the store: reachable, credentials, space; nothing is lost, writers go on by themselves"
    clash = "see who else commits to this table (`millrace storage writers`); more than one store process on a local folder is refused"
    if sight.failure:
        return _stalled(hop, Cause.STORE_AWAY, f"the store of {table} does not answer: {sight.failure}", None, away)
    if trouble is not None:
        seen = {"last_error": f"{trouble.reason}: {trouble.message}", "failures": str(trouble.count)}
        hop = replace(hop, evidence={**hop.evidence, **seen})
        since_us = now_us - sight.trouble_us
        if trouble.reason in _CONFLICTS:
            return _stalled(hop, Cause.COMMIT_CONFLICTS, f"commits to {table} lose every race", since_us, clash)
        return _stalled(
            hop, Cause.STORE_AWAY, f"the store refuses commits to {table}: {trouble.reason}", since_us, away
        )
    if sight.trying_us > TRYING_US:
        text = f"a commit to {table} waits for the store for {seconds(sight.trying_us)}"
        return _stalled(hop, Cause.STORE_AWAY, text, now_us - sight.trying_us, away)
    for reason, work in told.items():
        cause = Cause.COMMIT_CONFLICTS if reason in _CONFLICTS else Cause.STORE_AWAY if reason in _AWAY else None
        if cause:
            hop = replace(hop, evidence={**hop.evidence, "last_error": work.cause, "told_by": work.name})
            text = f"{short(work.name)} cannot commit to {table}: {reason}"
            return _stalled(hop, cause, text, work.told_us, clash if cause is Cause.COMMIT_CONFLICTS else away)
    return None


def _of_letters(hop: Hop, commits: Sequence[Committed], now_us: int) -> Hop:
    recent = [one for one in commits if now_us - one.commit.time_us < LETTERS_US]
    with_letters = [one for one in recent if one.commit.dead_letters]
    letters = sum(file.row_count for one in with_letters for file in one.commit.dead_letters)
    rows = sum(one.commit.rows_added for one in recent)
    if not letters:
        return hop
    seen = {"dead_letters": str(letters), "rows": str(rows), "writers": ", ".join(_writers(with_letters))}
    hop = replace(hop, evidence={**hop.evidence, **seen})
    if letters < LETTERS_SHARE * (rows + letters):
        return hop
    return replace(
        hop,
        state=State.STALLED,
        cause=Cause.DEAD_LETTERS_RISING,
        summary=f"{letters} of the newest {rows + letters} rows of {short(hop.name)} went to its dead letters",
        since_us=with_letters[0].commit.time_us,
        next_step=f"`millrace dead-letters {short(hop.name)}` shows the rows and why",
    )


def _writers(commits: Sequence[Committed]) -> Sequence[str]:
    return sorted({name for one in commits for name in one.commit.writers})[:5]


# -- workers ----------------------------------------------------------------------------------------------------------
def reason_of(cause: str) -> str:
    """ "STORE_UNAVAILABLE" of "STORE_UNAVAILABLE: the disk is gone"."""
    return cause.partition(":")[0].strip()


def stops_at_the_table(cause: str) -> bool:
    """A worker's failure that its output table is the cause of."""
    return reason_of(cause) in _CONFLICTS | _AWAY


def _given_up(work: Work, lease: LeaseSight | None, now_us: int) -> bool:
    """It said that it tries again, the time has come and gone, and nobody is there."""
    late = work.next_attempt_us is not None and now_us - work.next_attempt_us > LATE_TRY_US
    return late and lease is not None and not lease.held


def _nobody(hop: Hop, word: str, work: Work, lease: LeaseSight, now_us: int) -> Hop:
    text = f"nobody works on {word}: its lease {work.lease} is not held"
    since_us = now_us - lease.silent_ms * 1_000 if lease.epoch else work.told_us
    if not work.looked_at and now_us - work.told_us < NEW_US:
        return replace(hop, state=State.UNKNOWN, cause=Cause.NOT_LOOKED_AT, summary=f"{word} was just stored")
    area = "extract" if work.kind == "source" else "transform"
    why = f"see whether {area} runs and can reach storage: `millrace status`"
    return replace(_stalled(hop, Cause.LEASE_NOT_HELD, text, since_us, why), replica="")


def _stalled(hop: Hop, cause: Cause, summary: str, since_us: int | None, next_step: str) -> Hop:
    text = summary.rstrip(". ").removesuffix(":")
    return replace(hop, state=State.STALLED, cause=cause, summary=text, since_us=since_us, next_step=next_step)


def _at_work(work: Work, now_us: int) -> str:
    state = work.state.lower().replace("_", " ") or "not started"
    last = f", last committed {seconds(now_us - work.commit_us)} ago" if work.commit_us else ""
    return f"the {work.kind} {short(work.name)} is {state}{f' ({work.activity})' if work.activity else ''}{last}"


def _seen(work: Work, lease: LeaseSight | None, now_us: int) -> dict[str, str]:
    seen = {"state": work.state or "none", "status_age": seconds(now_us - work.told_us)}
    if work.cause:
        seen["last_error"] = work.cause
    if work.commit_us:
        seen["last_commit"] = time_text(work.commit_us)
    if work.next_attempt_us:
        seen["next_attempt"] = time_text(work.next_attempt_us)
    if lease is None:
        seen["lease"] = "could not be read"
    elif lease.epoch:
        seen["lease"] = f"{work.lease}, {'held' if lease.held else 'not held'}, epoch {lease.epoch}"
        seen["lease_holder"] = lease.holder or "nobody"
    elif work.own_pace:
        seen["lease"] = f"{work.lease}, never taken"
    return seen

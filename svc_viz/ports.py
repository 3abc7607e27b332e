"""What the page needs from outside: answers to questions, stored dashboards, and facts about the pipeline.

The words that cross these ports live here too: a question (`Question`), its answer (`Answer`), a dashboard as data
(`DashboardSpec`), and what is known of sources, transforms and tables.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import pyarrow as pa

Literal = bool | int | float | str | datetime
"""A value in a condition. `datetime` is aware."""


# -- conditions -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Compare:
    """`column op value`; `op` is one of = <> < <= > >=."""

    column: str
    op: str
    value: Literal


@dataclass(frozen=True, slots=True)
class OneOf:
    """`column IN (values)`; at least one."""

    column: str
    values: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """`column IS NULL`, or IS NOT NULL when `negated`."""

    column: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class AllOf:
    """True when all are; empty is true."""

    parts: tuple[Condition, ...] = ()


Condition = Compare | OneOf | IsNull | AllOf


# -- questions --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Dimension:
    """What to group by. `kind`: column, bucket, bin or part; the other fields refine it.

    `unit`: s, m, h, d of a bucket, with `count`; `part`: hour, weekday, month of a time in `zone`. `width`, `low`, `high`: a bin's, in the
    column's unit.
    """

    name: str
    kind: str
    column: str = ""
    unit: str = ""
    count: int = 1
    zone: str = "UTC"
    part: str = ""
    width: float = 0.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """One number per group. `aggregate`: count, distinct, sum, avg, min, max, quantile, stddev or share (`where`)."""

    name: str
    aggregate: str
    column: str = ""
    where: Condition | None = None
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Equal questions share one stream. `table` is a full name; `last_s` counts back from the table's highest event time."""

    table: str
    dimensions: tuple[Dimension, ...] = ()
    measures: tuple[Measure, ...] = ()
    where: Condition | None = None
    time_column: str = ""
    start: datetime | None = None
    end: datetime | None = None
    last_s: float = 0.0
    previous: bool = False
    fill: str = ""
    order: tuple[tuple[str, bool], ...] = ()
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole result at `versions` (full table name -> version). `elapsed_ms`: what the engine took."""

    rows: pa.Table
    versions: Mapping[str, int] = field(default_factory=dict)
    commit_time: datetime | None = None
    event_time_high: datetime | None = None
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The stream broke and is being resumed; what was shown last still stands, but ages."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stream is back and nothing changed meanwhile."""


@dataclass(frozen=True, slots=True)
class ForecastAsk:
    """`horizon` buckets ahead of the question's last row; `level` is the band's coverage, between 0 and 1."""

    question: Question
    time: str
    value: str
    horizon: int
    level: float
    season_length: int


class Answers(Protocol):
    """Asks analysis. Every number on a page comes through here."""

    async def query(self, question: Question) -> Answer:
        """The answer at the newest version. Raises MillraceError."""

    def follow(
        self, question: Question, *, min_interval_ms: int
    ) -> AsyncGenerator[Answer | Interrupted | Resumed, None]:
        """The answer now, then again whenever it changes; never ends by itself. A break is told, not raised; what repeating cannot mend
        (FixRequest, Missing) is raised. The caller closes it."""

    async def forecast(self, ask: ForecastAsk) -> Answer:
        """`horizon` rows: time, mean, low, high. Raises MillraceError when the series cannot be forecast."""


# -- dashboards as data (viz/v1/dashboard.proto says what each field means) --------------------------------------------
@dataclass(frozen=True, slots=True)
class TimeSpec:
    table: str = ""
    column: str = ""
    zone: str = "UTC"
    range: str = "all"
    as_of: str = "live"


@dataclass(frozen=True, slots=True)
class LiveSpec:
    max_rate_hz: float = 2.0
    pause_when_hidden: bool = True


@dataclass(frozen=True, slots=True)
class ParamSpec:
    type: str
    column: str
    multiple: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuerySpec:
    table: str
    bucket: str = ""
    by: tuple[str, ...] = ()
    bins: Mapping[str, float] = field(default_factory=dict)
    clamp: tuple[float, ...] = ()
    measures: Mapping[str, str] = field(default_factory=dict)
    fill: str = ""
    where: str = ""
    order: str = ""
    limit: int = 0
    range: str = ""
    unfiltered: bool = False


@dataclass(frozen=True, slots=True)
class Threshold:
    at: float
    state: str


@dataclass(frozen=True, slots=True)
class FieldSpec:
    label: str = ""
    unit: str = ""
    format: str = ""
    good: str = ""
    thresholds: tuple[Threshold, ...] = ()
    colors: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SelectSpec:
    interval: str = ""
    point: str = ""
    column: str = ""
    selection: str = ""


@dataclass(frozen=True, slots=True)
class ForecastSpec:
    horizon: int
    level: float = 0.8
    season_length: int = 0


@dataclass(frozen=True, slots=True)
class ElementSpec:
    kind: str
    title: str = ""
    subtitle: str = ""
    query: str = ""
    x: str = ""
    y: str = ""
    stack: str = ""
    value: str = ""
    compare: tuple[str, ...] = ()
    sparkline: str = ""
    columns: tuple[str, ...] = ()
    select: SelectSpec | None = None
    forecast: ForecastSpec | None = None
    facet: str = ""
    table: str = ""


@dataclass(frozen=True, slots=True)
class AnnotationSpec:
    table: str
    time: str
    end: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class RowSpec:
    h: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DashboardSpec:
    title: str
    description: str = ""
    time: TimeSpec = TimeSpec()
    live: LiveSpec = LiveSpec()
    params: Mapping[str, ParamSpec] = field(default_factory=dict)
    selections: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, QuerySpec] = field(default_factory=dict)
    fields: Mapping[str, FieldSpec] = field(default_factory=dict)
    elements: Mapping[str, ElementSpec] = field(default_factory=dict)
    annotations: tuple[AnnotationSpec, ...] = ()
    columns: int = 12
    rows: tuple[RowSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`name` is the full resource name; `slug` its last part. `source`: the contract's message as it was put: so it comes back."""

    name: str
    spec: DashboardSpec
    uid: str = ""
    etag: str = ""
    owner: str = ""
    update_time: datetime | None = None
    source: bytes = b""

    @property
    def namespace(self) -> str:
        return self.name.split("/")[1]

    @property
    def slug(self) -> str:
        return self.name.split("/", 3)[3]

    @property
    def path(self) -> str:
        """In the page's addresses: the slug, with its namespace where that is not `default`."""
        return self.slug if self.namespace == "default" else f"{self.namespace}/{self.slug}"


@dataclass(frozen=True, slots=True)
class DashboardPage:
    dashboards: tuple[Dashboard, ...]
    next_page_token: str = ""


class Dashboards(Protocol):
    """Stored dashboards; storage's ResourceService keeps them."""

    async def put(self, dashboard: Dashboard, *, request_id: str, on_behalf_of: str) -> Dashboard:
        """Creates, or replaces when `etag` is empty or matches. Raises EtagMismatch, RequestIdReused."""

    async def get(self, name: str) -> Dashboard:
        """Raises DashboardNotFound."""

    async def list(self, namespace: str, *, page_size: int, page_token: str) -> DashboardPage:
        """By name. Raises TokenMismatch."""

    async def delete(self, name: str, *, request_id: str, etag: str) -> None:
        """Raises DashboardNotFound, EtagMismatch."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file. `versions`: full table name -> version shown."""

    content_type: str
    filename: str
    data: bytes
    versions: Mapping[str, int]


class Renderer(Protocol):
    """Draws one element without a browser. May be called from any thread."""

    def html(
        self, dashboard: Dashboard, element: str, rows: pa.Table, base: pa.Table | None, zone: str, theme: str
    ) -> bytes:
        """A page that stands alone: nothing is loaded."""

    def json(
        self, dashboard: Dashboard, element: str, rows: pa.Table, base: pa.Table | None, zone: str, theme: str
    ) -> bytes:
        """Bokeh's document, for `Bokeh.embed.embed_item`. Raises FieldInvalid for what Bokeh does not draw."""


# -- facts about the pipeline -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TableFacts:
    """`columns`: column -> kind (bool, int, float, string, timestamp, other), empty while unknown."""

    version: int = 0
    row_count: int = 0
    dead_letters: int = 0
    commit_time: datetime | None = None
    event_time_high: datetime | None = None
    event_time_column: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """`state`: idle, running, backing_off, paused, finished or unknown."""

    table: str = ""
    state: str = "unknown"
    cause: str = ""
    activity: str = ""
    rows_per_second: float = 0.0
    rows_written: int = 0
    commit_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class TransformFacts:
    """`inputs`: table -> version that the output covers."""

    output: str = ""
    state: str = "unknown"
    cause: str = ""
    inputs: Mapping[str, int] = field(default_factory=dict)
    rows_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    title: str = ""
    description: str = ""
    tables: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    dashboards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """What is known now, by full name. `unreachable`: why storage does not answer, empty while it does; then these are the last facts."""

    dashboards: Mapping[str, Dashboard] = field(default_factory=dict)
    pipelines: Mapping[str, PipelineFacts] = field(default_factory=dict)
    sources: Mapping[str, SourceFacts] = field(default_factory=dict)
    transforms: Mapping[str, TransformFacts] = field(default_factory=dict)
    tables: Mapping[str, TableFacts] = field(default_factory=dict)
    unreachable: str = "starting"

    def changed(self, **changes: object) -> World:
        return replace(self, **changes)  # type: ignore[arg-type]


class Board(Protocol):
    """Where an observer pins what it sees."""

    @property
    def world(self) -> World: ...

    def publish(self, world: World) -> None:
        """Replaces the world; whoever waits for a change is woken."""


class Observer(Protocol):
    """Watches dashboards, sources, transforms, pipelines and tables."""

    async def run(self, board: Board) -> None:
        """Publishes whatever changes until cancelled; a break is published as `unreachable`, never raised."""


Clock = Callable[[], datetime]

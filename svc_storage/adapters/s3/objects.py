"""Objects of a bucket: the only place that speaks to an object store (through obstore), and the only one that knows its errors.

Everything is blocking and belongs on a worker thread. A put is whole and durable when it returns: the store says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import obstore
from obstore import exceptions
from obstore.store import S3Store

from millrace import errors
from svc_storage.adapters.s3.credentials import Credentials, Keys

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Config

T = TypeVar("T")
TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 2
RETRIES = 3
"""Of what may be repeated: all but a put if absent, whose answer would then tell nothing."""
PART_BYTES = 16 << 20
"""Larger files go up in parts of this size, four at a time."""


@dataclass(frozen=True, slots=True)
class Address:
    """`prefix` without slashes around it, may be empty. `endpoint` empty: Amazon's own of the region."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    allow_http: bool = False

    @classmethod
    def parse(cls, url: str, *, endpoint: str = "", region: str = "", allow_http: bool = False) -> Address:
        """`s3://bucket/prefix`. Raises ValueError."""
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ValueError("s3://bucket/prefix is expected")
        return cls(bucket, prefix.strip("/"), endpoint, region or "us-east-1", allow_http)


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing. `key` is relative to where the listing began."""

    key: str
    size_bytes: int
    modified_us: int


class _Connection:
    """The two clients of one bucket, made anew when the keys change."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.address, self.credentials = address, credentials
        self._guard = threading.Lock()
        self._made_for = -1
        self._patient: S3Store | None = None
        self._once: S3Store | None = None

    def client(self, *, once: bool = False, look: bool = False) -> tuple[S3Store, int]:
        """And the number of the keys that it uses."""
        keys = self.credentials.current(look=look)
        with self._guard:
            if self._patient is None or self._once is None or keys.number != self._made_for:
                self._patient, self._once = self._make(keys, RETRIES), self._make(keys, 0)
                self._made_for = keys.number
            return self._once if once else self._patient, keys.number

    def _make(self, keys: Keys, retries: int) -> S3Store:
        config: dict[str, Any] = {"region": self.address.region, "conditional_put": "etag"}
        if self.address.endpoint:
            config["endpoint"] = self.address.endpoint
        if keys.access_key_id:
            config |= {"access_key_id": keys.access_key_id, "secret_access_key": keys.secret_access_key}
            config["session_token"] = keys.session_token
        return S3Store(
            self.address.bucket,
            config=cast("S3Config", {name: value for name, value in config.items() if value}),
            client_options={
                "allow_http": self.address.allow_http,
                "timeout": timedelta(seconds=TIMEOUT_S),
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            },
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=TIMEOUT_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=50),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
        )


class Objects:
    """The objects below one prefix; keys are relative to it and use `/`.

    What is not there raises FileNotFoundError; a store that does not answer, or refuses us, StoreUnavailable with a pause."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._connection = _Connection(address, credentials)
        self._prefix = f"{address.prefix}/" if address.prefix else ""

    def below(self, folder: str) -> Objects:
        """The objects under `folder`, over the same connections."""
        found = Objects.__new__(Objects)
        found._connection, found._prefix = self._connection, f"{self._prefix}{folder.strip('/')}/"
        return found

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._connection.address.bucket}/{self._prefix}".rstrip("/")

    def keys(self) -> Keys:
        """The credentials of now, for a driver of its own."""
        return self._connection.credentials.current()

    def storage_options(self, keys: Keys) -> Mapping[str, str]:
        """The same store for deltalake. Its commits are conditional puts, tried once."""
        address = self._connection.address
        options = {
            "AWS_REGION": address.region,
            "AWS_ENDPOINT_URL": address.endpoint,
            "AWS_ALLOW_HTTP": str(address.allow_http).lower(),
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_SESSION_TOKEN": keys.session_token,
            "conditional_put": "etag",
            "timeout": f"{TIMEOUT_S}s",
            "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
            "max_retries": "0",
        }
        return {name: value for name, value in options.items() if value}

    def get(self, key: str) -> bytes:
        return self._call(lambda client: bytes(obstore.get(client, self._prefix + key).bytes()))

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes [start, end)."""
        return self._call(lambda client: bytes(obstore.get_range(client, self._prefix + key, start=start, end=end)))

    def fetch(self, key: str, path: Path) -> None:
        """The whole object into a local file. Raises OSError of the disk too."""

        def fetch(client: S3Store) -> None:
            with path.open("wb") as file:
                for chunk in obstore.get(client, self._prefix + key):
                    file.write(chunk)

        self._call(fetch)

    def size(self, key: str) -> int:
        return self._call(lambda client: int(obstore.head(client, self._prefix + key)["size"]))

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, content: bytes) -> None:
        """Replaces what is there."""
        self._call(lambda client: obstore.put(client, self._prefix + key, content, use_multipart=False))

    def put_file(self, key: str, path: Path) -> None:
        """The same from a local file, in parts when it is large."""
        self._call(
            lambda client: obstore.put(client, self._prefix + key, path, chunk_size=PART_BYTES, max_concurrency=4)
        )

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """True: the object is there and holds `content`, put now or by an earlier try. False: another's is there, or was.

        `content` must be unique to the caller (an id in it), or two who put the same both win. Raises StoreUnavailable when nothing
        was sent, OutcomeUnknown when the answer was lost and reading did not tell: it may still happen."""
        try:
            self._call(
                lambda client: obstore.put(client, self._prefix + key, content, mode="create", use_multipart=False),
                once=True,
            )
            return True
        except exceptions.AlreadyExistsError:
            try:
                return self.get(key) == content
            except FileNotFoundError:  # removed in this moment
                return False
        except _Lost as lost:
            try:
                return self.get(key) == content
            except FileNotFoundError:
                raise errors.OutcomeUnknown("the object store did not say whether the object is there") from lost
            except errors.StoreUnavailable as unreadable:
                raise errors.OutcomeUnknown("the object store did not say whether the object is there") from unreadable

    def list(self, folder: str = "", *, after: str = "") -> Iterator[Found]:
        """Every object whose key begins with `folder` + `/`, by key, above the key `after`."""
        begins = self._prefix + (f"{folder.strip('/')}/" if folder else "")
        offset = self._prefix + after if after else None
        pages = self._call(lambda client: obstore.list(client, begins.rstrip("/") or None, offset=offset))
        pages = iter(pages)
        while page := self._call(lambda client: next(pages, None)):
            yield from map(self._found, page)

    def look(self, folder: str = "") -> tuple[Sequence[str], Sequence[Found]]:
        """What is directly under `folder`: the names that have objects below them, and the objects, each sorted."""
        begins = self._prefix + (f"{folder.strip('/')}/" if folder else "")
        found = self._call(lambda client: obstore.list_with_delimiter(client, begins.rstrip("/") or None))
        names = sorted(name.removeprefix(begins).rstrip("/") for name in found["common_prefixes"])
        return names, sorted((self._found(one) for one in found["objects"]), key=lambda one: one.key)

    def folders(self, folder: str = "") -> Sequence[str]:
        """The names that have objects below them, directly under `folder`, sorted."""
        return self.look(folder)[0]

    def delete(self, keys: Sequence[str]) -> None:
        """A missing one is no error."""
        for start in range(0, len(keys), 1000):
            doomed = [self._prefix + key for key in keys[start : start + 1000]]
            self._call(partial(_delete, doomed))

    def sign(self, keys: Sequence[str], seconds: int) -> Sequence[str]:
        """URLs by which whoever has them reads the objects until then. Nothing is sent."""
        paths = [self._prefix + key for key in keys]
        return self._call(lambda client: obstore.sign(client, "GET", paths, timedelta(seconds=seconds)))

    def _found(self, one: ObjectMeta) -> Found:
        modified_us = int(one["last_modified"].timestamp() * 1_000_000)
        return Found(one["path"].removeprefix(self._prefix), one["size"], modified_us)

    def _call(self, work: Callable[[S3Store], T], *, once: bool = False) -> T:
        client, number = self._connection.client(once=once)
        try:
            try:
                return work(client)
            except exceptions.BaseError as refused:
                if not _is_refusal(refused):
                    raise
                client, newer = self._connection.client(once=once, look=True)
                if newer == number:
                    raise
                return work(client)
        except FileNotFoundError as missing:
            if "NoSuchBucket" in str(missing):
                raise _no_bucket() from missing
            raise
        except exceptions.BaseError as error:
            if once and _is_lost(error):
                raise _Lost from error
            raise _translated(error) from error


def _delete(keys: Sequence[str], client: S3Store) -> None:
    obstore.delete(client, keys)


class _Lost(Exception):
    """The request was sent and not answered."""


def _is_refusal(error: exceptions.BaseError) -> bool:
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return True
    return "403 Forbidden" in str(error) or "401 Unauthorized" in str(error)  # listings say it only so


def _is_lost(error: exceptions.BaseError) -> bool:
    """Whether the request may have been carried out: it was neither answered nor left unsent."""
    answers = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
    return not (isinstance(error, answers) or _is_refusal(error) or "kind: Connect" in str(error))


def _no_bucket() -> errors.StoreUnavailable:
    return errors.StoreUnavailable("the bucket does not exist", hint="make it first", retry_after_ms=5_000)


def _translated(error: exceptions.BaseError) -> Exception:
    """Addresses and keys stay out of the message."""
    if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
        return exceptions.AlreadyExistsError("an object is there")
    if _is_refusal(error):
        return errors.StoreUnavailable(
            "the object store refuses the credentials",
            hint="check the keys and what they may do; they are read again when the file changes",
            retry_after_ms=5_000,
        )
    if "NoSuchBucket" in str(error):
        return _no_bucket()
    return errors.StoreUnavailable("the object store does not answer", retry_after_ms=1_000)

"""The S3 server of the tests: one per session, started by the first test that asks for it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from pathlib import Path

from millrace.laptop.servers.weed import Keys, Weed
from svc_storage.adapters.s3.credentials import Credentials
from svc_storage.adapters.s3.objects import Address, Objects

_running: list[Weed] = []


def shared_weed() -> Weed:
    """The session's own. Whoever kills one starts one of their own instead (`Weed(folder)`)."""
    if not _running:
        folder = Path(tempfile.mkdtemp(prefix="millrace-weed-"))
        weed = Weed(folder)
        weed.start()
        _running.append(weed)
        atexit.register(_end, weed)
    return _running[0]


def objects(weed: Weed, prefix: str = "", keys: Keys | None = None) -> Objects:
    """A place of its own in the server's bucket."""
    return Objects(address(weed, prefix or f"t/{uuid.uuid4().hex[:12]}"), credentials(keys or weed.keys[0]))


def address(weed: Weed, prefix: str) -> Address:
    return Address(weed.bucket, prefix, weed.endpoint, allow_http=True)


def credentials(keys: Keys) -> Credentials:
    return Credentials("env:KEY", "env:SECRET", environment={"KEY": keys.access_key, "SECRET": keys.secret_key})


def settings(weed: Weed, prefix: str, *, endpoint: str = "") -> dict[str, str]:
    """The environment of a storage that keeps everything there."""
    return {
        "MILLRACE_STORAGE_BACKEND": "s3",
        "MILLRACE_STORAGE_S3_URL": f"s3://{weed.bucket}/{prefix}",
        "MILLRACE_STORAGE_S3_ENDPOINT": endpoint or weed.endpoint,
        "MILLRACE_STORAGE_S3_ALLOW_HTTP": "true",
        "MILLRACE_STORAGE_S3_ACCESS_KEY": "env:WEED_ACCESS_KEY",
        "MILLRACE_STORAGE_S3_SECRET_KEY": "env:WEED_SECRET_KEY",
        "WEED_ACCESS_KEY": weed.keys[0].access_key,
        "WEED_SECRET_KEY": weed.keys[0].secret_key,
    }


def _end(weed: Weed) -> None:
    weed.kill()
    shutil.rmtree(weed.folder, ignore_errors=True)

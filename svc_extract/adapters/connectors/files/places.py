"""How far each file was read: as text for the position, and checked against what lies there now."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from millrace.errors import FieldInvalid, SourcePaused
from svc_extract.adapters.connectors.files.listing import MAX_FILES, Sight

HEAD_BYTES = 4096
_FORM = re.compile(r"([0-9a-f]+):([0-9a-f]+) (\d+) (\d+):([0-9a-f]*)( done| open)?")


@dataclass(frozen=True, slots=True)
class Place:
    """`offset`: after the last record that was read (text: bytes, of the unpacked text where it is gzip; Parquet: rows).
    `head_bytes`, `head_hash`: of the file's first bytes. `done`: read whole, it is never read again. `open_end`: its last record had no
    line break."""

    device: int
    inode: int
    offset: int = 0
    head_bytes: int = 0
    head_hash: str = ""
    done: bool = False
    open_end: bool = False

    def text(self) -> str:
        flag = " done" if self.done else " open" if self.open_end else ""
        return f"{self.device:x}:{self.inode:x} {self.offset} {self.head_bytes}:{self.head_hash}{flag}"

    @classmethod
    def parse(cls, name: str, text: str) -> Place:
        """Raises FieldInvalid: positions also come from people (`start_override`)."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise FieldInvalid(f"the position of `{name[:64]}` cannot be read", field="start_override.positions")
        device, inode, offset, size, head, flag = found.groups()
        return cls(int(device, 16), int(inode, 16), int(offset), int(size), head, flag == " done", flag == " open")

    def moved(self, offset: int, path: Path, *, readable: int, done: bool = False, open_end: bool = False) -> Place:
        """After reading to `offset`; `readable`: how many bytes of the file as it lies there are known to stay as they are."""
        size = min(HEAD_BYTES, readable)
        head = self.head_hash if size == self.head_bytes and self.head_hash else head_hash(path, size)
        return replace(self, offset=offset, head_bytes=size, head_hash=head, done=done, open_end=open_end)


def head_hash(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(size), digest_size=8).hexdigest()


def parse_all(parts: Mapping[str, str]) -> dict[str, Place]:
    return {name: Place.parse(name, text) for name, text in parts.items()}


def matched(places: Mapping[str, Place], sights: Sequence[Sight], *, whole: Callable[[str], bool]) -> dict[str, Place]:
    """Where each file of `sights` stands, and those that are gone. A renamed file keeps its place, its old name may be a new file.

    `whole`: tells names of files whose offsets are no bytes of theirs (gzip, Parquet).
    Raises SourcePaused for one that shrank or was replaced."""
    here = {sight.identity: sight.name for sight in sights}
    by_identity = {(place.device, place.inode): name for name, place in places.items()}
    found: dict[str, Place] = {}
    for sight in sights:
        place = places.get(sight.name)
        if place is not None and (place.device, place.inode) != sight.identity:
            if here.get((place.device, place.inode)) is None:
                raise _paused("FILE_REPLACED", sight, "was replaced by another file")
            place = None  # rotated: what was here lies under another name now
        if place is None and (before := by_identity.get(sight.identity)) is not None:
            place = _renamed(places[before], sight)
        elif place is not None:
            _check(place, sight, whole=whole(sight.name))
        found[sight.name] = place or Place(sight.device, sight.inode)
    gone = [
        name for name in places if name not in found and here.get((places[name].device, places[name].inode)) is None
    ]
    for name in gone[-max(0, MAX_FILES - len(found)) :] if len(found) < MAX_FILES else []:
        found[name] = places[name]
    return found


def _renamed(place: Place, sight: Sight) -> Place | None:
    """The place of a file that had another name; None when only the inode's number was used again."""
    same = sight.size >= place.head_bytes and head_hash(sight.path, place.head_bytes) == place.head_hash
    return place if same else None


def _check(place: Place, sight: Sight, *, whole: bool) -> None:
    if not whole and not place.done and sight.size < place.offset:
        raise _paused("FILE_SHRANK", sight, f"shrank below the {place.offset} bytes that were read")
    if not place.head_hash:
        return  # seen before its first whole line: nothing of it was read
    if sight.size < place.head_bytes or head_hash(sight.path, place.head_bytes) != place.head_hash:
        raise _paused("FILE_REPLACED", sight, "was replaced: its first bytes are others")


def _paused(cause: str, sight: Sight, what: str) -> SourcePaused:
    return SourcePaused(
        f"`{sight.name}` {what}",
        field="files.path",
        hint="put the file back, or delete the source and create it anew to read all from the beginning",
        metadata={"cause": cause},
    )

"""Which files a source has, and which it may have."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import FieldInvalid, NotAllowed, SourceUnavailable

MAX_FILES = 1_000
HOME = "${MILLRACE_HOME}"


@dataclass(frozen=True, slots=True)
class Sight:
    """A file as it was just seen. `name`: its path below the part of the glob without wildcards; what positions and messages say."""

    name: str
    path: Path
    device: int
    inode: int
    size: int
    changed_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode


@dataclass(frozen=True, slots=True)
class Roots:
    """The folders below which sources may read, resolved; `home` stands for `${MILLRACE_HOME}`.

    Tokens and the files of other tables lie below `home`: a folder above it does not open it, only one at or below it does."""

    folders: Sequence[Path]
    home: Path

    def pattern(self, path: str) -> str:
        """The glob that `path` means, absolute. Raises NotAllowed outside of the folders, FieldInvalid."""
        if "\0" in path:
            raise FieldInvalid("a path holds no NUL", field="files.path")
        absolute = os.path.abspath(path.replace(HOME, str(self.home)))
        self._check(Path(_base(absolute)))
        return absolute

    def sights(self, path: str) -> list[Sight]:
        """The files, by name. Blocking. Raises NotAllowed (a link leads outside), FieldInvalid (too many), SourceUnavailable."""
        pattern = self.pattern(path)
        base = _base(pattern)
        found: list[Sight] = []
        try:
            for one in glob.iglob(pattern, recursive=True):
                sight = self._sight(Path(one), base)
                if sight is not None:
                    found.append(sight)
                if len(found) > MAX_FILES:
                    raise FieldInvalid(
                        f"more than {MAX_FILES} files match",
                        field="files.path",
                        hint="use a narrower glob, or several sources",
                    )
        except OSError as error:
            raise SourceUnavailable(f"the folder cannot be read: {error.strerror}", field="files.path") from error
        return sorted(found, key=lambda sight: sight.name)

    def _sight(self, path: Path, base: str) -> Sight | None:
        try:
            seen = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(seen.st_mode):
            return None
        self._check(path)
        name = os.path.relpath(path, base) if str(path) != base else path.name
        return Sight(name, path, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)

    def _check(self, path: Path) -> None:
        resolved, home = path.resolve(), self.home.resolve()
        private = resolved.is_relative_to(home)
        folders = [folder for folder in self.folders if not private or folder.is_relative_to(home)]
        if not any(resolved.is_relative_to(folder) for folder in folders):
            raise NotAllowed(
                f"`{path.name}` lies outside of the folders that sources may read",
                field="files.path",
                hint="move it, or add its folder to MILLRACE_EXTRACT_FILE_ROOTS",
            )


def _base(pattern: str) -> str:
    """The folder above the first wildcard; of a plain path its folder."""
    parts = Path(pattern).parts
    plain = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[: max(plain, 1)]))

"""The state of one demo run on disk: its settings, the finished stages, and their times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json

SCHEMA = 1


@dataclass(frozen=True)
class Stage:
    """One finished stage.

    Args:
        name: Name of its file below ``stages/``.
        title: Title for people.
        seconds: Duration; that of the last part only, where it was interrupted and resumed.
        interrupted: Whether an earlier process began it and did not finish.
        reused: Whether an earlier process finished it.
        found: Its results, as plain JSON values.
    """

    name: str
    title: str
    seconds: float
    interrupted: bool
    reused: bool
    found: dict[str, Any]


class Road:
    """A work directory in which every stage is done once.

    Args:
        folder: The work directory, which exists.
        asked: Settings of the run, as plain JSON values; a directory is resumed only with the same.
        say: Called with a line as each stage begins and ends.

    Raises:
        InputError: The directory holds a run with other settings.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.stages: list[Stage] = []
        wanted = json.loads(json.dumps({"schema": SCHEMA, **asked}))
        path = folder / "road.json"
        if path.is_file():
            begun = json.loads(path.read_text(encoding="utf-8"))
            for key in sorted(wanted.keys() | begun.keys()):
                if begun.get(key) != wanted.get(key):
                    raise InputError(
                        f"{folder} holds a demo with {key} = {begun.get(key)}, and this one has {key} = "
                        f"{wanted.get(key)}; give another --work-dir"
                    )
        else:
            write_json(path, wanted)

    def walk(self, name: str, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a stage and return its results, or return those of an earlier process.

        Args:
            name: Name of its file.
            title: Title for people.
            work: Does the stage and returns its results; parts of its work may be on disk already.
        """
        done, begun = self.folder / "stages" / f"{name}.json", self.folder / "stages" / f"{name}.begun"
        if done.is_file():
            stage = Stage(**{**json.loads(done.read_text(encoding="utf-8")), "reused": True})
            self.say(f"{title}: done before")
        else:
            begun.parent.mkdir(exist_ok=True)
            interrupted = begun.exists()
            begun.touch()
            self.say(f"{title} ...")
            start = time.monotonic()
            found = work()
            stage = Stage(name, title, time.monotonic() - start, interrupted, False, found)
            write_json(done, stage.__dict__)
            self.say(f"{title}: {stage.seconds:.1f} s")
        self.stages.append(stage)
        return stage.found

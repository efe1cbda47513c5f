"""Facts about the models, without torch: ``facts.json`` holds what ``describe`` computes.

Listing the models would otherwise import torch and build every one of them. After a change of the
models, write the file anew; a test compares it with ``describe``::

    python -c "from tinyvit.backbones.facts import write_facts; write_facts()"
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

from tinyvit.core.detectors import unknown_model
from tinyvit.core.files import write_text

FACTS = Path(__file__).with_name("facts.json")


def read_facts(pattern: str = "*") -> list[dict[str, Any]]:
    """Return what :func:`tinyvit.backbones.describe` returns, for each model that matches.

    Args:
        pattern: A shell pattern of names, such as ``tiny_vit_*``.

    Returns:
        The facts, sorted by name.

    Raises:
        InputError: No name matches.
    """
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    found = [fact for fact in facts if fnmatch.fnmatch(fact["name"], pattern)]
    if not found:
        raise unknown_model("model", pattern, [fact["name"] for fact in facts])
    return found


def write_facts(path: Path = FACTS) -> None:
    """Compute the facts about all models and write them, one model per line."""
    from .registry import describe, list_models

    lines = ",\n".join(json.dumps(describe(name)) for name in list_models())
    write_text(path, f"[\n{lines}\n]\n")

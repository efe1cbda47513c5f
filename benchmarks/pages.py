"""HTML pages made from jinja2 templates; a page loads nothing from elsewhere.

``templates/`` has what pages share: the frame with the style sheet, and macros. A page's own
template lies beside the module that makes it.
"""

from __future__ import annotations

import functools
import re
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .charts import shared_style


def render(template: Path, **values: Any) -> str:
    """Return a page.

    Args:
        template: The page's own template. It extends ``base.html``.
        **values: The variables of the template. Text is escaped; :class:`markupsafe.Markup` is not.

    Raises:
        jinja2.UndefinedError: A variable of the template is missing.
    """
    return _environment(template.parent).get_template(template.name).render(**values)


def breakable(text: str) -> Markup:
    """Return a name that may be broken after its separators, for narrow screens."""
    return Markup(re.sub(r"([_:/])", r"\1<wbr>", escape(text)))


def duration(seconds: float) -> str:
    """Return seconds in words: ``9.5 s``, ``95 s``, ``9 min 21 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


@functools.cache
def _environment(folder: Path) -> Environment:
    loader = FileSystemLoader([folder, Path(__file__).with_name("templates")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals["shared_style"] = Markup(shared_style())
    made.filters |= {"breakable": breakable, "duration": duration}
    return made

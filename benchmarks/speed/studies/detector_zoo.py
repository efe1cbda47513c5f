"""The table of the shipped detectors: parameters, multiply-adds and time of the network, beside
ResNet-50 and Swin-T in the same head.

    python -m tinyvit.benchmarks.speed.studies.detector_zoo --threads 2 --rounds 6 --out zoo.json
    python -m tinyvit.benchmarks.speed.studies.detector_zoo --table zoo.json

Configs whose networks differ in the backbone alone form a group. The members of a group, ResNet-50
and Swin-T take turns on one image of the config's test size. Weights are random, so only the
network runs: backbone, neck and head, without thresholds and NMS. A head of two stages gets as many
random boxes as its config allows: 1,000 proposals, and 100 objects with a mask.

Multiply-adds are counted by torch's ``FlopCounterMode`` while the network runs; attention is
included. Operators of mmcv, such as RoIAlign and deformable attention, are not counted. A group is
written when it is done, and a run into the same file measures the others.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.files import write_json
from tinyvit.core.machine import describe_machine

from ...scripts import run_script, time_in_turns
from ...statistics import median_interval, paired_ratio

#: The backbones to compare with: settings, and channels of the maps at strides 4, 8, 16 and 32.
REFERENCES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "ResNet-50": (
        {"type": "mmdet.ResNet", "depth": 50, "norm_cfg": {"type": "BN"}, "style": "pytorch"},
        (256, 512, 1024, 2048),
    ),
    "Swin-T": (
        {"type": "mmdet.SwinTransformer", "embed_dims": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
        (96, 192, 384, 768),
    ),
}


def group_configs(names: Sequence[str]) -> list[list[str]]:
    """Return the names of configs in groups whose networks and input sizes are equal but for the
    backbone.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=_by_size):
        cfg = _config(name)
        model = copy.deepcopy(cfg.model.to_dict())
        model.pop("backbone")
        for part in ("train_cfg", "data_preprocessor"):
            model.pop(part, None)
        if isinstance(model["neck"], dict):
            model["neck"].pop("in_channels")
        groups.setdefault(json.dumps([model, _input(cfg)], sort_keys=True, default=str), []).append(name)
    return list(groups.values())


def _by_size(name: str) -> list[str]:
    """Return a key that sorts 5m before 11m and 21m."""
    return [part.zfill(8) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _config(name: str) -> Any:
    from ....detection import load_config

    return load_config(name)


def _input(cfg: Any) -> tuple[int, int]:
    """Return height and width of a padded landscape image of a config's test size."""
    from ....detection import input_size

    size = input_size(cfg)
    assert size is not None  # the shipped configs have one frame each
    divisor = cfg.model.data_preprocessor.get("pad_size_divisor", 1)
    height, width = (-(-side // divisor) * divisor for side in reversed(size))
    return height, width


def measure_group(names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a row per network of a group: those of the configs, then the references."""
    import torch

    cfg = _config(names[0])
    height, width = _input(cfg)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) - 0.5
    built: dict[str, tuple[list[str], Any]] = {}
    for name in names:
        backbone = json.dumps(_config(name).model.backbone.to_dict(), sort_keys=True)
        built.setdefault(backbone, ([], None))[0].append(name)
    networks = [(sharing, _build(_config(sharing[0]).model)) for sharing, _ in built.values()]
    networks += [([name], _build(_with_reference(cfg.model, name))) for name in REFERENCES]
    ways: dict[str, Callable[[int, int], object]] = {
        sharing[0]: (lambda _item, _round, network=network: _run(network, image)) for sharing, network in networks
    }
    with torch.inference_mode():
        costs = [_costs(network, image) for _, network in networks]
        seconds = time_in_turns(ways, 1, rounds, names[0])
    rows = []
    for (sharing, _), cost in zip(networks, costs, strict=True):
        times = seconds[sharing[0]]
        row: dict[str, Any] = {"configs": sharing, "input": [height, width], **cost}
        row |= {"seconds": statistics.median(times), "seconds_interval": median_interval([[one] for one in times])}
        for reference in REFERENCES:
            ratio = paired_ratio(times, seconds[reference])
            row[f"time_against_{reference}"] = {"ratio": ratio.value, "interval": ratio.interval}
        rows.append(row)
    return rows


def _with_reference(model: Any, name: str) -> Any:
    """Return a model with another backbone in the place of ours, at the same strides."""
    model = copy.deepcopy(model)
    stages = model.backbone.get("out_indices", (0, 1, 2, 3))
    settings, channels = REFERENCES[name]
    model.backbone = {**settings, "out_indices": tuple(stages)}
    model.neck.in_channels = [channels[stage] for stage in stages]
    return model


def _build(model: Any) -> Any:
    import torch

    from ....detection import import_mmdet

    import_mmdet()
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(model).eval()


def _run(detector: Any, image: Any) -> None:
    """Run backbone, neck and head on an image (1, 3, height, width)."""
    import torch
    from mmdet.structures import DetDataSample

    height, width = image.shape[-2:]
    if hasattr(detector, "encoder"):
        shapes = {"img_shape": (height, width), "batch_input_shape": (height, width)}
        detector(image, [DetDataSample(metainfo=shapes)], mode="tensor")
        return
    maps = detector.extract_feat(image)
    if not hasattr(detector, "roi_head"):
        detector.bbox_head(maps)
        return
    detector.rpn_head(maps)
    head, limits = detector.roi_head, detector.test_cfg
    corners = torch.rand(limits.rpn.max_per_img, 2, 2, generator=torch.Generator().manual_seed(0)).sort(1).values
    boxes = (corners * torch.tensor([width, height])).flatten(1)
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    stages = [(stage,) for stage in range(head.num_stages)] if hasattr(head, "num_stages") else [()]
    for stage in stages:
        head._bbox_forward(*stage, maps, rois)
    for stage in stages if head.with_mask else ():
        head._mask_forward(*stage, maps, rois[: limits.rcnn.max_per_img])


def _costs(detector: Any, image: Any) -> dict[str, Any]:
    """Return parameters and multiply-adds by part; the head is all behind the neck."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        _run(detector, image)
    total = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        maps = detector.backbone(image)
    backbone = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        detector.neck(maps)
    neck = counter.get_total_flops()
    everything = _parameters(detector)
    parts = {"backbone": _parameters(detector.backbone), "neck": _parameters(detector.neck)}
    return {
        "parameters": {**parts, "head": everything - sum(parts.values())},
        "macs": {"backbone": backbone // 2, "neck": neck // 2, "head": (total - backbone - neck) // 2},
    }


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- what MMDetection publishes of the recipes ----------------------------------


def recipe_of(name: str) -> str | None:
    """Return the config of MMDetection that a shipped config's docstring names as its recipe;
    ``None`` without one, and at another size of images.
    """
    from tinyvit.core.detectors import packaged_configs, shipped_configs

    if name.endswith("px"):
        return None
    path = shipped_configs()[name]
    text = " ".join(path.read_text(encoding="utf-8").split('"""')[1].split())
    packaged = {full.rpartition("/")[2]: full for full in packaged_configs()}
    for named in re.findall(r"``([\w-]+?)(?:\.py)?``", text.partition("Recipe:")[2]):
        if named in packaged:
            return packaged[named]
        if named in shipped_configs():
            return recipe_of(named)
    return None


@cache
def published(folder: Path) -> dict[str, dict[str, float]]:
    """Return the average precisions of a metadata file of MMDetection, by config, in percent."""
    import yaml

    path = folder / "metafile.yml"
    if not path.is_file():
        return {}
    models = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {}
    for model in models["Models"] if isinstance(models, Mapping) else models:
        metrics: dict[str, float] = {}
        for result in model.get("Results") or ():
            metrics |= {key: value for key, value in result.get("Metrics", {}).items() if key in ("box AP", "mask AP")}
        found[model["Name"].strip()] = metrics
    return found


def _origin(name: str) -> dict[str, Any] | None:
    from tinyvit.core.detectors import packaged_configs

    recipe = recipe_of(name)
    if recipe is None:
        return None
    path = packaged_configs()[recipe]
    return {"config": recipe, **published(path.parent).get(path.stem, {})}


# --- document and table -----------------------------------------------------------


def measure(names: Sequence[str], rounds: int, threads: int, out: Path) -> dict[str, Any]:
    """Measure all groups, write the document after each, and return it."""
    import torch

    torch.set_num_threads(threads)
    settings = {
        "schema_version": 1,
        "command": f"python -m tinyvit.benchmarks.speed.studies.detector_zoo --threads {threads} --rounds {rounds}",
        "machine": describe_machine(),
    }
    document = {**settings, "threads": threads, "rounds": rounds, "rows": _done(out, settings)}
    done = {name for row in document["rows"] for name in row["configs"]}
    groups = [group for group in group_configs(names) if not done.issuperset(group)]
    for number, group in enumerate(groups, 1):
        print(f"{number}/{len(groups)} {', '.join(group)}", file=sys.stderr)
        rows = measure_group(group, rounds)
        for row in rows:
            row["group"] = group[0]
            if row["configs"][0] not in REFERENCES:
                row["origins"] = {name: _origin(name) for name in row["configs"]}
        document["rows"] += rows
        write_json(out, document)
    return document


def _done(out: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a run with the same settings left."""
    if not out.is_file():
        return []
    document = json.loads(out.read_text())
    if any(document.get(key) != json.loads(json.dumps(value)) for key, value in settings.items()):
        raise InputError(f"{out} was measured with other settings or on another machine; give another --out")
    return document["rows"]


def as_table(document: Mapping[str, Any]) -> str:
    """Return the Markdown table of a document."""
    names = list(REFERENCES)
    head = ["config", "input", "parameters", "GMACs: backbone + neck + head"]
    head += [f"time / {name}" for name in names] + ["published, of the recipe's origin"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(cells)} |" for row in document["rows"] for cells in _cells(row, names)]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], references: Sequence[str]) -> Iterator[list[str]]:
    macs, height, width = row["macs"], *row["input"]
    shared = [f"{height} x {width}", f"{sum(row['parameters'].values()) / 1e6:.1f} M"]
    shared.append(" + ".join(f"{macs[part] / 1e9:.1f}" for part in ("backbone", "neck", "head")))
    for name in references:
        ratio = row[f"time_against_{name}"]
        low, high = ratio["interval"]
        shared.append("1" if row["configs"] == [name] else f"{ratio['ratio']:.2f} ({low:.2f} to {high:.2f})")
    for name in row["configs"]:
        if name in references:
            yield [f"{name} in its place", *shared, ""]
            continue
        origin = row["origins"][name] or {}
        values = [f"{origin[key]:.1f} {key}" for key in ("box AP", "mask AP") if key in origin]
        said = f"{', '.join(values)} (`{origin['config'].rpartition('/')[2]}`)" if values else "not published"
        yield [f"`{name}`", *shared, said]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write, or print the table of a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these configs instead of all")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the document; a run into the same file resumes")
    what.add_argument("--table", type=Path, help="print the table of a document")
    options = parser.parse_args(arguments)
    if options.table:
        if not options.table.is_file():
            raise InputError(f"{options.table} does not exist; make it with --out")
        print(as_table(json.loads(options.table.read_text())))
        return
    from ....detection import list_configs

    known = [name for name in list_configs() if "tiny_vit" in name]
    for name in options.only or ():
        if name not in known:
            raise unknown_name("config", name, known)
    measure(options.only or known, options.rounds, options.threads, options.out)


if __name__ == "__main__":
    sys.exit(run_script(main))

"""The table of shipped detectors: groups, costs, published numbers, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyvit.benchmarks.speed.studies import detector_zoo
from tinyvit.benchmarks.speed.studies.detector_zoo import group_configs, main, recipe_of
from tinyvit.core.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
NANO = "rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-320px"
RESULT = Path(__file__).parents[4] / "benchmarks" / "results" / "detector_zoo.json"
PAGE = Path(__file__).parents[4] / "docs" / "results" / "detectors.md"


def test_configs_that_differ_in_the_backbone_alone_are_measured_together() -> None:
    names = [
        "retinanet_tiny_vit_21m_fpn_1x_coco",
        "retinanet_tiny_vit_5m_fpn_1x_coco",
        "retinanet_tiny_vit_5m_fpn_1x_coco-640px",
        "mask-rcnn_tiny_vit_5m_fpn_1x_coco",
        "mask-rcnn_tiny_vit_5m_fpn_ms-crop-3x_coco",
    ]
    assert group_configs(names) == [names[3:], [names[1], names[0]], [names[2]]]


def test_the_recipe_is_the_one_that_the_config_names() -> None:
    assert recipe_of("atss_tiny_vit_21m_fpn_1x_coco") == "mmdet::atss/atss_r50_fpn_1x_coco"
    assert recipe_of("cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-1x_coco") is None
    assert recipe_of(NANO) is None


def test_costs_are_counted_and_a_second_run_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "zoo.json"
    main(["--only", NANO, "--rounds", "1", "--threads", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["configs"] for row in rows] == [[NANO], ["ResNet-50"], ["Swin-T"]]
    ours, resnet, _ = rows
    assert ours["input"] == [320, 320]
    assert ours["macs"]["head"] == resnet["macs"]["head"] > 0
    # 224 px are 1.3 GMACs, after the paper; two classifiers aside, costs grow with the area.
    assert ours["macs"]["backbone"] == pytest.approx(1.3e9 * (320 / 224) ** 2, rel=0.1)
    # ResNet-50 without its classifier, from torchvision's documentation: 4.09 GMACs, 25.56 M.
    assert resnet["macs"]["backbone"] == pytest.approx(4.09e9 * (320 / 224) ** 2, rel=0.01)
    assert resnet["parameters"]["backbone"] == 25_557_032 - 2_049_000
    assert resnet["time_against_ResNet-50"]["ratio"] == 1
    monkeypatch.setattr(detector_zoo, "measure_group", lambda *_: pytest.fail("it is there already"))
    main(["--only", NANO, "--rounds", "1", "--threads", "1", "--out", str(out)])
    assert json.loads(out.read_text())["rows"] == rows
    with pytest.raises(InputError, match="other settings"):
        main(["--only", NANO, "--rounds", "2", "--threads", "1", "--out", str(out)])
    capsys.readouterr()
    main(["--table", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3
    assert lines[2].startswith(f"| `{NANO}` | 320 x 320 | 5.8 M | 2.7 + 0.2 + 0.1 | ")
    assert lines[2].endswith(" | not published |")


def test_names_and_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean {NANO}"):
        main(["--only", NANO[:-1], "--out", str(tmp_path / "a.json")])
    with pytest.raises(InputError, match="make it with --out"):
        main(["--table", str(tmp_path / "a.json")])

"""Draw how the deployed form of TinyViT-21M compares with its peers on two machines.

    python docs/speed_figure.py

The bars are read from benchmarks/results/deployed.json and deployed_second_machine.json.
The script writes benchmarks/results/deployed_machines.svg.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PEERS = {
    "official": "official code",
    "timm": "timm",
    "module": "our module, eager",
    "onnxruntime": "onnxruntime",
    "OpenVINO f32": "OpenVINO",
}
WORKS = {"t1-b1": "1 thread, batch 1", "t1-b16": "1 thread, batch 16"}
COLOURS = ("#1457d0", "#8fb2ee")


def measured_ratios(path: Path) -> dict[str, dict[str, float]]:
    """Return the time of each peer over that of the deployed form, by work."""
    found: dict[str, dict[str, float]] = {}
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        for work in WORKS:
            if run["title"] == f"tiny_vit_21m_224, {work}-224-tuned":
                found[work] = {entry["subject"]: entry["time_ratio"] for entry in run["comparisons"]}
    return found


def taken_ratios(path: Path) -> dict[str, dict[str, float]]:
    """Return the same ratios from the file of the second machine."""
    return json.loads(path.read_text(encoding="utf-8"))["time_ratios"]


def draw(first: dict[str, dict[str, float]], second: dict[str, dict[str, float]], out: Path) -> None:
    """Draw one panel per machine: how many times as long each peer takes as the deployed form."""
    mpl.rcParams.update({"svg.hashsalt": "tinyvit", "font.family": "sans-serif", "svg.fonttype": "none"})
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, sharex=True, layout="constrained")
    titles = ("Machine A: MKL at half of oneDNN's rate", "Machine B: MKL and oneDNN alike\n(from earlier notes)")
    for panel, ratios, title in zip(panels, (first, second), titles, strict=True):
        for offset, (work, colour) in enumerate(zip(WORKS, COLOURS, strict=True)):
            heights = [row + 0.38 * offset for row in range(len(PEERS))]
            values = [ratios[work][peer] for peer in PEERS]
            bars = panel.barh(heights, values, 0.36, color=colour, label=WORKS[work])
            panel.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        panel.axvline(1, color="#444444", linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.set_yticks([row + 0.19 for row in range(len(PEERS))], list(PEERS.values()))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, 2.9)
    figure.supxlabel("time / time of the deployed form (1: equal), TinyViT-21M, float32, 224 px", fontsize=9)
    panels[1].legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(out, metadata={"Date": None})


def main() -> int:
    """Write the figure."""
    first = measured_ratios(RESULTS / "deployed.json")
    second = taken_ratios(RESULTS / "deployed_second_machine.json")
    draw(first, second, RESULTS / "deployed_machines.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Options that several commands on stores share: the store, its labels, and the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_PANEL = "Teacher"

StoreArgument = Annotated[Path, typer.Argument(help="Folder of the soft-label store.")]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", help="Name of a teacher's labels, where the store has several.")
]
FormatOption = Annotated[
    Literal["tinyvit-official"], typer.Option("--format", help="Layout of the files: that of the official code.")
]

TeacherWeightsOption = Annotated[
    Path | None,
    typer.Option(help="Checkpoint of the teacher; efficientnet_lite1 and 2 bring their own.", rich_help_panel=_PANEL),
]
TeacherWeightsKeyOption = Annotated[
    str | None,
    typer.Option(help="Where in the checkpoint the teacher is, as model_ema or teacher.", rich_help_panel=_PANEL),
]
TeacherPrefixOption = Annotated[
    str | None,
    typer.Option(help="Prefix of its names in the checkpoint, as module.", rich_help_panel=_PANEL),
]
TeacherPartialOption = Annotated[
    bool,
    typer.Option(
        "--teacher-partial",
        help="Take what fits of the checkpoint, and list what was left out.",
        rich_help_panel=_PANEL,
    ),
]
TeacherSizeOption = Annotated[
    int | None, typer.Option(help="Input side in pixels. [default: the model's]", rich_help_panel=_PANEL)
]
TEACHER_HELP = (
    "efficientnet_lite2, efficientnet_lite1, timm:NAME, a name of `tinyvit models`, open_clip:NAME, a .pt2, .pt or "
    ".onnx file, or MODULE:FUNCTION. NAME=FILE adds weights. Repeat the option for an ensemble."
)
TeacherOption = Annotated[list[str], typer.Option(help=TEACHER_HELP, rich_help_panel=_PANEL)]
TeacherMeanOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        metavar="R G B",
        help="Mean that the teacher subtracts, in 0..1; required for files that do not state it.",
        rich_help_panel=_PANEL,
    ),
]
TeacherStdOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        metavar="R G B",
        help="Deviation that the teacher divides by, in 0..1; required for files that do not state it.",
        rich_help_panel=_PANEL,
    ),
]
TeacherInterpolationOption = Annotated[
    Literal["bicubic", "bilinear"] | None,
    typer.Option(help="Interpolation of its evaluation transform. [default: the model's]", rich_help_panel=_PANEL),
]
TeacherCropOption = Annotated[
    float | None,
    typer.Option(help="Share of the image that its centre crop keeps. [default: the model's]", rich_help_panel=_PANEL),
]
TeacherClassesOption = Annotated[
    Path | None, typer.Option(help="Class names for open_clip, one per line.", rich_help_panel=_PANEL)
]
TeacherOutputOption = Annotated[
    str | None,
    typer.Option(help="Output of an ONNX file that has several. [default: logits]", rich_help_panel=_PANEL),
]
TeacherPromptsOption = Annotated[
    Path | None,
    typer.Option(
        help="Templates with {} for open_clip, one per line. [default: a photo of a {}.]", rich_help_panel=_PANEL
    ),
]

"""Options that describe the views, named as in timm's ``train.py`` where it has a name."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

_PANEL = "Views"
_ALPHA = "Alpha of the Beta distribution; 0 switches it off. [default: the preset's]"

AugmentOption = Annotated[
    Literal["crop-flip", "tinyvit", "deit", "deit3"],
    typer.Option(
        help="Preset. tinyvit: RandAugment and erasing. deit: these two, mixup and cutmix. deit3: three-augment, "
        "colour jitter, mixup and cutmix. The options below change single values.",
        rich_help_panel=_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option(help="Random seed for the views.", rich_help_panel=_PANEL)]
CentreOption = Annotated[
    bool,
    typer.Option("--centre", help="Centre crop of the evaluation, without augmentation.", rich_help_panel=_PANEL),
]
ScaleOption = Annotated[
    tuple[float, float],
    typer.Option(
        "--scale",
        "--crop-scale",
        metavar="MIN MAX",
        help="Smallest and largest share of the image in a crop.",
        rich_help_panel=_PANEL,
    ),
]
RatioOption = Annotated[
    tuple[float, float],
    typer.Option(
        "--ratio", metavar="MIN MAX", help="Smallest and largest width / height of a crop.", rich_help_panel=_PANEL
    ),
]
FlipOption = Annotated[
    float, typer.Option("--hflip", min=0, max=1, help="Share of mirrored views.", rich_help_panel=_PANEL)
]
InterpolationOption = Annotated[
    Literal["bicubic", "bilinear", "random"],
    typer.Option("--train-interpolation", help="Interpolation of the crops.", rich_help_panel=_PANEL),
]
AutoAugmentOption = Annotated[
    str | None,
    typer.Option(
        "--aa",
        help="RandAugment as timm writes it (rand-m9-mstd0.5-inc1), 3a for three-augment, or none. "
        "[default: the preset's]",
        rich_help_panel=_PANEL,
    ),
]
JitterOption = Annotated[
    str | None,
    typer.Option(
        "--color-jitter",
        help="Strength for brightness, contrast and saturation; or 0.4,0.4,0.4,0.1 with hue. [default: the preset's]",
        rich_help_panel=_PANEL,
    ),
]
JitterProbOption = Annotated[
    float,
    typer.Option(
        "--color-jitter-prob", min=0, max=1, help="Share of views whose colours change.", rich_help_panel=_PANEL
    ),
]
EraseProbOption = Annotated[
    float | None,
    typer.Option(
        "--reprob",
        min=0,
        max=1,
        help="Share of views with an erased box. [default: the preset's]",
        rich_help_panel=_PANEL,
    ),
]
EraseModeOption = Annotated[
    Literal["pixel", "rand", "const"],
    typer.Option("--remode", help="Content of an erased box: noise, one colour or zero.", rich_help_panel=_PANEL),
]
MixupOption = Annotated[float | None, typer.Option("--mixup", min=0, help=_ALPHA, rich_help_panel=_PANEL)]
CutmixOption = Annotated[float | None, typer.Option("--cutmix", min=0, help=_ALPHA, rich_help_panel=_PANEL)]
MixProbOption = Annotated[
    float, typer.Option("--mixup-prob", min=0, max=1, help="Share of views that are mixed.", rich_help_panel=_PANEL)
]
MixSwitchOption = Annotated[
    float,
    typer.Option(
        "--mixup-switch-prob", min=0, max=1, help="Share of cutmix where both are on.", rich_help_panel=_PANEL
    ),
]

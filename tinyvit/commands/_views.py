"""Options that say which views are drawn, named as in timm's ``train.py`` where it has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tinyvit.backbones.distill.augment import ViewSampler

_PANEL = "Views"
_ALPHA = "Alpha of its Beta distribution, 0 for none. [default: the preset's]"

AugmentOption = Annotated[
    str,
    typer.Option(
        help="Preset: crop-flip; tinyvit (RandAugment, erasing); deit (the two, mixup, cutmix); deit3 (three-augment, "
        "colour jitter, mixup, cutmix). The options below change single values of it.",
        rich_help_panel=_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option(help="Of the views.", rich_help_panel=_PANEL)]
CentreOption = Annotated[
    bool,
    typer.Option("--centre", help="No augmentation: the centre crop of evaluation.", rich_help_panel=_PANEL),
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
    str, typer.Option("--train-interpolation", help="bicubic, bilinear or random.", rich_help_panel=_PANEL)
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
    str, typer.Option("--remode", help="pixel (noise), rand (one colour) or const.", rich_help_panel=_PANEL)
]
MixupOption = Annotated[float | None, typer.Option("--mixup", min=0, help=_ALPHA, rich_help_panel=_PANEL)]
CutmixOption = Annotated[float | None, typer.Option("--cutmix", min=0, help=_ALPHA, rich_help_panel=_PANEL)]
MixProbOption = Annotated[
    float, typer.Option("--mixup-prob", min=0, max=1, help="Share of views that are mixed.", rich_help_panel=_PANEL)
]
MixSwitchOption = Annotated[
    float,
    typer.Option("--mixup-switch-prob", min=0, max=1, help="Share of cutmix when both are on.", rich_help_panel=_PANEL),
]


def view_sampler(arguments: dict[str, Any]) -> ViewSampler:
    """The sampler that a command's arguments ask for.

    Args:
        arguments: By parameter name; what is ``None`` is left to the preset.

    Raises:
        InputError: A value is unknown or out of its range.
    """
    from tinyvit.backbones.distill.augment import ViewSampler

    centre = arguments["centre"]
    asked = {
        "kind": "centre" if centre else "random",
        "seed": arguments["seed"],
        "scale": tuple(arguments["scale"]),
        "ratio": tuple(arguments["ratio"]),
        "flip": 0.0 if centre else arguments["hflip"],
        "interpolation": arguments["train_interpolation"],
        "auto_augment": "" if arguments["aa"] == "none" else arguments["aa"],
        "color_jitter": _numbers("--color-jitter", arguments["color_jitter"]),
        "color_jitter_prob": arguments["color_jitter_prob"],
        "erase_prob": arguments["reprob"],
        "erase_mode": arguments["remode"],
        "mixup": arguments["mixup"],
        "cutmix": arguments["cutmix"],
        "mix_prob": arguments["mixup_prob"],
        "mix_switch_prob": arguments["mixup_switch_prob"],
    }
    return ViewSampler.preset(
        arguments["augment"], **{name: value for name, value in asked.items() if value is not None}
    )


def _numbers(option: str, text: str | None) -> float | tuple[float, ...] | None:
    """One number, or several with commas between."""
    from tinyvit.core.errors import InputError

    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is neither a number nor numbers with commas between") from None
    return numbers[0] if len(numbers) == 1 else numbers

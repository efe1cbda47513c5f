"""``tinyvit labels verify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .._common import DeviceOption, JsonOption, print_json, resolve_device
from ._options import (
    LabelsOption,
    StoreArgument,
    TeacherClassesOption,
    TeacherCropOption,
    TeacherInterpolationOption,
    TeacherMeanOption,
    TeacherOutputOption,
    TeacherPartialOption,
    TeacherPrefixOption,
    TeacherPromptsOption,
    TeacherSizeOption,
    TeacherStdOption,
    TeacherWeightsKeyOption,
    TeacherWeightsOption,
)

# Damage that keeps a file's length. `tinyvit label` makes all other damaged shards again by itself,
# and their problems say so.
_HIDDEN_DAMAGE = ("fails its checksum", "is not the one that was finished")


def verify(
    store: StoreArgument,
    data: Annotated[Path | None, typer.Option(help="Images of the store: also compare list, files and pixels.")] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Teacher of the store, as in `tinyvit label`: label a sample of rows again.", rich_help_panel="Teacher"
        ),
    ] = None,
    teacher_weights: TeacherWeightsOption = None,
    teacher_weights_key: TeacherWeightsKeyOption = None,
    teacher_prefix: TeacherPrefixOption = None,
    teacher_partial: TeacherPartialOption = False,
    teacher_size: TeacherSizeOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    teacher_interpolation: TeacherInterpolationOption = None,
    teacher_crop_pct: TeacherCropOption = None,
    teacher_classes: TeacherClassesOption = None,
    teacher_prompts: TeacherPromptsOption = None,
    teacher_output: TeacherOutputOption = None,
    labels: LabelsOption = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Rows that the teacher labels again.", rich_help_panel="Teacher")
    ] = 64,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Verify a store: the checksum of every row, and on request its images and its teacher.

    All labels of a store are verified, unless --labels names those of one teacher. --teacher finds
    its own labels by its weights. The exit code is 1 when a check fails; the output names every
    shard and row that fails.

    Examples:
        tinyvit labels verify store
        tinyvit labels verify store --data photos --teacher efficientnet_lite2
    """
    arguments = dict(locals())
    from tinyvit.api.labels import teacher_spec
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names
    from tinyvit.backbones.distill.tools import labels_of, verify_store
    from tinyvit.core.console import counted
    from tinyvit.core.errors import CheckFailedError, InputError
    from tinyvit.core.images.files import ImageFiles

    if teacher and data is None:
        raise InputError("--teacher needs --data: the teacher labels images again")
    names = teacher_names(store)
    if teacher and labels is None and len(names) > 1:
        labels = labels_of(store, names, teacher_spec(arguments))
    if labels is None and not teacher and len(names) > 1:
        opened, others = SoftLabelStore(store, names[0]), [SoftLabelStore(store, name) for name in names[1:]]
    else:
        opened, others = SoftLabelStore(store, labels), []
    model = None
    if teacher:
        made = opened.header.teacher
        deployed = made.get("deployed", True)
        spec = teacher_spec(arguments, precision=made.get("precision", "fp32"), deployed=deployed)
        if len(spec.names) == 1 and teacher_size is None:
            spec = replace(spec, size=opened.header.augmentation["hash_size"][0])
        model = spec.load(resolve_device(device))
    images = opened.manifest.fitting(ImageFiles(data)) if data else None
    report = verify_store(opened, images, model, sample=sample)
    for other in others:
        report = report.joined(verify_store(other, images))
    if as_json:
        print_json(report.to_dict())
    else:
        for problem in report.problems:
            print(problem)
        moved = "" if report.teacher_distance is None else f" (largest distance {report.teacher_distance:.4f})"
        print(
            f"{counted(report.rows, 'row')} of {counted(report.finished, 'shard')} verified, "
            f"{counted(report.pixels, 'view')} made again, "
            f"{counted(report.teacher_rows, 'row')} labelled again{moved}: {counted(len(report.problems), 'problem')}"
        )
        if data and report.problems and not report.pixels:
            print("pixels and teacher were not checked, because other checks failed")
        if any(words in problem for problem in report.problems for words in _HIDDEN_DAMAGE):
            print("to make a shard with damaged rows again, delete its .safetensors and run the same `tinyvit label`")
    if report.problems:
        raise CheckFailedError(
            f"{store} has {counted(len(report.problems), 'problem')}; the first: {report.problems[0]}"
        )

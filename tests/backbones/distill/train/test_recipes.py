"""The shipped recipes have the published hyper-parameters, and each says where they come from."""

from __future__ import annotations

import ast

import pytest

from tinyvit.backbones import create_model
from tinyvit.backbones.distill.train import load_recipe, parameter_groups
from tinyvit.backbones.distill.train.datasets import drawn_by
from tinyvit.backbones.distill.train.recipe import CONFIGS
from tinyvit.backbones.distill.train.schedule import Schedule, rate_scales
from tinyvit.core.errors import InputError

IN1K, IN22K = 1_281_167, 14_197_122
SIZES = ("5m", "11m", "21m")
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))
TINYVIT, MIXED = ("rand-m9-mstd0.5-inc1", 0.25, 0.0, 0.0), ("rand-m9-mstd0.5-inc1", 0.25, 0.8, 1.0)
DEIT = ("deit_tiny", "deit_small", "deit_base")

# name -> (images, batch, epochs, warm-up, effective lr, min lr, warm-up lr, weight decay, drop
# path)
PUBLISHED = {
    **{
        f"tiny_vit_{size}_22k_distill": (IN22K, 4096, 90, 5, 2e-3, 4e-5, 4e-6, 0.01, path)
        for size, path in zip(SIZES, (0.0, 0.0, 0.1), strict=True)
    },
    **{
        f"tiny_vit_{size}_22kto1k": (IN1K, 1024, 30, 5, 5e-4, 2e-5, 1e-6, 1e-8, path)
        for size, path in zip(SIZES, (0.0, 0.0, 0.1), strict=True)
    },
    **{f"tiny_vit_21m_{side}": (IN1K, 1024, 30, 5, 4e-5, 4e-7, 4e-8, 1e-8, 0.1) for side in (384, 512)},
    **{
        f"tiny_vit_{size}_1k": (IN1K, 1024, 300, 20, 1e-3, 1e-5, 1e-6, 0.05, path)
        for size, path in zip(SIZES, (0.0, 0.1, 0.2), strict=True)
    },
    **{
        f"tiny_vit_{size}_1k_distill": (IN1K, 1024, 300, 20, 1e-3, 1e-5, 1e-6, 0.01, path)
        for size, path in zip(SIZES, (0.0, 0.0, 0.1), strict=True)
    },
    **{
        f"{name}{kind}": (IN1K, 1024, 300, 5, 1e-3, 1e-5, 1e-6, 0.05, 0.1)
        for name in DEIT
        for kind in ("", "_soft_store", "_soft_online", "_hard_store", "_hard_online")
    },
}


def test_a_base_lies_beside_a_config_or_is_a_shipped_one(tmp_path):
    config = tmp_path / "mine.py"
    for base in ("'tiny_vit_5m_distill.py'", "['tiny_vit_5m_distill']"):
        config.write_text(
            f"# mine\n_base_ = {base}\nstudent = dict(name='tiny_vit_11m_224', drop_path_rate=0.1)\nlr = 3e-4\n"
        )
        run = load_recipe(config)
        assert (run.student["name"], run.lr, run.source) == ("tiny_vit_11m_224", 3e-4, str(config))
        assert run.checkpoint_interval == load_recipe("tiny_vit_5m_distill").checkpoint_interval
    config.write_text("_base_ = 'tiny_vit_5m_distill'\nwarmup_iters = 2\nmax_iters = 6\n")
    run = load_recipe(config)  # the base counts both in epochs
    assert (run.warmup_iters, run.warmup_epochs, run.max_iters, run.epochs) == (2, None, 6, None)
    (tmp_path / "tiny_vit_5m_distill.py").write_text("student = dict(name='tiny_vit_21m_224')\nlr = 1e-4\nepochs = 9\n")
    config.write_text("_base_ = [\n    'tiny_vit_5m_distill.py',\n]\n")
    assert load_recipe(config).lr == 1e-4  # the file beside it comes first
    config.write_text("_base_ = 'tiny_vit_5m_destill.py'\n")
    with pytest.raises(InputError, match=r"the _base_ 'tiny_vit_5m_destill\.py' of config .*mine\.py is not beside"):
        load_recipe(config)


def test_every_shipped_recipe_is_held_against_the_published_table():
    assert {*PUBLISHED, "tiny_vit_5m_distill"} == set(SHIPPED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_effective_values_are_the_published_ones(name):
    recipe = load_recipe(name)
    images, batch, epochs, warmup, lr, min_lr, warmup_lr, decay, drop_path = PUBLISHED[name]
    plan = Schedule.of(recipe, images)
    assert (recipe.batch_size, recipe.base_batch_size, recipe.epochs) == (batch, 512, epochs)
    assert plan.warmup == round(warmup * images / batch)
    assert plan.iterations == pytest.approx(epochs * images / batch, abs=1)
    assert (plan.lr, plan.min_lr, plan.warmup_lr) == pytest.approx((lr, min_lr, warmup_lr))
    assert (recipe.weight_decay, recipe.betas, recipe.eps) == (decay, (0.9, 0.999), 1e-8)
    assert recipe.student["drop_path_rate"] == drop_path
    assert plan.rate(0) == pytest.approx(warmup_lr)
    assert plan.rate(plan.iterations) == pytest.approx(min_lr)
    assert plan.rate(plan.warmup) == pytest.approx(lr, rel=0.08)
    is_deit = name.startswith("deit")
    assert recipe.clip_grad == (0 if is_deit else 5.0)
    assert (recipe.ema, recipe.repeats) == ((0.99996, 3) if is_deit else (0.0, 1))


@pytest.mark.parametrize("name", PUBLISHED)
def test_loss_and_views_are_the_published_ones(name):
    recipe = load_recipe(name)
    sampler = drawn_by(recipe)
    drawn = sampler.auto_augment, sampler.erase_prob, sampler.mixup, sampler.cutmix
    if "distill" in name or "store" in name:
        assert recipe.views == {}  # they are drawn when the store is made
    else:
        assert drawn == (TINYVIT if "22kto1k" in name or "21m_384" in name or "21m_512" in name else MIXED)
        assert (sampler.mix_prob, sampler.mix_switch_prob, sampler.scale) == (1.0, 0.5, (0.08, 1.0))
    kind = "deit_soft" if "soft" in name else "deit_hard" if "hard" in name else "labels"
    assert recipe.loss == ("teacher" if "distill" in name else kind)
    assert recipe.label_smoothing == (0.0 if "distill" in name else 0.1)
    objective = recipe.objective
    if kind == "deit_soft":
        assert (objective.tau, objective.distill_weight, objective.kl_reduction) == (3.0, 0.1, "batchmean")
    if kind == "deit_hard":
        assert objective.distill_weight == 0.5
    assert ("_distilled_" in recipe.student["name"]) == (kind != "labels")
    assert isinstance(recipe.teacher, dict) == name.endswith("_online")


def test_fine_tuning_has_layer_decay_and_fixed_statistics_where_published():
    for name in PUBLISHED:
        recipe = load_recipe(name)
        assert recipe.layer_decay == (0.8 if "22kto1k" in name else 1.0)
        assert recipe.bn_eval == ("22kto1k" in name or name.endswith(("_384", "_512")))
    for side in (384, 512):
        recipe = load_recipe(f"tiny_vit_21m_{side}")
        assert recipe.input_size == side
        assert recipe.student["name"] == f"tiny_vit_21m_{side}"


@pytest.mark.parametrize("name", SHIPPED)
def test_docstring_has_a_command_and_a_source(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text(encoding="utf-8")))
    assert text is not None
    assert f"tinyvit {'finetune' if load_recipe(name).bn_eval else 'pretrain'} {name}" in text
    if name in PUBLISHED:
        assert "Source: " in text


def test_rates_follow_the_real_batch_tinyvit_all_deit_the_peak_alone():
    tiny, deit = (load_recipe(name, batch_size=256) for name in ("tiny_vit_5m_1k", "deit_tiny"))
    assert [tiny.effective(name) for name in ("lr", "min_lr", "warmup_lr")] == pytest.approx([2.5e-4, 2.5e-6, 2.5e-7])
    assert [deit.effective(name) for name in ("lr", "min_lr", "warmup_lr")] == pytest.approx([2.5e-4, 1e-5, 1e-6])
    with pytest.raises(InputError, match="with 8 views per iteration lr becomes 7"):
        Schedule.of(load_recipe("deit_tiny", batch_size=8), IN1K)


def test_cosine_runs_from_the_start_or_from_the_end_of_the_warm_up():
    after = Schedule(100, 1000, 100, 1.0, 1.0, 0.0, 0.1)
    whole = Schedule(100, 1000, 100, 1.0, 1.0, 0.0, 0.1, whole_run=True)
    assert [after.rate(i) for i in (0, 50, 100, 550, 1000)] == pytest.approx([0.1, 0.55, 1.0, 0.5, 0.0])
    assert [whole.rate(i) for i in (0, 50, 100, 500, 1000)] == pytest.approx([0.1, 0.55, 0.975528, 0.5, 0.0], abs=1e-6)


# --- layer decay and weight decay ---------------------------------------------


def test_layer_decay_is_the_official_map():
    """Compare with the numbers of the official ``set_layer_lr_decay``.

    A downsample ends its stage there, and begins one here.
    """
    model = create_model("tiny_vit_5m_224")
    scales = rate_scales(model, 0.8)
    powers = {
        "patch_embed.conv1.conv.weight": 11,
        "stages.0.blocks.0.conv1.conv.weight": 11,
        "stages.0.blocks.1.conv3.bn.bias": 10,
        "stages.1.downsample.conv2.conv.weight": 10,
        "stages.1.blocks.0.attn.qkv.weight": 9,
        "stages.1.blocks.1.mlp.fc1.bias": 8,
        "stages.2.downsample.conv1.bn.weight": 8,
        "stages.2.blocks.0.attn.attention_biases": 7,
        "stages.2.blocks.5.local_conv.conv.weight": 2,
        "stages.3.downsample.conv3.conv.weight": 2,
        "stages.3.blocks.0.attn.proj.weight": 1,
        "stages.3.blocks.1.attn.proj.weight": 0,
        "head.norm.weight": 0,
        "head.fc.weight": 0,
    }
    assert {name: scales[name] for name in powers} == pytest.approx({name: 0.8**n for name, n in powers.items()})
    assert scales["patch_embed.conv1.conv.weight"] == pytest.approx(0.086, abs=1e-3)
    assert set(scales) == {name for name, _ in model.named_parameters()}
    groups = parameter_groups(model, 0.1, 0.8)
    assert len(groups) == 24  # 12 scales, with and without weight decay
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert of[id(parameter)]["lr_scale"] == scales[name]
        is_free = parameter.ndim == 1 or name.endswith("attention_biases")
        assert of[id(parameter)]["weight_decay"] == (0.0 if is_free else 0.1)


def test_tokens_and_positions_of_deit_do_not_decay():
    model = create_model("deit_tiny_distilled_patch16_224", depth=1)
    free = parameter_groups(model, 0.1)[1]
    names = {name for name, parameter in model.named_parameters() if any(parameter is one for one in free["params"])}
    assert {"cls_token", "dist_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} <= names
    assert "blocks.0.attn.qkv.weight" not in names
    with pytest.raises(InputError, match="layer_decay is for TinyViT only, and the student is a"):
        rate_scales(model, 0.8)


def test_a_recipe_inherits_a_recipe_that_inherits_a_shipped_one_by_name(tmp_path):
    (tmp_path / "first.py").write_text("_base_ = 'tiny_vit_5m_distill.py'\nmax_iters = 7\nlr = 3e-4\n")
    (tmp_path / "second.py").write_text("_base_ = 'first.py'\nstudent = dict(img_size=96)\n")
    recipe, shipped = load_recipe(tmp_path / "second.py"), load_recipe("tiny_vit_5m_distill")
    assert (recipe.max_iters, recipe.epochs, recipe.lr) == (7, None, 3e-4)
    assert recipe.student == {**shipped.student, "img_size": 96}
    assert recipe.weight_decay == shipped.weight_decay

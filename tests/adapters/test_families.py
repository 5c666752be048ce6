"""Contracts of every family that trains through OpenMMLab, on the same ten scenes."""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from family_jobs import BY_NAME, FAMILIES, build, job
from mmengine.hooks import Hook

from bench.errors import UserError
from bench.tasks import Protocol, Task
from bench.training import hooks

pytestmark = pytest.mark.usefixtures("one_thread")


# A plain ViT's attention has the weights of relative positions where it is windowed.
VIT: dict[str, dict[str, Any]] = {"detection": {"window_size": 2}}
LAST_LAYER = {
    "segmentation": "decode_head.conv_seg.weight",
    "detection": "roi_head.mask_head.conv_logits.weight",
    "pose": "head.final_layer.weight",
    "depth": "decode_head.last.2.weight",
    "tracking": "head.box.4.weight",
}
LAST_STAGE = {"tracking": "layer3"}  # of the backbone's that are used; layer4 where all are


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_learn_at_distinct_rates(scenes: Path, family: str) -> None:
    settings = {"lr": 1e-2, "layer_decay": 0.5, **VIT.get(family, {})}
    built = build(job(family, scenes, "test_vit", "finetune", **settings))
    optimizer = built.build_optim_wrapper(built.cfg.optim_wrapper).optimizer
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    of = {name: rates[id(p)] for name, p in built.model.named_parameters()}

    assert LAST_LAYER[family] in of
    assert ("backbone.model.blocks.0.attn.rel_pos_h" in of) == (family in VIT)
    depth = len(built.model.backbone.model.blocks)
    layers = {f"backbone.model.blocks.{i}.": depth - i for i in range(depth)}
    layers |= {"backbone.model.patch_embed.": depth + 1}
    layers |= {f"{name.partition('.')[0]}.": 0 for name in of if not name.startswith("backbone.")}
    for layer, above in layers.items():
        found = [rate for name, rate in of.items() if name.startswith(layer)]
        assert found, layer
        assert found == pytest.approx([1e-2 / 2**above] * len(found)), layer


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}


MOVED_ON_FROZEN = {
    "segmentation": {"decode_head.conv_seg.weight", "decode_head.norms.0.running_mean"},
    "detection": {"rpn_head.rpn_cls.weight", "roi_head.mask_head.conv_logits.weight"},
    "pose": {"head.final_layer.weight", "head.deconv_layers.1.running_mean"},
    "depth": {"decode_head.conv.weight", "decode_head.conv.bias"},
    "tracking": {"project.weight", "fusion.encoder.0.key_value.weight", "head.score.4.weight"},
}


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_backbone_keeps_every_bit_and_statistic(scenes: Path, family: str, arch: str) -> None:
    """While everything after it is trained."""
    settings = VIT.get(family, {}) if arch == "test_vit" else {}
    built = build(job(family, scenes, arch, "frozen", epochs=2, limit=4, **settings))
    before = states(built.model)
    parts = {name.partition(".")[0] for name, _ in built.model.named_parameters()}
    built.train()

    changed = moved(before, built.model)
    assert {name.partition(".")[0] for name in changed} == parts - {"backbone"}
    assert changed >= MOVED_ON_FROZEN[family]
    assert not any(module.training for module in built.model.backbone.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_finetuned_backbone_moves_its_weights_and_statistics(scenes: Path, family: str) -> None:
    built = build(job(family, scenes, "test_resnet", "finetune", epochs=2, limit=4))
    before = states(built.model)
    built.train()

    assert moved(before, built.model) >= {
        "backbone.model.conv1.0.weight",
        "backbone.model.bn1.running_mean",
        f"backbone.model.{LAST_STAGE.get(family, 'layer4')}.0.conv1.weight",
        LAST_LAYER[family],
    }


class Interrupt(Hook):  # type: ignore[misc]
    """In the middle of the last epoch."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 2 == runner.max_iters:
            raise KeyboardInterrupt


RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "segmentation": ("test_vit", {"drop_path": 0.3}),
    "detection": ("test_vit", {"drop_path": 0.3}),
    "pose": ("test_vit", {"drop_path": 0.3, "half_body": 1.0}),
    "depth": ("test_resnet", {}),
    "tracking": ("test_vit", {"drop_path": 0.3, "fusion_drop_path": 0.3}),
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_run_ends_as_the_undisturbed(scenes: Path, family: str) -> None:
    arch, settings = RANDOM[family]
    work = job(family, scenes, arch, "finetune", epochs=2, limit=4, **settings)
    cut = dataclasses.replace(work, work_dir=scenes.parent / "cut")
    settings_of_run = {"checkpoint_seconds": 0.0, "curves": {"loss": ("loss",)}}
    whole = build(work, **settings_of_run)
    whole.train()
    broken = build(cut, **settings_of_run)
    broken.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert (cut.work_dir / hooks.NAME).is_file()
    resumed = build(cut, **settings_of_run)
    resumed.train()

    assert resumed.iter == whole.iter > broken.iter
    assert moved(states(whole.model), resumed.model) == set()
    losses, expected = (r.message_hub.get_info(hooks.CURVES)["loss"] for r in (resumed, whole))
    assert losses == expected
    assert len(losses) == whole.iter


LOSS = {
    "segmentation": "decode.loss_ce",
    "detection": "loss_rpn_cls",
    "pose": "loss_kpt",
    "depth": "decode.loss_silog",
    "tracking": "loss_score",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_diverging_training_stops_with_a_message(scenes: Path, family: str) -> None:
    settings = {"lr": 1e30, "warmup_epochs": 0.0, "clip_grad": 0.0, "epochs": 20, "limit": 4}
    known = {f.name for f in dataclasses.fields(BY_NAME[f"{family}/scenes"].protocols[0])}
    settings = {name: value for name, value in settings.items() if name in known}
    work = job(family, scenes, "test_resnet", "finetune", **settings)

    with pytest.raises(UserError, match=rf"Training diverged in epoch \d.*{LOSS[family]}"):
        work.task.evaluate(work)


@pytest.mark.parametrize("family", FAMILIES)
def test_smoke_runs(scenes: Path, family: str) -> None:
    work = job(family, scenes, "test_vit", "frozen", batch_size=1)
    small = dataclasses.replace(work, protocol=work.protocol.smoke())
    metrics = small.task.evaluate(small).metrics

    assert small.protocol.limit == 4
    assert math.isfinite(metrics[small.task.metrics[0].name])
    assert metrics.keys() >= {metric.name for metric in small.task.metrics}


PROSE = {"name", "source", "expected", "command", "splits", "train_on"}
BOUND = {"transfer", "train_layout"}  # layouts, which a test of their own trains on


def unseen(task: Task, protocol: Protocol) -> set[str]:
    """Fields that the config rightly does not depend on."""
    if task.family == "pose":
        return {"limit"}  # of images; how many persons these hold is known to the data alone
    if task.family == "tracking" and protocol.one_stream:  # type: ignore[attr-defined]
        return {"dim", "heads", "layers", "fusion_drop_path"}  # of a fusion that it does without
    linear = task.family == "depth" and protocol.head != "deconv"  # type: ignore[attr-defined]
    return {"channels"} if linear else set()


def another(value: Any, kind: Any) -> Any:
    """A value of the same kind that differs."""
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"another {value}"
    if isinstance(value, tuple):
        return tuple(x / 2 for x in value) or (3,)
    return 3 if value is None else 2 * value + 1


def test_upstream_config_is_pure_and_follows_the_protocol() -> None:
    for task in BY_NAME.values():
        for protocol in task.protocols:
            check_upstream(task, protocol)


def check_upstream(task: Task, protocol: Protocol) -> None:
    where = f"{task.name} {protocol.name}"
    text = json.dumps(task.upstream(task, protocol))

    assert text == json.dumps(task.upstream(task, protocol)), where
    assert "arch" not in json.loads(text)["model"]["backbone"], where
    assert not any(part.startswith("/") for part in text.split('"')), where
    kinds = typing.get_type_hints(type(protocol))
    for name in kinds.keys() - PROSE - BOUND - unseen(task, protocol):
        change = {name: another(getattr(protocol, name), kinds[name])}
        other = dataclasses.replace(protocol, **change)
        assert json.dumps(task.upstream(task, other)) != text, f"{where}: {change} changes nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_users_data_set_is_one_entry(family: str) -> None:
    module, world = FAMILIES[family], BY_NAME[f"{family}/scenes"]
    own = dataclasses.replace(world.dataset, name="mine")
    layout = getattr(world.evaluate, "keywords", {})  # a video's is its data set's
    task = module.task(own, *layout.values(), (module.SCENES_FROZEN,))

    assert task.name == f"{family}/mine"
    assert task.dataset == own
    assert getattr(task.evaluate, "keywords", {}) == layout
    assert task.metrics[0].higher_is_better == (family != "depth")

"""Methods at work: what each is and learns, the moving average, pictures, several processes."""

from typing import Any

import pytest
import timm
import torch
from small_methods import SMALL, eight, part, small, total
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UserError
from bench.runs.ranks import call
from pretrain.data import Batch
from pretrain.methods import COMBINATIONS, METHODS, method
from pretrain.siamese import Siamese, build
from pretrain.views import Masking

# What every method is.


@pytest.mark.parametrize("name", [m.name for m in METHODS])
def test_the_encoder_has_timm_s_own_keys(name: str) -> None:
    siamese = small(name)
    encoder = {k for k in siamese.state_dict() if k.startswith("encoder.")}
    own = timm.create_model("test_vit", num_classes=0).state_dict()
    assert encoder == {f"encoder.{key}" for key in own}
    assert siamese.crops == (2 if name == "moco" else 1)
    assert siamese.needs_labels == (name == "supervised")
    assert siamese.no_weight_decay() >= {"encoder.cls_token", "encoder.pos_embed"}


def test_weights_and_masks_follow_from_seeds() -> None:
    before = torch.random.get_rng_state()
    first, again = small("c-mae"), small("c-mae")
    other = build(method("c-mae", **SMALL), "test_vit", img_size=64, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(first.encoder.blocks[0].attn.qkv.weight, other.encoder.blocks[0].attn.qkv.weight)
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        losses.append(total(first(eight())).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("base", ["mae", "moco"])
@pytest.mark.parametrize(("views", "similarity"), [(v, s) for v, names in COMBINATIONS.items() for s in names])
def test_every_pair_trains_all_it_has(base: str, views: str, similarity: str) -> None:
    """A parameter without gradient would stop DistributedDataParallel."""
    changed = method(base, **SMALL, views=views, similarity=similarity)
    siamese = build(changed, "test_vit", img_size=64, num_classes=8, seed=0)
    loss = total(siamese(eight()))
    loss.backward()
    assert loss.isfinite()
    idle = [n for n, p in siamese.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


LEARNT = {  # learning rate, and what the loss of 8 images with one mask gets below
    "mae": (4e-3, 0.1),
    "r-mae": (4e-3, 0.1),
    "c-mae": (2e-3, 0.05),
    "simmim": (2e-3, 0.15),
    "moco": (2e-3, 0.03),
    "simsiam-mask": (2e-3, -0.95),  # -1 at best
    "supervised": (2e-3, 0.48),  # 0.466 at best, with smoothed labels
}


@pytest.mark.long
@pytest.mark.parametrize("name", LEARNT)
def test_each_overfits_eight_images(name: str) -> None:
    (rate, enough), steps = LEARNT[name], 240
    siamese, batch, losses = small(name), eight(), []
    trained = [p for p in siamese.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    for step in range(steps):
        torch.manual_seed(0)
        loss = total(siamese(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        siamese.after_step(step / steps)
        losses.append(loss.item())
        if losses[-1] < enough:
            break
    assert losses[-1] < enough < 0.5 * abs(losses[0]), losses[::20]
    assert _spread(siamese, batch) > 0.05  # features of different images differ: no collapse


@torch.no_grad()
def _spread(siamese: Siamese, batch: Batch) -> float:
    """The part of the features' energy that tells images apart."""
    features = siamese.encoder.forward_features(batch.images)[:, 1:].mean(1)
    return float(features.var(0).sum() / features.square().sum(1).mean())


@pytest.mark.long
def test_r_mae_collapses_without_reconstruction() -> None:
    """At lambda 0 all images are decoded to the same pixels; at lambda 1 they are not."""
    spreads = {}
    for weight in (0.0, 1.0):
        siamese = small("r-mae", reconstruction_weight=weight)
        optimiser = torch.optim.AdamW((p for p in siamese.parameters() if p.requires_grad), lr=1e-3)
        said: list[Tensor] = []
        siamese.embedding.register_forward_hook(lambda _, __, output, said=said: said.append(output))
        for step in range(60):
            torch.manual_seed(step)
            losses = siamese(eight())
            optimiser.zero_grad()
            total(losses).backward()
            optimiser.step()
        spreads[weight] = float(said[-1].detach().var(0).mean())
        if weight == 0:
            assert losses["loss_similarity"].item() < 1e-3
    assert spreads[0.0] < 1e-3 < 0.02 < spreads[1.0], spreads


def test_momentum_0_copies_and_momentum_1_keeps() -> None:
    for momentum, progress, kept in ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (0.99, 1.0, 1.0), (0.9, 0.5, 0.95)):
        siamese = small("moco", momentum=momentum)
        assert siamese.target is not None
        online, target = siamese.encoder.norm.bias, siamese.target["encoder"].norm.bias
        assert torch.equal(online, target)
        with torch.no_grad():
            online.add_(1.0)
            siamese.embedding.head.layers[0].weight.zero_()
        siamese.after_step(progress)
        torch.testing.assert_close(target, online - kept)
        projector = siamese.target["embedding"].head.layers[0].weight
        assert bool(projector.any()) == (kept > 0)
        assert not any(p.requires_grad for p in siamese.target.parameters())


def test_masks_by_true_occluders() -> None:
    siamese = small("mae", masking="occluders", mask_ratio=0.5)
    assert siamese.needs_occluders
    picture = siamese.picture(eight())
    assert picture is not None
    assert float(picture[:, 0, :, :, 32:].std()) < 1e-6  # the right half is grey
    with pytest.raises(UserError, match="only scenes and species have"):
        siamese(Batch(images=eight().images))


@pytest.mark.parametrize("name", ["mae", "r-mae", "simmim"])
def test_pictures_show_the_mask_and_the_target(name: str) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    picture = small(name, mask_ratio=0.5).picture(eight(), mean=mean, std=std)
    assert picture is not None
    assert picture.shape == (8, 3, 3, 64, 64)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    colours = [torch.tensor(c).view(1, 3, 1, 1) for c in (mean, std)]
    torch.testing.assert_close(picture[:, 2], (eight().images * colours[1] + colours[0]).clamp(0, 1))
    masked, said, true = picture.unbind(1)
    grey = (masked - 0.5).abs().amax(1) < 1e-5
    assert float(grey.float().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(said.movedim(1, -1)[~grey], true.movedim(1, -1)[~grey])
    assert small("moco").picture(eight()) is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("moco", {}, "infonce of pooled views .* the batch has one image"),
        ("c-mae", {}, "infonce of tokens views .* the batch has one image"),
        ("simsiam-mask", {}, "cosine of pooled views"),
    ],
)
def test_a_batch_of_one_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(name, **changes)(part(eight(), 0, 8))


@pytest.mark.parametrize("name", ["r-mae", "c-mae"])
def test_only_what_is_asked_for_is_decoded(name: str) -> None:
    seen: list[int] = []
    for share in (1.0, 1 / 3):
        siamese = small(name, complement_share=share, target="shared")
        siamese.encoder.blocks[0].register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
        siamese.embedding.decoder.blocks[0].register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
        siamese(eight())
    # 4 of 16 patches are shown, the class token goes with them: views, then decoded ones.
    assert seen == [5, 13, 17, 13, 5, 5, 9, 5]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="the data has 0 classes"):
        build(method("supervised"), "test_vit", img_size=64, seed=0)
    with pytest.raises(UserError, match="mask unit of 24 pixels is not a multiple of the patch of 16"):
        small("simmim", mask_unit=24)
    swin = "swin_tiny_patch4_window7_224"
    with pytest.raises(UserError, match="The decoder needs the tokens of a plain ViT"):
        build(method("simmim", similarity="pixel-l2"), swin, img_size=64, seed=0)


def test_simmim_on_swin_learns_from_hidden_pixels_alone() -> None:
    options = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 6)}
    swin = build(method("simmim", mask_ratio=0.5), "swinv2_tiny_window8_256", img_size=64, seed=0, **options)
    batch, images = eight(), eight().images
    said: list[Tensor] = []
    assert swin.embedding.predict.out_channels == 3 * 32**2
    swin.embedding.predict.register_forward_hook(lambda *x: said.append(F.pixel_shuffle(x[2], 32)))
    torch.manual_seed(2)
    loss = total(swin(batch)).item()
    torch.manual_seed(2)
    _, hidden = swin.masking(8, images.device)
    mask = torch.zeros(8, 256).scatter(1, hidden, 1.0).view(8, 1, 16, 16)
    mask = mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert mask.mean() == 0.5
    stated = ((said[0] - images).abs() * mask).sum() / (mask.sum() * 3)
    assert loss == pytest.approx(stated.item(), rel=1e-5)


# Several processes: the gradients are those of one on the joint batch.


class PartOfMasks:
    """The masks that this rank's images have in the joint batch."""

    def __init__(self, joint: Masking, rank: int, world: int) -> None:
        self.grid, self.rank, self.world, self.joint = joint.grid, rank, world, joint

    def __call__(self, number: int, *given: Any) -> tuple[Tensor, ...]:
        torch.manual_seed(11)
        masks = self.joint(number * self.world, *given[:1])
        return tuple(m.chunk(self.world)[self.rank] for m in masks)


JOINED: dict[str, dict[str, Any]] = {"moco": {}, "c-mae": {"target": "shared"}, "simsiam-mask": {}}


def learnt(rank: int, world: int, name: str) -> dict[str, Tensor]:
    """This rank's share of the gradients of the mean loss, and of the batch norms' statistics."""
    siamese: Any = small(name, **JOINED[name])
    if siamese.masking is not None:
        siamese.masking = PartOfMasks(siamese.masking, rank, world)
    total(siamese(part(eight(), rank, world))).backward()
    gradients = {k: p.grad / world for k, p in siamese.named_parameters() if p.grad is not None}
    running = {k: b / world for k, b in siamese.named_buffers() if "running" in k}
    assert gradients
    assert running
    return gradients | running


def learnt_by_two(rank: int) -> dict[str, dict[str, Any]]:
    found = {name: learnt(rank, 2, name) for name in JOINED}
    for tensors in found.values():
        for tensor in tensors.values():
            torch.distributed.all_reduce(tensor)
    return {name: {k: t.tolist() for k, t in ts.items()} for name, ts in found.items()}


@pytest.mark.long
def test_two_processes_learn_what_one_does() -> None:
    for name, found in call(learnt_by_two, 2).items():
        one = learnt(0, 1, name)
        assert set(found) == set(one)
        scale = max(float(t.abs().max()) for k, t in one.items() if "running" not in k)
        for key, tensor in one.items():
            torch.testing.assert_close(
                torch.tensor(found[key]), tensor, rtol=1e-3, atol=1e-5 * scale, msg=f"{name} {key}"
            )

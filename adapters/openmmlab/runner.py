"""Run one job with mmengine's Runner: train with exact resume, test once, return the numbers.

    outcome = run(config, job)

`config` is a family's upstream dict with data paths and head channels filled in. What belongs to this run alone
(weights, seed, device, workers, folders, AMP) is bound here, so none of it can affect the digest.
"""

import contextlib
import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.openmmlab import compatibility
from bench.backbones.build import build, is_plain
from bench.backbones.normalise import normalisation
from bench.backbones.timm_models import create
from bench.errors import UserError
from bench.files import replacing
from bench.processes import worker_ends_with_run
from bench.tasks import Job, Outcome, Selection

compatibility.prepare()  # before any OpenMMLab package is imported

from mmengine.config import Config  # noqa: E402
from mmengine.registry import FUNCTIONS  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

# Imported to register what configs name.
from adapters.openmmlab import backbone as _backbone  # noqa: E402, F401
from adapters.openmmlab import layer_decay as _layer_decay  # noqa: E402, F401
from bench.training import collate, hooks, seeding  # noqa: E402, F401
from bench.training.runner import DeviceRunner  # noqa: E402

CHECKPOINT_SECONDS = 60.0
FUNCTIONS.register_module(module=worker_ends_with_run)


class JobRunner(DeviceRunner):
    """A runner that counts the seconds of training, and gathers the results of all ranks."""

    earlier_seconds = 0.0  # of training, in the processes that this one resumes
    started = 0.0

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Resume, and read from the checkpoint how long earlier processes trained."""
        super().resume(*args, **kwargs)
        self.earlier_seconds = self.message_hub.get_info(hooks.SECONDS, 0.0)

    def train_seconds(self) -> float:
        """Return the wall-clock seconds of training so far, over all processes, without what a kill lost."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def build_test_loop(self, loop: Any) -> Any:
        """Build the test loop; its metrics gather the results of all ranks, each example once."""
        built = super().build_test_loop(loop)
        for metric in built.evaluator.metrics:
            metric.collect_device = "gpu"  # mmengine's name for the process group; over gloo it is the CPU
        return built


def run(
    config: Mapping[str, Any],
    job: Job,
    *,
    reported_on: str = "val",
    curves: Mapping[str, Sequence[str]] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Outcome:
    """Train and test `config` on the job's backbone.

    The model of the last epoch is tested once, so nothing is chosen on the tested split.

    Args:
        config: what mmengine's Runner takes, with `default_scope`; its loaders may leave out samplers and workers.
        reported_on: name of the tested split.
        curves: sums of loss terms to record by iteration: name -> terms.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        UserError: the loss diverges, the training split does not fill one batch, or a file cannot be written.
    """
    check_savable(config, job)
    job.work_dir.mkdir(parents=True, exist_ok=True)
    runner = JobRunner.from_cfg(bind(config, job, checkpoint_seconds, curves or {}))
    bars = next(hook for hook in runner.hooks if isinstance(hook, hooks.ProgressHook))
    with _single_line_errors(), contextlib.closing(bars):
        train_seconds = _train(runner)
        start = time.perf_counter()
        metrics = runner.test()
    eval_seconds = time.perf_counter() - start
    network = getattr(runner.model, "module", runner.model).backbone
    if runner.rank == 0:
        if job.keep_weights:
            save_backbone(network.model, job)
        hooks.discard_checkpoint(job.work_dir)
    return Outcome(
        metrics={name: float(value) for name, value in metrics.items()},
        load_report=network.load_report,
        selection=Selection(selected_on=None, reported_on=reported_on),
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        images_per_second=runner.iter * config["train_dataloader"]["batch_size"] / train_seconds,
        data_wait=runner.message_hub.get_info(hooks.WAITED) / train_seconds,
        curves=runner.message_hub.get_info(hooks.CURVES),
    )


def _train(runner: JobRunner) -> float:
    """Train to the last epoch; return the seconds it took, over all processes."""
    batch_size = runner.cfg.train_dataloader.batch_size * runner.world_size
    loader = runner.train_loop.dataloader
    if len(loader) == 0:
        raise UserError(
            f"The training split has {len(loader.dataset)} images, fewer than one batch of {batch_size}. "
            f"Add images, or define a protocol with a smaller batch."
        )
    runner.started = time.perf_counter()
    runner.train()
    return runner.train_seconds()


def bind(
    config: Mapping[str, Any],
    job: Job,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    curves: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Config:
    """Return a copy of the pure `config` with what belongs to this run alone."""
    bound = copy.deepcopy(dict(config))
    checkpoint = hooks.newest_checkpoint(job.work_dir)
    bound["model"]["backbone"] |= {
        "arch": job.backbone.arch,
        "weights": str(job.backbone.weights) if job.backbone.weights else None,
        "part": job.backbone.part,
        "allow_partial": list(job.backbone.allow_partial),
    }
    mean, std = normalisation(job.backbone)
    bound["model"]["data_preprocessor"] = {
        "mean": [255 * value for value in mean],
        "std": [255 * value for value in std],
        **bound["model"]["data_preprocessor"],  # a protocol's own mean and std take precedence
    }
    bound["train_dataloader"] = _train_loader(bound["train_dataloader"], job)
    in_order = {"sampler": {"type": "DefaultSampler", "shuffle": False}}
    bound["test_dataloader"] = {**in_order, **bound["test_dataloader"], **_workers(job)}
    bound["optim_wrapper"] |= precision(job.device)
    bound |= {
        "work_dir": str(job.work_dir),
        "experiment_name": str(job.work_dir),  # names mmengine's global logger
        "device": job.device,
        "randomness": {"seed": job.seed},
        "default_hooks": {"checkpoint": None},
        "custom_hooks": [*bound.get("custom_hooks", ()), *_hooks(job, checkpoint_seconds, curves)],
        "resume": checkpoint is not None,
        "load_from": str(checkpoint) if checkpoint else None,
    }
    bound.setdefault("test_cfg", {"type": "TestLoop"})
    return Config(bound, format_python_code=False)


def precision(device: str) -> dict[str, Any]:
    """Return the optimizer wrapper's settings on a device: bf16 autocast on CUDA, fp32 elsewhere."""
    if device.startswith("cuda"):
        # bf16 has the range of fp32, so gradients need no scaling.
        return {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": 1.0}
    return {"type": "OptimWrapper"}


def _hooks(job: Job, checkpoint_seconds: float, curves: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {"type": "MeasuringHook", "curves": dict(curves)},
        {"type": "SeedingHook", "seed": job.seed},
        {"type": "FiniteLossHook"},
        {"type": "ProgressHook", "title": f"{job.task.name} {job.backbone.name}"},
        {"type": "AtomicCheckpointHook", "interval": checkpoint_seconds},
    ]


def _train_loader(loader: Mapping[str, Any], job: Job) -> dict[str, Any]:
    # Whole batches only: a last batch of one image would break BatchNorm after the heads' global pooling.
    return {
        "sampler": {"type": "WholeBatchSampler", "batch_size": loader["batch_size"]},
        "collate_fn": {"type": "collate_for_handover"},
        **loader,
        "batch_size": _share(loader["batch_size"], job.world_size),
        "dataset": {"type": "SeededDataset", "dataset": loader["dataset"], "seed": job.seed},
        **_workers(job),
        "persistent_workers": job.num_workers > 0,  # starting them takes seconds in every epoch
        "pin_memory": job.device.startswith("cuda"),
    }


def _share(batch_size: int, world_size: int) -> int:
    if batch_size % world_size:
        raise UserError(
            f"A batch of {batch_size} cannot be shared equally among {world_size} GPUs. Give --gpus a divisor of it."
        )
    return batch_size // world_size


def _workers(job: Job) -> dict[str, Any]:
    return {"num_workers": job.num_workers, "worker_init_fn": {"type": "worker_ends_with_run"}}


@contextlib.contextmanager
def _single_line_errors() -> Iterator[None]:
    """Reduce a worker process's UserError, which arrives wrapped in a traceback, to its message."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from None


# --keep-weights: the fine-tuned backbone as a weights file in the run's folder.

NAME = "backbone.safetensors"


def check_savable(config: Any, job: Job) -> None:
    """Raise UserError, before training, if --keep-weights is given and timm has no such architecture."""
    if not job.keep_weights:
        return
    backbone = config["model"]["backbone"]
    plain = is_plain(create(job.backbone.arch, seed=0)[0])
    if (backbone.get("window_size") and plain) or job.protocol.drop_blocks:
        raise UserError(
            f"--keep-weights cannot save {job.backbone.arch} of {job.task.name}: this protocol changes the "
            f"architecture (windows in a plain ViT's attention, or blocks left out), and timm has no such model. "
            f"Omit --keep-weights, or fine-tune on another task."
        )


def save_backbone(model: Any, job: Job) -> Path:
    """Write the fine-tuned timm model in fp32, with timm's keys and a header as of `pretrain`'s exports.

    What the task did not train has its weights from before: a final norm after the last map, or one that a
    classifier took over. Returns the file's path; raises UserError if it cannot be written.
    """
    trained = model.state_dict()
    before, _ = build(
        job.backbone.arch,
        weights=job.backbone.weights,
        part=job.backbone.part,
        allow_partial=job.backbone.allow_partial,
        num_classes=0,
    )
    state: dict[str, Tensor] = {
        key: trained.get(key, value).detach().float().cpu().contiguous() for key, value in before.state_dict().items()
    }
    path = job.work_dir / NAME
    try:
        with replacing(path) as temporary:
            save_file(state, temporary, metadata=header(model, job))
    except OSError as error:
        raise UserError(
            f"The fine-tuned backbone {path} cannot be written ({error.strerror}). Free space or make the folder "
            f"writable, and run the same command again: training resumes from the checkpoint in that folder."
        ) from None
    return path


def header(model: Any, job: Job) -> dict[str, str]:
    """Return the weights file's header: what `bench.backbones` reads, and how the weights were made."""
    mean, std = normalisation(job.backbone)
    fields = {
        "arch": job.backbone.arch,
        "name": f"{job.backbone.name}-{job.task.name.replace('/', '-')}-seed{job.seed}",
        "method": f"{job.backbone.method}+{job.task.name}",
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
        "finetuned": f"{job.task.name} {job.protocol.name} seed {job.seed}",
    }
    patches: Any = getattr(model, "patch_embed", None)
    if getattr(model, "pos_embed", None) is not None and hasattr(patches, "grid_size"):
        size = [n * p for n, p in zip(patches.grid_size, patches.patch_size, strict=True)]
        fields["img_size"] = json.dumps(size)
    return fields

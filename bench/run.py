"""Evaluate backbones on tasks: names -> runs -> records.

python -m bench.run --backbone vit_tiny_patch16_224 --task classification segmentation
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import tasks
from bench.backbones.architectures import architectures
from bench.errors import UserError, unknown
from bench.files import check_writable
from bench.records import Result, RunKey, Store
from bench.runs import launch, plan, suite
from bench.runs.plan import Planned, Request, Run
from bench.runs.suite import Listed, Pretraining
from bench.slurm.request import Resources, resources, site_file

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, plan, run, report; return the exit status (0 done, 1 a run failed, 2 wrong request)."""
    arguments = parse(argv)
    try:
        return _watched(arguments) if arguments.watch else _main(arguments)
    except UserError as error:
        sys.stderr.write(f"bench.run: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. What is done is in the store; the same command goes on from there.\n")
        return INTERRUPTED


def _watched(arguments: argparse.Namespace) -> int:
    """Evaluate each weights file of a folder once, until the pretraining's last one."""
    from bench.runs import watch

    if arguments.backbone or arguments.suite:
        raise UserError("--watch DIR says itself which backbones. Leave --backbone and --suite out.")
    given = {name: value for name, value in vars(arguments).items() if name != "watch"}

    def evaluate(files: list[str]) -> int:
        return _main(argparse.Namespace(**{**given, "backbone": files}))

    return watch.follow(arguments.watch, evaluate)


def _main(arguments: argparse.Namespace) -> int:
    if arguments.list is not None:
        sys.stdout.write(_listing(arguments.list, plan.include(arguments.include)))
        return DONE
    request = _request(arguments)
    store = Store(request.results)
    launch.share_cores(arguments.jobs)
    unmade: list[Pretraining] = []
    stated: dict[RunKey, float] = {}
    if arguments.suite:
        listed, unmade = _suite(request, arguments, store)
        runs = [each.run for each in listed if each.made or arguments.dry_run]
        stated = _hours(listed)
    else:
        runs = plan.runs(request)
    planned = plan.plan(runs, store)
    if arguments.dry_run:
        sys.stdout.write("".join(f"to do    pretraining {p.name}\n" for p in unmade))
        sys.stdout.write(_describe(planned, plan.estimate(planned, store, stated)))
        sys.stdout.write(suite.pretraining_cost(unmade))
        if asked := _resources(arguments):
            sys.stdout.write(f"Slurm, a job a run: {asked} (the site's: {site_file()})\n")
        return DONE
    to_do = [p.run for p in planned if p.state != "done"]
    check_writable(request.results, "--results")
    check_writable(request.work_dir, "--work-dir")
    if asked := _resources(arguments):
        problems: dict[RunKey, str] = {}
        cost = _cost(planned, plan.estimate(planned, store, stated))
        if to_do and not _on_slurm(to_do, asked, cost, wait=arguments.wait):
            return DONE
    else:
        launch.check_weights(to_do)
        ended = launch.launch(to_do, arguments.cluster, arguments.jobs)
        problems = {run.key: problem for run, problem in ended if problem}
    if to_do:
        planned = plan.plan([p.run for p in planned], store)
    status = _report(planned, problems, store)
    return FAILED if unmade and arguments.cluster != "slurm" else status


def _suite(request: Request, arguments: argparse.Namespace, store: Store) -> tuple[list[Listed], list[Pretraining]]:
    """Say what a suite will cost, and make its backbones or submit them; return its runs, and what is not made."""
    wanted, left_out = suite.load(arguments.suite).possible(request.data_root)
    wanted = wanted.smoke() if request.smoke else wanted
    sys.stderr.write(left_out)
    unmade, listed = suite.listed(wanted, request)
    if arguments.dry_run:
        return listed, unmade
    planned = plan.plan([each.run for each in listed], store)
    cost = _cost(planned, plan.estimate(planned, store, _hours(listed)))
    sys.stderr.write(f"{suite.pretraining_cost(unmade)}{wanted.name}: {cost}")
    check_writable(request.work_dir, "--work-dir")
    where = ["--cluster", "slurm"] if arguments.cluster == "slurm" else []
    where += ["--slurm", *arguments.slurm] if arguments.slurm else []
    slots = launch.slots(arguments.jobs) if arguments.cluster == "local" else [()]
    suite.pretrain(unmade, request, where, slots)
    unmade, listed = suite.listed(wanted, request)
    if unmade and where:
        sys.stderr.write(
            f"{len(unmade)} backbones are not there yet. Give the same command again when they are: it goes on.\n"
        )
    return listed, unmade


def _hours(listed: Sequence[Listed]) -> dict[RunKey, float]:
    return {each.run.key: each.minutes / 60 for each in listed if each.minutes is not None}


def _resources(arguments: argparse.Namespace) -> Resources | None:
    """What each job asks of Slurm; None where the runs stay on this machine. Raises UserError."""
    if arguments.cluster == "slurm":
        if arguments.gpus != 1:
            raise UserError("--gpus is of one machine. On Slurm give --slurm gpus_per_node=N nodes=M.")
        return resources(arguments.slurm)
    if arguments.slurm or arguments.wait:
        raise UserError("--slurm and --wait are of --cluster slurm. Give that too, or leave them out.")
    return None


def _on_slurm(to_do: Sequence[Run], asked: Resources, cost: str, *, wait: bool) -> bool:
    """Submit what no job is at; return whether all has ended."""
    from bench.slurm import submit

    jobs, live = submit.submit(to_do, asked)
    where = f"--results {to_do[0].results} --work-dir {to_do[0].work_dir}"
    sys.stderr.write(
        f"{len(to_do) - live} runs submitted (Slurm jobs {', '.join(jobs) or 'none'}); {live} queued or at work "
        f"already. python -m bench.status --watch {where} shows them, python -m bench.cancel calls them off.\n{cost}"
    )
    return wait and submit.wait(to_do)


def _request(arguments: argparse.Namespace) -> Request:
    """Check what argparse cannot; raises UserError."""
    if arguments.suite and (arguments.backbone or arguments.task or arguments.protocol):
        raise UserError(
            "--suite says itself which backbones, tasks and protocols. Leave --backbone, --task and --protocol out, or "
            "copy its file, change it there, and give its path."
        )
    if not arguments.suite and (not arguments.backbone or not arguments.task):
        missing = "--backbone" if not arguments.backbone else "--task"
        raise UserError(
            f"{missing} is missing. Give at least one backbone and one task, for example: "
            "python -m bench.run --backbone vit_tiny_patch16_224 --task classification"
        )
    if arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds}: at least 1 seed is needed.")
    asked = _resources(arguments)
    launch.check(arguments.cluster, arguments.gpus, arguments.jobs)
    root = arguments.data_root or (os.environ.get("BENCH_DATA") and Path(os.environ["BENCH_DATA"]))
    if root and not root.is_dir():
        raise UserError(f"The data root {root} is no folder. Give the folder that holds the data sets.")
    return Request(
        backbones=tuple(arguments.backbone),
        tasks=tuple(arguments.task),
        protocol=arguments.protocol,
        seeds=arguments.seeds,
        smoke=arguments.smoke,
        gpus=asked.world_size if asked else arguments.gpus,
        allow_partial=tuple(arguments.allow_partial),
        data_root=root or None,
        results=arguments.results,
        work_dir=arguments.work_dir,
        include=tuple(arguments.include),
        keep_weights=arguments.keep_weights,
    )


def _listing(kind: str, entries: plan.Entries) -> str:
    if kind not in LISTS:
        raise unknown("list", kind, LISTS)
    if kind == "backbones":
        return "".join(f"{n}\n" for n in [*entries.backbones, *sorted(architectures())])
    known = [t for family in tasks.family_names() for t in tasks.tasks_of(family).values()]
    known += entries.tasks.values()
    if kind == "tasks":
        return "".join(
            f"{t.name:32} {t.metrics[0].name:10} {t.dataset.source}"
            f"{' Baselines: ' * bool(t.baselines)}{', '.join(t.baselines)}\n"
            for t in known
        ) + "".join(f"{name:32} {g.about}\n" for name, g in tasks.groups().items())
    return "".join(
        f"{t.name:32} {p.name:20} {p.source} Published: {p.expected}. Command: {p.command or 'none'}\n"
        for t in known
        for p in t.protocols
    )


def _describe(planned: Sequence[Planned], hours: dict[RunKey, float]) -> str:
    """The plan: a line a run, then the counts and the cost of what is left."""
    return "".join(f"{p.state:8} {p.run}\n" for p in planned) + _cost(planned, hours)


def _cost(planned: Sequence[Planned], hours: dict[RunKey, float]) -> str:
    """How much is done, and what the rest will cost, as earlier records of the same digests have it."""
    left = [p.run for p in planned if p.state != "done"]
    known = [hours[run.key] for run in left if run.key in hours]
    cost = f"about {sum(known):.2f} device-hours"
    if unknown_cost := len(left) - len(known):
        cost += f" and {unknown_cost} run(s) of unknown cost (no record of their digest yet)"
    return f"{len(planned) - len(left)} of {len(planned)} done; to do: {cost}\n"


def _report(planned: Sequence[Planned], problems: dict[RunKey, str], store: Store) -> int:
    """Print a row and the record's path for each run; return the exit status."""
    for p in planned:
        path = store.root / p.run.key.path
        sys.stdout.write(f"{_row(p.run, p.record)}  {path if p.record else ''}\n")
        if p.run.key in problems:
            sys.stderr.write(f"{p.run}: {problems[p.run.key]}\n")
    failed = [p for p in planned if p.state != "done"]
    sys.stdout.write(f"{len(planned) - len(failed)} of {len(planned)} done\n")
    return FAILED if failed else DONE


def _row(run: Run, record: Result | None) -> str:
    if record is None:
        return f"{run!s:70} not done"
    if record.status == "failed":
        return f"{run!s:70} failed: {record.error}"
    minutes = record.cost["device_hours"] * 60
    return f"{run!s:70} {record.primary} {record.metrics[record.primary]:6.2f}  {minutes:5.1f} min"


# What `python -m bench.run` can be told.

LISTS = ("backbones", "tasks", "protocols")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options; argparse ends the process where one is not known."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Evaluate backbones on tasks and keep one JSON record per number.",
        epilog="Exit status: 0 all in the store (or submitted), 1 a run failed (its record says why), 2 wrong request.",
    )
    _what(parser.add_argument_group("what to evaluate").add_argument)
    _where(parser.add_argument_group("where its files are").add_argument)
    _how(parser.add_argument_group("how to run it").add_argument)
    return parser.parse_args(argv)


def _what(add: Callable[..., object]) -> None:
    add("--backbone", nargs="+", default=[], metavar="NAME", help="timm arch[.tag], arch@FILE, FILE")
    add("--task", nargs="+", default=[], metavar="TASK", help="family/dataset, family, or all")
    add("--watch", type=Path, metavar="DIR", help="the weights of a pretraining, as they appear")
    add("--suite", metavar="NAME|FILE.toml", help="pretrain and evaluate all that a suite names")
    add("--protocol", help="finetune, frozen, ... (default: the task's first); NAME-drop2: without the last two blocks")
    add("--seeds", type=int, default=1, metavar="N", help="seeds 0...N-1 (default 1)")
    add(
        "--allow-partial",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="keys of weights files (blocks.11.*) that may be missing, left over or misshapen",
    )
    add("--include", type=Path, action="append", default=[], metavar="FILE.py", help="own entries")
    add("--list", metavar="|".join(LISTS), help="print the known names")


def _where(add: Callable[..., object]) -> None:
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="the store of records")
    add("--work-dir", type=Path, default=Path("runs"), metavar="DIR", help="logs and checkpoints")
    add("--data-root", type=Path, metavar="DIR", help="real data sets (default $BENCH_DATA)")
    add("--keep-weights", action="store_true", help="leave fine-tuned backbones in --work-dir")


def _how(add: Callable[..., object]) -> None:
    add("--dry-run", action="store_true", help="print the plan and its cost, run nothing")
    add("--smoke", action="store_true", help="a few images, one epoch: does it run at all?")
    add("--gpus", type=int, default=1, metavar="N", help="GPUs that share each run (default 1)")
    add("--cluster", default="inline", help=f"{', '.join(launch.CLUSTERS)} (default inline)")
    add("--jobs", type=int, default=1, metavar="N", help="local, no GPU: N runs at once (default 1)")
    add(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="a job's request (partition=main time=2:00:00 gpus_per_node=8 nodes=2), over the site's file",
    )
    add("--wait", action="store_true", help="on Slurm: show the runs until all have ended")


if __name__ == "__main__":
    sys.exit(main())

"""Evaluate backbones on tasks: names -> runs -> records.

python -m bench.run --backbone vit_tiny_patch16_224 --task classification segmentation
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import check_writable
from bench.records import Result, RunKey, Store
from bench.runs import launch, plan, suite
from bench.runs.listing import KINDS, listing
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
        sys.stderr.write("\nInterrupted. Finished runs are in the store; the same command resumes from there.\n")
        return INTERRUPTED


def _watched(arguments: argparse.Namespace) -> int:
    """Evaluate each weights file of a folder once, until the pretraining's last file."""
    from bench.runs import watch

    if arguments.backbone or arguments.suite:
        raise UserError("--watch DIR selects the backbones. Leave --backbone and --suite out.")
    given = {name: value for name, value in vars(arguments).items() if name != "watch"}

    def evaluate(files: list[str]) -> int:
        return _main(argparse.Namespace(**{**given, "backbone": files}))

    return watch.follow(arguments.watch, evaluate)


def _main(arguments: argparse.Namespace) -> int:
    if arguments.list is not None:
        sys.stdout.write(listing(arguments.list, plan.include(arguments.include), arguments.task))
        return DONE
    request = _request(arguments)
    store = Store(request.results)
    launch.share_cores(arguments.jobs)
    unmade: list[Pretraining] = []
    stated: dict[RunKey, float] = {}  # hours
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
            sys.stdout.write(f"Slurm, one job per run: {asked} (site file: {site_file()})\n")
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
    """Print a suite's cost and pretrain or submit its backbones; return its runs, and the backbones still missing."""
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
    if unmade:
        unmade, listed = suite.listed(wanted, request)
    if unmade and where:
        sys.stderr.write(f"{len(unmade)} backbones do not exist yet. Run the same command again when they do.\n")
    return listed, unmade


def _hours(listed: Sequence[Listed]) -> dict[RunKey, float]:
    return {each.run.key: each.minutes / 60 for each in listed if each.minutes is not None}


def _resources(arguments: argparse.Namespace) -> Resources | None:
    """Return what each job requests from Slurm, or None for local runs; raises UserError."""
    if arguments.cluster == "slurm":
        if arguments.gpus != 1:
            raise UserError("--gpus applies to local runs only. On Slurm give --slurm gpus_per_node=N nodes=M.")
        return resources(arguments.slurm)
    if arguments.slurm or arguments.wait:
        raise UserError("--slurm and --wait need --cluster slurm. Give that too, or leave them out.")
    return None


def _on_slurm(to_do: Sequence[Run], asked: Resources, cost: str, *, wait: bool) -> bool:
    """Submit the runs that have no job; return whether all have ended."""
    from bench.slurm import submit

    jobs, live = submit.submit(to_do, asked)
    where = f"--results {to_do[0].results} --work-dir {to_do[0].work_dir}"
    sys.stderr.write(
        f"{len(to_do) - live} runs submitted (Slurm jobs {', '.join(jobs) or 'none'}); {live} queued or running "
        f"already. python -m bench.status --watch {where} shows them, python -m bench.cancel cancels them.\n{cost}"
    )
    return wait and submit.wait(to_do)


def _request(arguments: argparse.Namespace) -> Request:
    """Check what argparse cannot; raises UserError."""
    if arguments.suite and (arguments.backbone or arguments.task or arguments.protocol):
        raise UserError(
            "--suite selects the backbones, tasks and protocols. Leave --backbone, --task and --protocol out, or copy "
            "its file, change the copy, and give its path."
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
        raise UserError(f"The data root {root} is not a folder. Give the folder that contains the data sets.")
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


def _describe(planned: Sequence[Planned], hours: dict[RunKey, float]) -> str:
    """Return the plan: one line per run, then the counts and the remaining cost."""
    return "".join(f"{p.state:8} {p.run}\n" for p in planned) + _cost(planned, hours)


def _cost(planned: Sequence[Planned], hours: dict[RunKey, float]) -> str:
    """Return how many runs are done, and the cost of the others, estimated from records of the same digests."""
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse ends the process at an unknown option."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Evaluate backbones on tasks and write one JSON record per number.",
        epilog="Exit status: 0 all records are in the store (or the jobs submitted), 1 a run failed (its record has "
        "the reason), 2 wrong request, 130 interrupted.",
    )
    _add_what(parser.add_argument_group("what to evaluate").add_argument)
    _add_where(parser.add_argument_group("where its files are").add_argument)
    _add_how(parser.add_argument_group("how to run it").add_argument)
    return parser.parse_args(argv)


def _add_what(add: Callable[..., object]) -> None:
    several: dict[str, Any] = {"nargs": "+", "default": []}
    add(
        "--backbone",
        **several,
        metavar="NAME",
        help="Evaluate these: a timm name (arch or arch.tag), arch@FILE or FILE.",
    )
    add("--task", **several, metavar="TASK", help="On these tasks: family/dataset, a family, a group, or all.")
    add(
        "--watch", type=Path, metavar="DIR", help="Evaluate the weights of a running pretraining as they appear in DIR."
    )
    add("--suite", metavar="NAME|FILE.toml", help="Pretrain and evaluate everything that a suite file lists.")
    add(
        "--protocol",
        metavar="NAME",
        help="Use this protocol, such as finetune or frozen (default: the task's first); NAME-drop2 leaves out the "
        "backbone's last two blocks.",
    )
    add("--seeds", type=int, default=1, metavar="N", help="Repeat each run with the seeds 0 to N-1 (default: 1).")
    add(
        "--allow-partial",
        **several,
        metavar="PATTERN",
        help="Accept missing, unused or misshapen weights whose keys match, such as blocks.11.* (default: none).",
    )
    add(
        "--include",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="Add the BACKBONES and TASKS of this file; may be repeated (default: none).",
    )
    add("--list", metavar="|".join(KINDS), help="Print the known names, and run nothing.")


def _add_where(add: Callable[..., object]) -> None:
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="Write the records here (default: results).",
    )
    add(
        "--work-dir",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="Write logs and checkpoints here (default: runs).",
    )
    add("--data-root", type=Path, metavar="DIR", help="Read real data sets from here (default: $BENCH_DATA).")
    add("--keep-weights", action="store_true", help="Save fine-tuned backbones in --work-dir (default: no).")


def _add_how(add: Callable[..., object]) -> None:
    add("--dry-run", action="store_true", help="Print the plan and its cost, and run nothing.")
    add("--smoke", action="store_true", help="Use a few images and one epoch, to check that it runs.")
    add("--gpus", type=int, default=1, metavar="N", help="Share each local run between N GPUs (default: 1).")
    add(
        "--cluster",
        default="inline",
        metavar="|".join(launch.CLUSTERS),
        help="Run one after the other (inline), in parallel here (local) or as Slurm jobs (default: inline).",
    )
    add(
        "--jobs", type=int, default=1, metavar="N", help="With --cluster local and no GPU: N runs at once (default: 1)."
    )
    add(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="Request this for each Slurm job, such as partition=main time=2:00:00 gpus_per_node=8 nodes=2 (default: "
        "the site's file).",
    )
    add("--wait", action="store_true", help="With --cluster slurm: show the runs until all have ended (default: no).")


if __name__ == "__main__":
    sys.exit(main())

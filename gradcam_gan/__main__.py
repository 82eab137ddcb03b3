"""The command line: ``gradcam-gan train width=32 seed=1``, or ``python -m gradcam_gan``; the Snakefile calls it too."""

import argparse
import errno
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from gradcam_gan.errors import GradcamGanError, InputError
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.validation import choose


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn an error that a user can act on into one line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="gradcam-gan", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="get or train one run")
    evaluate = commands.add_parser(
        "evaluate", help="get or train one run, and score its generators, with and without a veil"
    )
    for command in (train, evaluate):
        command.add_argument(
            "fields", nargs="*", metavar="FIELD=VALUE", help="of TrainingConfig, such as width=32"
        )
        command.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    evaluate.add_argument("--images", type=int, default=1000, help="of each generator; default: 1000")
    evaluate.add_argument(
        "--reference", type=int, nargs=2, metavar=("FROM", "BEFORE"), help="held-out images; default: all"
    )

    measure = commands.add_parser("measure", help="get or make the tables of one of a study's networks")
    measure.add_argument("seed", type=int, help="whose")
    measure.add_argument("--folder", type=Path, help="of figures; default: figures/PROFILE")

    prune = commands.add_parser("prune", help="get or train one arm of the pruning experiment, and score it")
    prune.add_argument("arm", help="its name, as the workflow calls it")

    assess = commands.add_parser("assess", help="get or make the comparison of explanations of one network")
    assess.add_argument("seed", type=int, help="whose")

    earlier = commands.add_parser("earlier", help="get or make the earlier work's experiments of one seed")
    earlier.add_argument("seed", type=int, help="one of earlier.seeds")

    notebook = commands.add_parser("notebook", help="execute one notebook under a profile")
    notebook.add_argument("notebook", type=Path)
    notebook.add_argument("output", type=Path, help="where the executed copy goes")
    notebook.add_argument("--folder", type=Path, help="where its figures go; default: figures/PROFILE")

    figures = commands.add_parser(
        "figures", help="run the workflow: every figure of a profile, or one notebook's"
    )
    figures.add_argument("--only", help="one notebook, such as 02")
    figures.add_argument("--folder", type=Path, help="where the figures go; default: figures/PROFILE")
    figures.add_argument("--complete", action="store_true", help="only of networks that are trained")
    figures.add_argument("--cores", type=int, help="default: all")
    figures.add_argument("--snakemake", default="", help="more arguments for Snakemake, in one text")

    for command in (measure, prune, assess, earlier, notebook, figures):
        command.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="changes to the profile")
        command.add_argument(
            "--profile", default="quick", help="smoke, quick, study or paper; default: quick"
        )

    publish = commands.add_parser(
        "publish", help="keep outputs in the notebooks, numbers in the ledger and the README"
    )
    publish.add_argument("--profile", default="quick", help="quick or study; default: quick")

    verify = commands.add_parser(
        "verify", help="make published results again, and compare them value by value"
    )
    verify.add_argument("--profile", default="quick", help="quick or study; default: quick")
    verify.add_argument("--again", type=Path, help="a folder where they have been made again already")
    verify.add_argument("--train", action="store_true", help="train the study's networks anew, too")
    verify.add_argument("--cores", type=int, help="default: all")

    report = commands.add_parser("report", help="render all notebooks to one static site")
    report.add_argument("--profile", help="whose executed notebooks; default: the published ones")
    report.add_argument("--folder", type=Path, help="where the site goes; default: runs/report")

    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        if result := _run(options):
            print(result)  # noqa: T201 - the command's result
    except GradcamGanError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: the disk is full; the same command goes on from what is there", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _run(options: argparse.Namespace) -> str:
    """Run one command; what it has to say."""
    # each imports what it needs: a mistyped option does not wait for torch
    if options.command in ("train", "evaluate"):
        config = TrainingConfig(**_assignments(options.fields))
        if options.command == "evaluate":
            return _evaluate(config, options.runs_dir, options.images, options.reference)
        from gradcam_gan.training.loop import train

        return str(train(config, options.runs_dir).path)
    paths.check_checkout()
    if options.command == "publish":
        from gradcam_gan.studies.workflow import publish

        publish(Study.load(options.profile))
        return ""
    if options.command == "verify":
        from gradcam_gan.studies.verify import report

        return report(options.profile, options.again, options.cores, train=options.train)
    if options.command == "report":
        from gradcam_gan.studies.report.site import build

        return str(build(options.profile, options.folder))
    changes = _assignments(options.parameters)
    if options.command in ("measure", "assess"):
        study = Study.load(options.profile, **changes)
        choose("seed", str(options.seed), map(str, study.seeds))
        if options.command == "measure":
            from gradcam_gan.studies.epoch_heatmaps.tables import network_tables

            network_tables(study, options.seed, options.folder or study.figures_dir)
        else:
            from gradcam_gan.studies.which_explanation.tables import assessment

            assessment(study, options.seed)
        return ""
    if options.command == "earlier":
        from gradcam_gan.studies.earlier_experiments.tables import measured

        study = Study.load(options.profile, **changes)
        choose("seed", str(options.seed), map(str, study.earlier.seeds))
        measured(study, options.seed)
        return ""
    if options.command == "prune":
        return _prune(Study.load(options.profile, **changes), options.arm)
    from gradcam_gan.studies.workflow import make_figures, run_notebook

    if options.command == "notebook":
        run_notebook(options.notebook, options.output, options.profile, changes, options.folder)
    else:
        make_figures(
            options.profile,
            changes,
            only=options.only,
            folder=options.folder,
            complete=options.complete,
            cores=options.cores,
            arguments=shlex.split(options.snakemake),
        )
    return ""


def _evaluate(config: TrainingConfig, runs_dir: Path, images: int, held_out: list[int] | None) -> str:
    """Score every epoch of a run; the scores as a table."""
    from gradcam_gan.scoring.scores import evaluate_with_and_without_veil, reference_for
    from gradcam_gan.training.devices import resolve_device
    from gradcam_gan.training.loop import train

    part = (held_out[0], held_out[1]) if held_out else None
    reference = reference_for(config, runs_dir, resolve_device(config.device), part)
    scores = evaluate_with_and_without_veil(train(config, runs_dir), reference, count=images)
    return scores.to_string(index=False)


def _prune(study: Study, name: str) -> str:
    """Score an arm of the pruning experiment; the scores as a table."""
    from gradcam_gan.scoring.scores import reference_for
    from gradcam_gan.studies.prune_70.tables import evaluate_arm
    from gradcam_gan.training.devices import resolve_device

    arms = {arm.name: arm for arm in study.arms()}
    choose("arm", name, arms)
    device = resolve_device(study.device)
    reference = reference_for(arms[name].training, study.runs_dir, device, study.reference_images)
    return evaluate_arm(arms[name], study.runs_dir, reference, study.generated_images).to_string(index=False)


def _assignments(texts: list[str]) -> dict[str, Any]:
    """``["width=32", "seeds=[0, 1]"]`` -> values read as YAML."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is no NAME=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{text!r}: the value is no YAML, such as 32, [0, 1] or quick") from None
    return values


if __name__ == "__main__":
    sys.exit(main())

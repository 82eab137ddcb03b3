"""The command line: ``python -m gradcam_gan train width=32 seed=1`` and what the Snakefile calls."""

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from gradcam_gan.errors import GradcamGanError, InputError
from gradcam_gan.studies.study import Study
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.validation import choose


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, and turn an error that a user can act on into one line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gradcam_gan", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="get or train one run")
    train.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="of TrainingConfig, such as width=32")
    train.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")

    evaluate = commands.add_parser("evaluate", help="get or train one run, and score its generators")
    evaluate.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="of TrainingConfig")
    evaluate.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    evaluate.add_argument("--images", type=int, default=1000, help="of each generator; default: 1000")

    prune = commands.add_parser("prune", help="get or train one arm of the pruning experiment, and score it")
    prune.add_argument("arm", help="its name, as the workflow calls it")
    prune.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="changes to the profile")
    prune.add_argument("--profile", default="quick", help="smoke, quick, seeds or paper; default: quick")

    notebook = commands.add_parser("notebook", help="execute one notebook under a profile")
    notebook.add_argument("notebook", type=Path)
    notebook.add_argument("output", type=Path, help="where the executed copy goes")
    notebook.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="changes to the profile")
    notebook.add_argument("--profile", default="quick", help="smoke, quick, seeds or paper; default: quick")
    notebook.add_argument("--folder", type=Path, help="where its figures go; default: figures/PROFILE")

    figures = commands.add_parser(
        "figures", help="run the workflow: every figure of a profile, or one notebook's"
    )
    figures.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="changes to the profile")
    figures.add_argument("--profile", default="quick", help="smoke, quick, seeds or paper; default: quick")
    figures.add_argument("--only", help="one notebook, such as 02")
    figures.add_argument("--folder", type=Path, help="where the figures go; default: figures/PROFILE")
    figures.add_argument("--cores", type=int, help="default: all")
    figures.add_argument("--snakemake", default="", help="more arguments for Snakemake, in one text")

    publish = commands.add_parser(
        "publish", help="keep outputs in the notebooks (quick), or verdicts in the README (seeds)"
    )
    publish.add_argument("--profile", default="quick", help="quick or seeds; default: quick")

    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        if options.command == "train":
            from gradcam_gan.training.loop import train as get_or_train

            run = get_or_train(TrainingConfig(**_assignments(options.fields)), options.runs_dir)
            print(run.path)  # noqa: T201 - the command's result
        elif options.command == "evaluate":
            print(_evaluate(TrainingConfig(**_assignments(options.fields)), options.runs_dir, options.images))  # noqa: T201
        elif options.command == "prune":
            print(_prune(Study.load(options.profile, **_assignments(options.parameters)), options.arm))  # noqa: T201
        elif options.command == "publish":
            from gradcam_gan.studies.workflow import publish as keep_results

            keep_results(Study.load(options.profile))
        elif options.command == "figures":
            from gradcam_gan.studies.workflow import make_figures

            make_figures(
                options.profile,
                _assignments(options.parameters),
                only=options.only,
                folder=options.folder,
                cores=options.cores,
                arguments=shlex.split(options.snakemake),
            )
        else:
            from gradcam_gan.studies.workflow import run_notebook

            changes = _assignments(options.parameters)
            run_notebook(options.notebook, options.output, options.profile, changes, options.folder)
    except GradcamGanError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's result
        return 2
    return 0


def _evaluate(config: TrainingConfig, runs_dir: Path, images: int) -> str:
    """Score every epoch of a run; the scores as a table."""
    from gradcam_gan.scoring.scores import evaluate_run, reference_for
    from gradcam_gan.training.devices import resolve_device
    from gradcam_gan.training.loop import train

    reference = reference_for(config, runs_dir, resolve_device(config.device))
    return evaluate_run(train(config, runs_dir), reference, count=images).to_string(index=False)


def _prune(study: Study, name: str) -> str:
    """Score both matchings of an arm of the pruning experiment; the scores as a table."""
    from gradcam_gan.scoring.scores import reference_for
    from gradcam_gan.studies.prune_70 import evaluate_arm
    from gradcam_gan.training.devices import resolve_device

    arms = {arm.name: arm for arm in study.arms()}
    choose("arm", name, arms)
    device = resolve_device(study.device)
    reference = reference_for(arms[name].training, study.runs_dir, device)
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

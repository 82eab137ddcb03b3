# manifest of a notebook's figures <- notebook <- runs. `make figures PROFILE=quick`, or any Snakemake executor (profiles/).
#
# A training is found by its configuration: change a seed in params/ and only its run is new; change a plot and
# only the notebooks run again. A training that was killed goes on from its last epoch. Priorities bring Figure 1 first.

import json
from pathlib import Path

from gradcam_gan.errors import GradcamGanError
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.training.cost import core_seconds

# `--config profile=quick`; by `--configfile` changes to it ({"width": 32, "pruning.tau": 0.5}), another folder, and
# `complete`: the changes name what is trained already, and nothing else is to be
profile, changes, folder = config.get("profile", "quick"), config.get("changes", {}), config.get("folder")
try:
    study = Study.load(profile, **changes)
except GradcamGanError as error:
    raise SystemExit(f"error: {error}")
figures_dir = Path(folder) if folder else study.figures_dir.relative_to(paths.REPOSITORY)
notebooks = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]
LAST = "99_claims"  # draws the others together
# the experiment that a notebook is about, whose parameters matter to no other
experiments = {
    "03_prune_70": "pruning",
    "04_diffusion_gans": "comparison",
    "05_explain_dudgan": "comparison",
    "06_which_explanation": "quality",
    "07_side_information": "guidance",
    "08_earlier_experiments": "earlier",
}

literal = study.paper28_config()
singles = {run.name: run for run in [*study.configs(), literal]}
pairs = {run.name: run for run in study.pair_configs()}
configs = singles | pairs
arms = {arm.name: arm for arm in study.arms()}
scorers = {name: arm.scorer.name for name, arm in arms.items()}
# networks whose tables are not there yet, by seed; the first one's are made by the notebook that shows it, after Figure 1
unmeasured = [seed for seed in study.seeds[1:] if not study.has_tables(seed, Path(figures_dir))]


def fields(wildcards):
    """A training's configuration as FIELD=VALUE arguments."""
    values = configs[wildcards.run].model_dump(mode="json", exclude_defaults=True)
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def plain(run):
    """The mark of the training that a guided one shares its beginning with; none of a plain one."""
    return [f"runs/{profile}/{run.unguided.name}.scored"] if run.parts.guidance else []


def minutes(fixed, trainings):
    """A job's time limit: fixed minutes, and three times what its trainings should take; more with every attempt."""

    def limit(wildcards, attempt):
        return attempt * (fixed + round(sum(map(core_seconds, trainings(wildcards))) / 20))

    return limit


def concerning(values, notebook):
    """Of parameters, in sections or by dotted names, those that a notebook reads."""
    others = set(experiments.values()) - {experiments.get(notebook)}
    return {name: value for name, value in values.items() if name.split(".")[0] not in others}


def needed(notebook):
    """The marks of the jobs that a notebook reads the results of."""
    measured = [f"seed{seed}.measured" for seed in unmeasured]
    if notebook == LAST:
        return []
    if notebook.startswith("00"):
        return [f"{study.config(study.seeds[0]).name}.trained"]
    scored = [f"{run.name}.scored" for run in study.needed_pairs(notebook)]
    if notebook.startswith(("01", "02")):
        shown = [f"{study.config(study.seeds[0]).name}.trained", *measured]
        if notebook.startswith("01") or len(study.pairs.seeds) == 1:
            return shown  # Figure 1 does not wait for a single pair: notebook 2 trains it after the figure
        interim = config.get("complete") or len(study.seeds) < study.planned
        return [*shown, *scored, *([] if interim else [f"{literal.name}.trained"])]
    if notebook.startswith("06"):
        return [f"seed{seed}.assessed" for seed in study.seeds]
    if notebook.startswith("08"):
        return [f"seed{seed}.earlier" for seed in study.earlier.seeds]
    if notebook.startswith("03"):
        return [*(f"{arm}.scored" for arm in scorers), *scored, *measured]
    return scored


rule figures:
    default_target: True
    input:
        [f"runs/{profile}/notebooks/{notebook}.done" for notebook in notebooks],
        [figures_dir / f"{notebook}.json" for notebook in notebooks],


rule train:
    output:
        # the run itself is no output: Snakemake would delete a half-trained one
        touch(f"runs/{profile}/{{run}}.trained"),
    params:
        fields=fields,
        runs_dir=f"runs/{profile}",
    log:
        f"runs/{profile}/logs/{{run}}.log",
    priority: 20
    threads: study.threads or workflow.cores
    resources:
        mem_mb=4000,
        runtime=minutes(30, lambda wildcards: [configs[wildcards.run]]),
    shell:
        "python -m gradcam_gan train --runs-dir {params.runs_dir} {params.fields:q} > {log} 2>&1"


rule measure:
    # a network under every reading, in one stream
    input:
        lambda wildcards: f"runs/{profile}/{study.config(int(wildcards.seed)).name}.trained",
    output:
        touch(f"runs/{profile}/seed{{seed}}.measured"),
    params:
        profile=profile,
        folder=f"--folder {folder}" if folder else "",
        changes=[f"{name}={json.dumps(value)}" for name, value in concerning(changes, "02_epoch_heatmaps").items()],
    log:
        f"runs/{profile}/logs/seed{{seed}}.measured.log",
    priority: 15
    threads: study.threads or workflow.cores
    resources:
        mem_mb=4000,
        # less than its training took
        runtime=minutes(60, lambda wildcards: [study.config(int(wildcards.seed))]),
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan measure {wildcards.seed} {params.changes:q} --profile {params.profile}"
        " {params.folder} > {log} 2>&1"


rule assess:
    # a network under every explanation, and discriminators with a planted marker, which are trained here too
    input:
        lambda wildcards: f"runs/{profile}/{study.config(int(wildcards.seed)).name}.trained",
    output:
        touch(f"runs/{profile}/seed{{seed}}.assessed"),
    params:
        profile=profile,
        changes=[f"{name}={json.dumps(value)}" for name, value in concerning(changes, "06_which_explanation").items()],
        quality=study.quality.model_dump(mode="json"),
    log:
        f"runs/{profile}/logs/seed{{seed}}.assessed.log",
    priority: 5
    threads: study.threads or workflow.cores
    resources:
        mem_mb=8000,
        runtime=minutes(120, lambda wildcards: study.quality_configs(int(wildcards.seed))),
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan assess {wildcards.seed} {params.changes:q} --profile {params.profile}"
        " > {log} 2>&1"


rule earlier:
    # a regression network and classifiers of digits, which need no other training
    output:
        touch(f"runs/{profile}/seed{{seed}}.earlier"),
    params:
        profile=profile,
        changes=[f"{name}={json.dumps(value)}" for name, value in concerning(changes, "08_earlier_experiments").items()],
        experiment=[study.data, study.precision, study.earlier.model_dump(mode="json", exclude={"seeds"})],
    log:
        f"runs/{profile}/logs/seed{{seed}}.earlier.log",
    priority: 5
    threads: study.threads or workflow.cores
    resources:
        mem_mb=4000,
        runtime=120,
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan earlier {wildcards.seed} {params.changes:q} --profile {params.profile}"
        " > {log} 2>&1"


rule evaluate:
    # one of the pairs: trained here too, a guided one from where it leaves the plain training
    wildcard_constraints:
        run="|".join(pairs) or "none",
    input:
        lambda wildcards: plain(pairs[wildcards.run]),
    output:
        touch(f"runs/{profile}/{{run}}.scored"),
    params:
        fields=fields,
        runs_dir=f"runs/{profile}",
        images=study.generated_images,
        reference="--reference {} {}".format(*study.reference_images) if study.reference_images else "",
    log:
        f"runs/{profile}/logs/{{run}}.scores.log",
    priority: 5
    threads: study.threads or workflow.cores
    resources:
        mem_mb=8000,
        runtime=minutes(60, lambda wildcards: [pairs[wildcards.run]]),
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan evaluate --runs-dir {params.runs_dir} --images {params.images}"
        " {params.fields:q} {params.reference} > {log} 2>&1"


rule prune:
    # an arm of the pruning experiment is trained and scored here
    wildcard_constraints:
        arm="|".join(scorers) or "none",
    input:
        lambda wildcards: f"runs/{profile}/{scorers[wildcards.arm]}.trained",
    output:
        touch(f"runs/{profile}/{{arm}}.scored"),
    params:
        profile=profile,
        changes=[f"{name}={json.dumps(value)}" for name, value in concerning(changes, "03_prune_70").items()],
    log:
        f"runs/{profile}/logs/{{arm}}.scores.log",
    priority: 5
    threads: study.threads or workflow.cores
    resources:
        mem_mb=8000,
        runtime=minutes(60, lambda wildcards: [arms[wildcards.arm].training]),
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan prune {wildcards.arm} {params.changes:q} --profile {params.profile}"
        " > {log} 2>&1"


for _notebook in notebooks:

    rule:
        name:
            f"notebook_{_notebook}"
        input:
            notebook=f"notebooks/{_notebook}.ipynb",
            package=sorted(str(path.relative_to(paths.REPOSITORY)) for path in paths.REPOSITORY.glob("gradcam_gan/**/*.py")),
            runs=[f"runs/{profile}/{mark}" for mark in needed(_notebook)],
            others=[figures_dir / f"{other}.json" for other in notebooks if other != _notebook] if _notebook == LAST else [],
        output:
            # update: a notebook that fails leaves what it has made
            update(figures_dir / f"{_notebook}.json"),
            # a fresh clone has figures, but not from runs of this machine
            touch(f"runs/{profile}/notebooks/{_notebook}.done"),
        params:
            profile=profile,
            folder=f"--folder {folder}" if folder else "",
            changes=[f"{name}={json.dumps(value)}" for name, value in concerning(changes, _notebook).items()],
            study=concerning(study.model_dump(mode="json"), _notebook),
        log:
            f"runs/{profile}/logs/{_notebook}.log",
            # kept when the notebook fails
            notebook=f"runs/{profile}/notebooks/{_notebook}.ipynb",
        priority: {"02": 18, "01": 17}.get(_notebook[:2], 0)
        threads: study.threads or workflow.cores
        resources:
            mem_mb=8000,
            runtime=120,
        shell:
            # the same number of threads everywhere gives the same numbers everywhere
            "OMP_NUM_THREADS={threads} python -m gradcam_gan notebook {input.notebook} {log.notebook} {params.changes:q}"
            " --profile {params.profile} {params.folder} > {log[0]} 2>&1"

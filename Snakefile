# figure <- notebook <- runs. `make figures PROFILE=quick`, or any Snakemake executor (profiles/).
#
# A training is found by its configuration: change a seed in params/ and only its run is new; change a plot and
# only the notebooks run again. A training that was killed goes on from its last epoch.

import json

import yaml

from gradcam_gan.studies import paths
from gradcam_gan.errors import GradcamGanError
from gradcam_gan.studies.profile import Study

# what each notebook makes
FIGURES = {
    "01_train_dcgan": ["fig_training_curves", "fig_generator_samples"],
    "02_epoch_heatmaps": [
        "fig1_epoch_heatmaps",
        "fig1_reference_statistics",
        "fig_probes",
        "fig_map_change",
        "fig_focus_by_epoch",
        "fig_best_epoch",
        "fig_variants",
        "fig_off_digit",
        "fig_focus_and_quality",
    ],
    "03_prune_70": [
        "fig_rule_grid",
        "fig_deleted_images",
        "fig_deleted_classes",
        "fig_pruning_arms",
        "fig_pruning_dose",
    ],
    "04_diffusion_gans": [
        "fig_model_curves",
        "fig_diffused_input",
        "fig_model_samples",
        "fig_model_scores",
        "fig_model_progress",
        "fig_model_ablations",
    ],
    "05_explain_dudgan": [
        "fig_diffused_heatmaps_real",
        "fig_diffused_heatmaps_fake",
        "fig_d_beside_c",
        "fig_map_agreement",
        "fig_wrong_class",
        "fig_model_heatmaps",
        "fig_model_focus",
    ],
}
TABLES = {
    "02_epoch_heatmaps": ["table_claims"],
    "03_prune_70": ["table_pruning_results", "table_claims_pruning"],
    "04_diffusion_gans": ["table_model_results", "table_images_needed", "table_claims_models"],
    "05_explain_dudgan": ["table_map_measures"],
}

# `--config profile=quick width=32`: any other name is a change to params/<profile>.yaml
changes = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in config.items()}
try:
    study = Study.load(changes.pop("profile", "quick"), **changes)
except GradcamGanError as error:
    raise SystemExit(f"error: {error}")
runs = [run.name for run in study.configs()]
scored = [run.name for run in study.configs() if run.padding == "zeros"]
baselines = {arm.name: arm.baseline.name for arm in study.arms()}
models = [run.name for run in study.model_configs()]
configs = {run.name: run for run in [*study.configs(), *study.model_configs()]}


def fields(wildcards):
    """A training's configuration as FIELD=VALUE arguments."""
    values = configs[wildcards.run].model_dump(mode="json", exclude_defaults=True)
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def takes(notebook, parameter):
    """Whether a notebook has that parameter: pruning_* are notebook 3's alone, comparison_* those of 4 and 5."""
    return f'"{parameter} = ' in (paths.NOTEBOOKS / f"{notebook}.ipynb").read_text()


def needed(notebook):
    """The marks of the jobs that a notebook reads the results of."""
    if notebook.startswith("01"):
        return [f"{run}.trained" for run in runs]
    if notebook.startswith("02"):
        return [f"{run}.trained" for run in runs] + [f"{run}.scored" for run in scored]
    if notebook.startswith("03"):
        return [f"{run}.scored" for run in [*scored, *baselines]]
    return [f"{run.name}.scored" for run in study.compared_configs()]


def made_by(notebook):
    """The files that one notebook makes."""
    folder = f"figures/{study.profile}"
    figures = [f"{folder}/{name}.{suffix}" for name in FIGURES[notebook] for suffix in ("png", "pdf", "svg", "csv", "json")]
    return figures + [f"{folder}/{name}.{suffix}" for name in TABLES.get(notebook, []) for suffix in ("csv", "json")]


rule figures:
    default_target: True
    input:
        [path for notebook in FIGURES for path in made_by(notebook)],
        [f"runs/{study.profile}/notebooks/{notebook}.done" for notebook in FIGURES],


rule train:
    output:
        # the run itself is no output: Snakemake would delete a half-trained one
        touch(f"runs/{study.profile}/{{run}}.trained"),
    params:
        fields=fields,
        runs_dir=f"runs/{study.profile}",
    log:
        f"runs/{study.profile}/logs/{{run}}.log",
    threads: study.threads or workflow.cores
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "python -m gradcam_gan train --runs-dir {params.runs_dir} {params.fields:q} > {log} 2>&1"


rule evaluate:
    # a model is trained here
    wildcard_constraints:
        run="|".join(configs),
    input:
        lambda wildcards: (
            [] if wildcards.run in models else f"runs/{study.profile}/{wildcards.run}.trained"
        ),
    output:
        touch(f"runs/{study.profile}/{{run}}.scored"),
    params:
        fields=fields,
        runs_dir=f"runs/{study.profile}",
        images=study.generated_images,
    log:
        f"runs/{study.profile}/logs/{{run}}.scores.log",
    threads: study.threads or workflow.cores
    resources:
        mem_mb=8000,
        runtime=480,
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan evaluate --runs-dir {params.runs_dir} --images {params.images}"
        " {params.fields:q} > {log} 2>&1"


rule prune:
    # an arm of the pruning experiment is trained and scored here
    wildcard_constraints:
        arm="|".join(baselines) or "none",
    input:
        lambda wildcards: f"runs/{study.profile}/{baselines[wildcards.arm]}.trained",
    output:
        touch(f"runs/{study.profile}/{{arm}}.scored"),
    params:
        profile=study.profile,
        changes=[f"{name}={json.dumps(value)}" for name, value in changes.items()],
    log:
        f"runs/{study.profile}/logs/{{arm}}.scores.log",
    threads: study.threads or workflow.cores
    resources:
        mem_mb=8000,
        runtime=480,
    shell:
        "OMP_NUM_THREADS={threads} python -m gradcam_gan prune --profile {params.profile} {wildcards.arm} {params.changes:q}"
        " > {log} 2>&1"


for _notebook in FIGURES:

    rule:
        name:
            f"notebook_{_notebook}"
        input:
            notebook=f"notebooks/{_notebook}.ipynb",
            package=sorted(str(path.relative_to(paths.REPOSITORY)) for path in paths.REPOSITORY.glob("gradcam_gan/**/*.py")),
            runs=[f"runs/{study.profile}/{mark}" for mark in needed(_notebook)],
        output:
            # update: a notebook that fails leaves the figures of the last good run
            [update(path) for path in made_by(_notebook)],
            # a fresh clone has figures, but not from runs of this machine
            touch(f"runs/{study.profile}/notebooks/{_notebook}.done"),
        params:
            profile=study.profile,
            changes=[f"{name}={json.dumps(value)}" for name, value in changes.items() if takes(_notebook, name)],
            study=study.model_dump(mode="json"),
        log:
            # kept when the notebook fails
            notebook=f"runs/{study.profile}/notebooks/{_notebook}.ipynb",
        threads: study.threads or workflow.cores
        resources:
            mem_mb=8000,
            runtime=120,
        shell:
            # the same number of threads everywhere gives the same numbers everywhere
            "OMP_NUM_THREADS={threads} python -m gradcam_gan notebook {input.notebook} {log.notebook} {params.changes:q} --profile {params.profile}"

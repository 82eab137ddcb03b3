import re
import subprocess
import sys
from itertools import product
from typing import get_args

import pytest
import yaml
from helpers import refused

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.models.options import MODELS, Model
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import BASELINE_MODEL, PROFILE_VARIABLE, PROFILES, Explanation, Study

each_profile = pytest.mark.parametrize("profile", PROFILES)


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)


def names(values, section=""):
    """Dotted names of parameters."""
    found = set()
    for name, value in values.items():
        found |= names(value, f"{name}.") if isinstance(value, dict) else {section + name}
    return found


def test_every_parameter_stands_in_the_base_with_a_comment_and_a_profile_says_only_what_differs():
    text = (paths.PARAMS / "base.yaml").read_text()
    base = yaml.safe_load(text)
    assert names(base) == names(Study.load("quick").model_dump()) - {"profile"}
    for line in text.splitlines():
        # the regime of the pairs repeats names that the networks' own have explained
        if re.match(r"\w+: \S", line) and not line.startswith("batch_size"):
            assert "#" in line, line
    assert {path.stem for path in paths.PARAMS.glob("*.yaml")} == {*PROFILES, "base"}
    for profile in PROFILES:
        stored = yaml.safe_load((paths.PARAMS / f"{profile}.yaml").read_text()) or {}
        for name, value in stored.items():
            changed = (
                {key for key in value if value[key] != base[name][key]} if isinstance(value, dict) else {name}
            )
            assert changed == set(value) if isinstance(value, dict) else base[name] != value


@each_profile
def test_every_training_has_a_name_of_its_own_and_differs_as_it_should(profile):
    study = Study.load(profile)
    configs, compared, padded = study.configs(), study.compared_configs(), study.background_configs()
    assert (
        len({config.name for config in [*configs, *compared, *padded, study.paper28_config()]})
        == len({*configs, *compared, *padded}) + 1
    )
    assert [config.seed for config in configs] == study.seeds
    assert {config.padding for config in [*configs, *compared]} == {"zeros"}
    named = [BASELINE_MODEL, *study.comparison.models]
    assert [(config.model_name, config.seed) for config in compared] == [*product(named, study.pairs.seeds)]
    regime = study.pairs.model_dump(exclude={"seeds"})
    for config in [*compared, *padded]:
        assert config == study.config(config.seed).changed(
            **regime, padding=config.padding, model=config.model
        )
    assert padded == [config.changed(padding="background") for config in compared[: len(padded)]]
    assert study.paper28_config() == configs[0].changed(preset="paper28", size=28)
    planted = [config for seed in study.seeds for config in study.planted_configs(seed)]
    assert (
        len({config.name for config in planted}) == len(planted) == len({config.seed for config in planted})
    )
    assert len({arm.name for arm in study.arms()}) == len(study.arms())
    for arm in study.arms():
        assert (arm.training, arm.scorer) == (study.pair_config(arm.seed), study.config(arm.seed))
        assert arm.pruning.tau == study.pruning.tau


def test_changes_reach_a_section_whole_or_by_dotted_name():
    by_name = Study.load("smoke", **{"pruning.tau": 0.5, "width": 8})
    assert by_name == Study.load("smoke", pruning={"tau": 0.5}, width=8)
    assert by_name.changes() == {"pruning.tau": 0.5, "width": 8}
    assert by_name.pruning.epoch == Study.load("smoke").pruning.epoch


def test_of_a_notebook_none_means_as_the_profile_says(monkeypatch):
    study = Study.of_notebook("smoke", {"pruning.tau": 0.5}, width=None, epochs=4)
    assert study.changes() == {"pruning.tau": 0.5, "epochs": 4}
    monkeypatch.setenv(PROFILE_VARIABLE, "smoke")
    assert Study.of_notebook("paper", {"width": 3}, seeds=[5]) == Study.load("smoke")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"widht": 3}, "'widht' is not a field; did you mean 'width'?"),
        ({"pruning.tua": 1}, "pruning: 'tua' is not a field; did you mean 'tau'?"),
        ({"pruning.tau": 2.0}, "tau=2.0"),
        ({"pruning": 3}, "pruning=3"),
        ({"width": 0}, "width=0"),
        ({"seeds": [1, 1]}, "seeds=[1, 1]"),
        ({"pairs.seeds": [9]}, "pairs.seeds=[9] must be among seeds=[0, 1]"),
        ({"pairs.seeds": [0, 0]}, "pairs.seeds=[0, 0] names one of them twice"),
        ({"pairs.epochs": 0}, "pairs: epochs=0"),
        ({"pruning.epoch": 4}, "pruning.epoch=4 must lie in 0..epochs=3"),
        ({"pruning.layer": "conv9"}, "pruning: layer='conv9'"),
        ({"pruning.doses": [0.2, 0.2]}, "pruning.doses=[0.2, 0.2] names one of them twice"),
        ({"reference_images": [9, 9]}, "reference_images=(9, 9) must ascend"),
        ({"figure_epochs": [2, 1]}, "figure_epochs=[2, 1] must ascend"),
        ({"figure_epochs": [1, 9]}, "must lie in 0..epochs=3"),
        ({"comparison.models": ["dudgn"]}, "models='dudgn' is unknown; did you mean 'dudgan'?"),
        ({"comparison.models": ["dcgan"]}, "dcgan is always compared"),
        ({"comparison.times": [0.5, 0]}, "must ascend within 0..1"),
        ({"quality.methods": ["gradcan"]}, "quality: methods.0='gradcan'"),
        ({"quality.methods": ["lime", "lime"]}, "quality.methods=['lime', 'lime'] names one of them twice"),
        ({"quality.epochs": [4]}, "quality.epochs=[4] must lie in 0..epochs=3"),
        ({"quality.images": 1}, "quality: images=1"),
        ({"quality.repeated_images": 5}, "quality.repeated_images=5 must be at most quality.images"),
        ({"quality.retrained_shares": [1.0]}, "quality.retrained_shares=[1.0] must lie between 0 and 1"),
        ({"quality.retrained_images": 32}, "32 images of either kind, fewer than batch_size=64"),
        ({"quality.retrained_width": 0}, "retrained_width=0"),
        ({"guidance.alpha": -1}, "guidance: alpha=-1.0"),
        ({"guidance.source": "lime"}, "guidance: source='lime'"),
        ({"guidance.start": 1}, "start=1.0"),
        ({"guidance.other_alphas": [0.2, 1]}, "guidance: other_alphas=[0.2, 1.0] has alpha itself"),
        ({"guidance.models": ["dcgann"]}, "models='dcgann' is unknown; did you mean 'dcgan'?"),
        ({"earlier.seeds": [1, 1]}, "earlier.seeds=[1, 1] names one of them twice"),
        ({"earlier.seeds": [-1]}, "earlier: seeds.0=-1"),
        ({"earlier.few_images": 32}, "earlier: few_images=32"),
        ({"earlier.few_images": 128}, "few_images=128 must be fewer than many_images=128"),
        ({"earlier.weight": 0}, "earlier: weight=0"),
        ({"profile": "quick"}, "profile is given twice"),
    ],
)
def test_bad_values_are_one_line(changes, part):
    assert part in refused(lambda: Study.load("smoke", **changes))


def test_an_unknown_profile_is_one_line():
    assert "profile='qick' is unknown; did you mean 'quick'?" in refused(Study.load, "qick")


def test_explanations_are_the_methods_that_there_are():
    assert list(get_args(Explanation)) == list(METHODS)


def test_a_study_needs_no_torch():
    code = "import sys; from gradcam_gan import Study; Study.load('smoke').arms(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_guided_arm_differs_from_the_first_in_what_its_name_says_and_plain_ones_are_the_models():
    study = Study.load(
        "smoke",
        **{
            "guidance.models": ["dcgan", "conditional-dcgan"],
            "guidance.controls": ["shuffled"],
            "guidance.other_sources": ["hirescam"],
            "guidance.other_alphas": [5],
            "guidance.other_starts": [0],
        },
    )
    arms = {arm: one.model for arm, (one,) in study.guided_configs().items()}
    own = arms["dcgan guided"].guidance
    changes = {
        "dcgan shuffled": {"control": "shuffled"},
        "dcgan hirescam": {"source": "hirescam"},
        "dcgan alpha 5": {"alpha": 5.0},
        "dcgan start 0": {"start": 0.0},
    }
    for arm, change in changes.items():
        assert arms[arm].guidance == own.model_copy(update=change)
    plain = {name: MODELS[name].model for name in ("dcgan", "conditional-dcgan")}
    assert {name: arms[name] for name in plain} == plain
    assert arms["conditional-dcgan guided"] == Model(guidance=own)
    assert len(arms) == len(changes) + 4


@pytest.mark.parametrize(
    "content",
    [
        b"width 16",
        b"width: [16",
        "width: 16".encode("utf-16"),
        b"width: \xff",
        b"[" * 50_000,
        b"16: width",
        b"- width",
    ],
)
def test_a_file_that_holds_no_parameters_is_named(tmp_path, monkeypatch, content):
    for path in paths.PARAMS.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "smoke.yaml").write_bytes(content)
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    assert f"{tmp_path / 'smoke.yaml'} holds no parameters" in refused(Study.load, "smoke")

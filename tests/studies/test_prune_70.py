import math

import numpy as np
import pandas as pd
import pytest
import torch

from gradcam_gan.data import ImageSet
from gradcam_gan.errors import InputError
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.scoring.scores import evaluate, reference_for
from gradcam_gan.studies import arms, paths, pruning
from gradcam_gan.studies.arms import (
    BASELINE,
    MATCHINGS,
    METRICS,
    Pruning,
    deleted_by_class,
    describe_idle,
    describe_ink,
    differences,
    evaluate_arm,
    evaluate_baseline,
    idle_reason,
    matched_epoch,
    run_experiment,
    shown_arm,
)
from gradcam_gan.studies.pruning import Selection
from gradcam_gan.studies.study import PROFILES, Study
from gradcam_gan.training import loop
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import load_run

IMAGES, BATCH, COUNT = 128, 32, 32
COLUMNS = ["arm", "kind", "matching", "metric", "deleted", "estimate", "low", "high", "n", "effect"]


def tiny_study(**changes):
    """Networks of a second each; no map comes near the normalisation, so the rule deletes nothing."""
    values = {
        "width": 2,
        "train_images": IMAGES,
        "batch_size": BATCH,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "epochs": 3,
        "seeds": [0, 1],
        "background_seeds": [],
        "probe_images": 10,
        "reference_images": 32,
        "generated_images": COUNT,
        "pruning_seeds": [1],
        "pruning_epochs": 2,
        "pruning_epoch": 2,
        "pruning_arms": ["rule70", "random"],
        "pruning_dose_arms": ["dose", "random"],
        "pruning_doses": [0.4],
        "pruning_normalisation": 1e6,
    }
    return Study.load("smoke", **{**values, **changes})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield tiny_study()


@pytest.fixture(scope="module")
def reference(study):
    return reference_for(study.config(1), study.runs_dir)


@pytest.fixture(scope="module")
def baseline(study):
    return train(study.config(1), study.runs_dir)


@pytest.fixture(scope="module")
def dose(study, reference, baseline):
    """The configuration of an arm that deletes 51 of 128 images, and its rows."""
    config = study.arm_configs()[2]
    return config, evaluate_arm(config, study.runs_dir, reference, COUNT)


def deleting(config, share):
    return config.changed(pruning=Pruning(**{**dict(config.pruning), "arm": "dose", "share": share}))


def chosen(kept, of):
    return Selection(np.arange(of) < kept, np.zeros(of), 1)


class TestIdleReason:
    @pytest.mark.parametrize(
        ("kept", "of", "reason"),
        [
            (100, 100, "deletes nothing"),
            (99, 100, ""),
            (33, 100, ""),
            (32, 100, ""),  # exactly a batch can be trained
            (31, 100, "leaves less than a batch"),
            (0, 100, "leaves less than a batch"),
        ],
    )
    def test_names_what_cannot_or_need_not_be_trained(self, kept, of, reason):
        assert idle_reason(chosen(kept, of), 32) == reason


class TestMatchedEpoch:
    @pytest.mark.parametrize(
        ("epochs", "kept", "of", "expected"),
        [
            (25, 80, 100, 20),
            (25, 60, 100, 15),
            (16, 1, 4, 4),
            (25, 99, 100, 25),  # 24.75
            (25, 97, 100, 24),  # 24.25
            (3, 1, 2, 2),  # 1.5
            (2, 77, 128, 1),  # 1.2
        ],
    )
    def test_is_the_kept_share_of_the_epochs(self, epochs, kept, of, expected):
        """After E epochs of the baseline's length, an arm with a share s has passed E / s times over its images."""
        assert matched_epoch(epochs, chosen(kept, of)) == expected

    @pytest.mark.parametrize(("epochs", "kept"), [(1, 1), (1, 49), (2, 20), (25, 1)])
    def test_is_never_the_untrained_epoch(self, epochs, kept):
        assert matched_epoch(epochs, chosen(kept, 100)) == 1


class TestEvaluateBaseline:
    def test_has_the_same_scores_at_both_matchings(self, baseline, reference):
        table = evaluate_baseline(baseline, 2, reference, COUNT)
        assert table["matching"].tolist() == list(MATCHINGS)
        assert table["epoch"].tolist() == [2, 2]
        first, second = table.drop(columns="matching").to_dict("records")
        assert first == second
        expected = evaluate(baseline.generator(2), reference, count=COUNT)
        assert {name: first[name] for name in expected} == pytest.approx(expected, rel=1e-4)

    def test_its_rows_join_those_of_an_arm(self, baseline, reference, dose):
        table = evaluate_baseline(baseline, 1, reference, COUNT)
        assert set(table) == set(dose[1])
        keys = table[["arm", "kind", "seed", "deleted", "idle"]].drop_duplicates()
        assert keys.to_numpy().tolist() == [[BASELINE, BASELINE, 1, 0.0, ""]]


class TestEvaluateArm:
    def test_has_a_row_per_matching_with_its_epoch(self, dose):
        config, table = dose
        assert table["matching"].tolist() == list(MATCHINGS) == ["iterations", "epochs"]
        assert table["epoch"].tolist() == [2, 1]  # 77 of 128 images are kept
        assert set(table["arm"]) == {"dose 40 %"}
        assert set(table["kind"]) == {"dose"}
        assert set(table["seed"]) == {1}
        assert set(table["idle"]) == {""}
        assert config.pruning.share == 0.4

    def test_deleted_is_the_share_of_the_images_that_went(self, dose, study):
        config, table = dose
        assert table["deleted"].tolist() == [51 / 128] * 2
        assert load_run(study.runs_dir / config.name).manifest["train_images"] == 77

    def test_has_the_scores_of_the_arms_generator_at_these_epochs(self, dose, study, reference):
        config, table = dose
        run = load_run(study.runs_dir / config.name)
        for row in table.to_dict("records"):
            generator = run.generator(row["epoch"])
            expected = evaluate(generator, reference, count=COUNT)
            assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        assert table["fid"].nunique() == 2

    def test_trains_on_exactly_one_batch(self, dose, study, reference):
        """A share that keeps 32 images; a second pass over them is a second iteration."""
        config = deleting(dose[0], 0.75)
        table = evaluate_arm(config, study.runs_dir, reference, COUNT)
        assert table["idle"].tolist() == ["", ""]
        assert table["deleted"].tolist() == [0.75] * 2
        assert table["epoch"].tolist() == [2, 1]
        assert load_run(study.runs_dir / config.name).manifest["train_images"] == 32

    @pytest.mark.parametrize(
        ("share", "reason", "deleted"),
        [(None, "deletes nothing", 0.0), (97 / 128, "leaves less than a batch", 97 / 128)],
    )
    def test_an_idle_arm_has_rows_without_scores_and_is_not_trained(
        self, dose, study, reference, share, reason, deleted
    ):
        config = study.arm_configs()[0] if share is None else deleting(dose[0], share)
        table = evaluate_arm(config, study.runs_dir, reference, COUNT)
        assert table["matching"].tolist() == list(MATCHINGS)
        assert table["idle"].tolist() == [reason] * 2
        assert table["deleted"].tolist() == [deleted] * 2
        assert set(table["arm"]) == {config.pruning.label}
        assert not set(table) & {*METRICS, "epoch"}
        assert not (study.runs_dir / config.name / "checkpoints").exists()

    def test_training_refuses_the_arm_that_leaves_less_than_a_batch(self, dose, study):
        with pytest.raises(InputError, match="leaves 31 of 128 training images"):
            train(deleting(dose[0], 97 / 128), study.runs_dir)

    def test_refuses_a_training_without_pruning(self, study, reference):
        with pytest.raises(InputError, match="no pruning, so nothing is selected"):
            evaluate_arm(study.config(1), study.runs_dir, reference, COUNT)


@pytest.fixture(scope="module")
def results(study, reference, dose):
    return run_experiment(study, reference)


class TestRunExperiment:
    def test_has_the_baseline_and_every_arm_at_both_matchings(self, results):
        expected = ["baseline", "rule70", "random", "dose 40 %", "random 40 %"]
        assert results["arm"].tolist() == [arm for arm in expected for _ in MATCHINGS]
        assert results["kind"].tolist() == [arm.split()[0] for arm in expected for _ in MATCHINGS]
        assert results["matching"].tolist() == list(MATCHINGS) * 5
        assert set(results["seed"]) == {1}
        assert list(results)[:7] == ["arm", "kind", "seed", "deleted", "idle", "matching", "epoch"]
        assert set(METRICS) < set(results)

    def test_arms_are_scored_beside_the_baseline_of_as_many_epochs(self, results, baseline):
        """The baseline is trained for three epochs, the arms for two."""
        by_arm = results.groupby("arm")["epoch"].agg(list)
        assert baseline.epochs[-1] == 3
        assert by_arm["baseline"] == [2, 2]
        assert by_arm["dose 40 %"] == by_arm["random 40 %"] == [2, 1]

    def test_idle_arms_have_no_scores_and_the_others_have_all(self, results):
        idle = results["arm"].isin(["rule70", "random"])
        assert (results["idle"] != "").tolist() == idle.tolist()
        assert results.loc[idle, ["epoch", *METRICS]].isna().all(axis=None)
        assert results.loc[~idle, ["epoch", *METRICS]].notna().all(axis=None)
        assert (results["n"].dropna() == COUNT).all()

    def test_leaves_seeds_alone_that_are_not_asked_for(self, results, study):
        assert not (study.runs_dir / study.config(0).name).exists()

    def test_a_second_call_neither_trains_nor_selects_nor_scores(
        self, results, study, reference, monkeypatch
    ):
        def refuse(*_args, **_kwargs):
            raise AssertionError("done once already")

        monkeypatch.setattr(loop, "_Session", refuse)
        monkeypatch.setattr(loop, "select", refuse)
        monkeypatch.setattr("gradcam_gan.scoring.scores.evaluate", refuse)
        pd.testing.assert_frame_equal(run_experiment(study, reference), results, rtol=1e-12)

    def test_its_rows_can_be_compared(self, results):
        compared = differences(results)
        assert compared["arm"].unique().tolist() == ["dose 40 %", "random 40 %"]
        assert len(compared) == 2 * len(MATCHINGS) * len(METRICS)
        assert compared["estimate"].notna().all()


# Made-up results: FID by arm and seed. "seldom" was trained for one seed of the five.
FID = {
    "baseline": [10.0, 12.0, 11.0, 15.0, 12.0],
    "rule70": [9.0, 10.0, 12.0, 11.0, 12.0],
    "random": [11.0, 12.0, 13.0, 14.0, 11.0],
    "dose 20 %": [math.nan, 8.0, math.nan, 12.0, 9.0],
    "seldom": [math.nan, math.nan, math.nan, 14.0, math.nan],
}


def made_up(fid=FID, *, idle=(), shuffle=None):
    """Rows as of ``run_experiment``: recall is a hundredth of FID, at matched epochs FID is 1 more in the arms."""
    rows = []
    for arm, values in fid.items():
        for seed, value in enumerate(values):
            if math.isnan(value):
                continue
            for matching in MATCHINGS:
                extra = 1 if matching == "epochs" and arm != BASELINE else 0
                row = {"arm": arm, "kind": arm.split()[0], "seed": seed, "matching": matching}
                row |= {"deleted": 0.0 if arm == BASELINE else 0.1 * (seed + 1), "idle": ""}
                scores = {"fid": value + extra, "recall": value / 100}
                if (arm, seed) in idle:
                    row["idle"], scores = "deletes nothing", {}
                rows.append({**row, **scores})
    table = pd.DataFrame(rows)
    if shuffle is not None:
        table = table.sample(frac=1, random_state=shuffle, ignore_index=True)
    return table


def row_of(table, arm, matching="iterations", metric="fid"):
    found = table[(table["arm"] == arm) & (table["matching"] == matching) & (table["metric"] == metric)]
    (row,) = found.to_dict("records")
    return row


class TestDifferences:
    def test_has_a_row_per_arm_matching_and_metric(self):
        table = differences(made_up(), ["fid", "recall"])
        assert list(table) == COLUMNS
        keys = table[["matching", "arm", "metric"]].to_numpy().tolist()
        assert keys == [
            [matching, arm, metric]
            for matching in MATCHINGS
            for arm in ("rule70", "random", "dose 20 %", "seldom")
            for metric in ("fid", "recall")
        ]
        assert row_of(table, "dose 20 %")["kind"] == "dose"

    def test_is_the_mean_of_the_paired_differences(self):
        """By hand: -1, -2, 1, -4, 0 for the rule and 1, 0, 2, -1, -1 at random."""
        table = differences(made_up(), ["fid", "recall"])
        rule, random = row_of(table, "rule70"), row_of(table, "random")
        assert rule["estimate"] == pytest.approx(-6 / 5)
        assert random["estimate"] == pytest.approx(1 / 5)
        assert row_of(table, "rule70", metric="recall")["estimate"] == pytest.approx(-6 / 500)
        assert rule["n"] == random["n"] == 5
        expected = paired_difference_interval(FID["rule70"], FID["baseline"])
        assert (rule["low"], rule["high"]) == pytest.approx((expected.low, expected.high))
        assert rule["low"] < -6 / 5 < rule["high"]

    def test_each_matching_is_compared_for_itself(self):
        table = differences(made_up(), ["fid"])
        for arm in ("rule70", "random", "dose 20 %", "seldom"):
            at_iterations, at_epochs = (row_of(table, arm, matching) for matching in MATCHINGS)
            assert at_epochs["estimate"] == pytest.approx(at_iterations["estimate"] + 1)

    def test_each_matching_is_compared_with_its_own_rows_of_the_other_arm(self):
        """Two arms are both 1 worse at matched epochs; the baseline's matchings coincide."""
        table = differences(made_up(), ["fid"], to="random")
        for arm, extra in (("rule70", 0), ("dose 20 %", 0), ("baseline", -1)):
            at_iterations, at_epochs = (row_of(table, arm, matching) for matching in MATCHINGS)
            assert at_epochs["estimate"] == pytest.approx(at_iterations["estimate"] + extra)

    @pytest.mark.parametrize("shuffle", range(3))
    def test_pairs_by_seed_whatever_the_order_of_the_rows(self, shuffle):
        """A constant difference has no width only where every seed meets itself."""
        fid = {"baseline": FID["baseline"], "rule70": [value - 2.5 for value in FID["baseline"]]}
        row = row_of(differences(made_up(fid, shuffle=shuffle), ["fid"]), "rule70")
        assert (row["estimate"], row["low"], row["high"]) == (-2.5, -2.5, -2.5)

    def test_leaves_out_seeds_that_one_of_both_lacks(self):
        """Seeds 1, 3 and 4: -4, -3, -3; their shares are 20, 40 and 50 %."""
        row = row_of(differences(made_up(), ["fid"]), "dose 20 %")
        assert row["n"] == 3
        assert row["estimate"] == pytest.approx(-10 / 3)
        assert row["deleted"] == pytest.approx(1.1 / 3)

    def test_leaves_out_seeds_that_the_baseline_lacks(self):
        """Seeds 0 and 1; the share of seed 2 does not count either."""
        fid = {"baseline": [10.0, 11.0, math.nan], "rule70": [9.0, 8.0, 50.0]}
        row = row_of(differences(made_up(fid), ["fid"]), "rule70")
        assert (row["n"], row["estimate"]) == (2, -2.0)
        assert row["deleted"] == pytest.approx((0.1 + 0.2) / 2)

    def test_an_arm_that_shares_no_seed_has_no_row(self):
        fid = {"baseline": [10.0, math.nan], "rule70": [math.nan, 9.0]}
        assert differences(made_up(fid), ["fid"]).empty

    def test_one_pair_has_an_estimate_without_bounds(self):
        row = row_of(differences(made_up(), ["fid"]), "seldom")
        assert (row["n"], row["estimate"]) == (1, -1.0)
        assert math.isnan(row["low"])
        assert math.isnan(row["high"])

    def test_can_be_taken_to_another_arm(self):
        """By hand: the rule less random is -2, -2, -1, -3, 1; the baseline less random -1, 0, -2, 1, 1."""
        table = differences(made_up(), ["fid"], to="random")
        assert table["arm"].unique().tolist() == ["baseline", "rule70", "dose 20 %", "seldom"]
        assert row_of(table, "rule70")["estimate"] == pytest.approx(-7 / 5)
        assert row_of(table, "baseline")["estimate"] == pytest.approx(-1 / 5)
        expected = paired_difference_interval(FID["rule70"], FID["random"])
        row = row_of(table, "rule70")
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))

    @pytest.mark.parametrize("to", ["baseline", "random"])
    def test_the_effect_is_in_standard_deviations_of_the_baseline(self, to):
        """The baseline's are 10, 12, 11, 15, 12: squares about 12 sum to 14, over n - 1 = 4."""
        table = differences(made_up(), ["fid", "recall"], to=to)
        deviation = math.sqrt(14 / 4)
        for arm in ("rule70", "dose 20 %", "seldom"):
            row = row_of(table, arm)
            assert row["effect"] == pytest.approx(row["estimate"] / deviation)
            row = row_of(table, arm, metric="recall")
            assert row["effect"] == pytest.approx(row["estimate"] / (deviation / 100))

    @pytest.mark.parametrize("fid", [[10.0], [10.0, 10.0, 10.0]])
    def test_there_is_no_effect_size_without_a_deviation(self, fid):
        table = differences(made_up({"baseline": fid, "rule70": [value + 1 for value in fid]}), ["fid"])
        assert table["estimate"].tolist() == [1.0, 2.0]
        assert table["effect"].isna().all()

    def test_leaves_out_arms_that_were_not_trained(self):
        idle = [("rule70", 0), ("rule70", 3), *(("random", seed) for seed in range(5))]
        table = differences(made_up(idle=idle), ["fid"])
        assert "random" not in set(table["arm"])
        row = row_of(table, "rule70")
        assert row["n"] == 3
        assert row["estimate"] == pytest.approx((-2 + 1 + 0) / 3)
        assert row["deleted"] == pytest.approx((0.2 + 0.3 + 0.5) / 3)

    def test_keeps_its_columns_where_nothing_is_left(self):
        idle = [(arm, seed) for arm in FID if arm != BASELINE for seed in range(5)]
        table = differences(made_up(idle=idle))
        assert table.empty
        assert list(table) == COLUMNS


class TestDescribeIdle:
    def test_where_every_arm_was_trained(self):
        assert describe_idle(made_up()) == "Every arm deletes some images and keeps enough to train on."

    def test_names_arms_reasons_and_seeds(self):
        table = made_up(idle=[("rule70", 0), ("rule70", 3), ("random", 2)])
        table.loc[table["arm"].eq("rule70") & table["seed"].eq(3), "idle"] = "leaves less than a batch"
        table.loc[table["arm"].eq("dose 20 %") & table["seed"].isin([1, 4]), "idle"] = "deletes nothing"
        assert describe_idle(table) == (
            "Not trained: rule70 deletes nothing (seed 0); rule70 leaves less than a batch (seed 3); "
            "random deletes nothing (seed 2); dose 20 % deletes nothing (seeds 1, 4)."
        )


@pytest.fixture
def chosen_study(tmp_path, monkeypatch):
    """A function: a study of two seeds whose arms have kept the images that one says, without any training."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    monkeypatch.setattr(arms, "train", None)
    monkeypatch.setattr(loop, "train", None)

    def make(keep):
        """``keep(config)`` gives a bool array."""
        study = tiny_study(
            pruning_seeds=[0, 1], pruning_arms=["rule70"], pruning_doses=[0.2], pruning_dose_arms=["dose"]
        )
        for config in study.arm_configs():
            folder = study.runs_dir / config.name
            folder.mkdir(parents=True)
            kept = np.asarray(keep(config), dtype=bool)
            Selection(kept, np.zeros(len(kept)), 1).save(folder)
            assert (folder / pruning.SELECTION).is_file()
        return study

    return make


class TestShownArm:
    IMAGES = torch.arange(10).reshape(10, 1, 1, 1)

    def shown(self, chosen_study, rule, dose, count):
        """By arm, the indices that it deletes, in every network."""
        deleted = {"rule70": rule, "dose": dose}
        study = chosen_study(lambda config: ~np.isin(np.arange(10), deleted[config.pruning.arm]))
        config, (gone, kept) = shown_arm(study, self.IMAGES, count)
        assert gone.shape[1:] == kept.shape[1:] == (1, 1, 1)
        return config, gone.flatten().tolist(), kept.flatten().tolist()

    def test_gives_the_first_images_in_order(self, chosen_study):
        config, gone, kept = self.shown(chosen_study, [1, 3, 4, 6, 9], [0], 4)
        assert (config.pruning.arm, config.seed) == ("rule70", 0)
        assert gone == [1, 3, 4, 6]
        assert kept == [0, 2, 5, 7]

    @pytest.mark.parametrize(
        ("deleted", "count", "length"),
        [([1, 2, 3], 8, 2), ([2, 3, 4, 5, 6, 7, 8], 8, 2), (range(5), 3, 2), (range(6), 20, 4)],
    )
    def test_gives_as_many_of_each_and_an_even_number(self, chosen_study, deleted, count, length):
        """As few as were deleted, or were kept, or are asked for."""
        _, gone, kept = self.shown(chosen_study, list(deleted), [0], count)
        assert len(gone) == len(kept) == length
        assert set(gone) <= set(deleted)
        assert not set(kept) & set(deleted)

    @pytest.mark.parametrize("rule", [[], range(10)], ids=["deletes nothing", "keeps nothing"])
    def test_goes_on_to_an_arm_that_has_both(self, chosen_study, rule):
        config, gone, kept = self.shown(chosen_study, list(rule), [7, 8], 6)
        assert config.pruning.label == "dose 20 %"
        assert (gone, kept) == ([7, 8], [0, 1])

    def test_goes_on_to_another_network_of_the_same_arm(self, chosen_study):
        study = chosen_study(lambda config: np.arange(10) >= (2 if config.seed == 1 else 0))
        config, (gone, kept) = shown_arm(study, self.IMAGES, 2)
        assert (config.pruning.arm, config.seed) == ("rule70", 1)
        assert (gone.flatten().tolist(), kept.flatten().tolist()) == ([0, 1], [2, 3])

    def test_refuses_where_no_arm_has_both(self, chosen_study):
        study = chosen_study(lambda config: np.full(10, config.seed == 0))
        with pytest.raises(InputError, match="no arm deletes some images and keeps some; set pruning_doses"):
            shown_arm(study, self.IMAGES, 4)


class TestDescribeInk:
    def test_tells_the_rank_correlation_of_coverage_with_ink_by_network(self, monkeypatch, study):
        images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        for i in range(4):
            images[i, 0, : i + 1] = 255
        by_seed = {0: [0.1, 0.2, 0.3, 0.4], 1: [0.4, 0.2, 0.3, 0.1], 2: [0.5, 0.5, 0.5, 0.5]}
        monkeypatch.setattr(
            "gradcam_gan.studies.arms.selection",
            lambda config, _runs_dir: Selection(np.ones(4, dtype=bool), np.array(by_seed[config.seed]), 1),
        )
        text = describe_ink(study.model_copy(update={"pruning_seeds": [0, 1, 2]}), images)
        assert "1.00 (seed 0), -0.80 (seed 1), nan (seed 2)" in text


class TestDeletedByClass:
    def test_is_the_share_of_each_class_that_goes(self, chosen_study):
        """Against brute force; no image is of class b."""
        random = np.random.default_rng(0)
        labels = random.choice([0, 2, 3], 60)
        kept = {("rule70", 0): 0.9, ("rule70", 1): 0.6, ("dose", 0): 0.5, ("dose", 1): 0.2}
        keep = {network: random.random(60) < share for network, share in kept.items()}
        study = chosen_study(lambda config: keep[config.pruning.arm, config.seed])
        images = ImageSet(torch.zeros(60, 1, 2, 2), torch.from_numpy(labels), ("a", "b", "c", "d"))
        table = deleted_by_class(study, images)
        assert table.index.tolist() == ["a", "c", "d"]
        assert list(table) == ["rule70", "dose 20 %"]
        for label, name in ((0, "a"), (2, "c"), (3, "d")):
            members = [i for i in range(60) if labels[i] == label]
            for arm, column in (("rule70", "rule70"), ("dose", "dose 20 %")):
                shares = [sum(not keep[arm, seed][i] for i in members) / len(members) for seed in (0, 1)]
                assert table.loc[name, column] == pytest.approx(sum(shares) / 2)


def error_line(**changes):
    with pytest.raises(InputError) as caught:
        Study.load("smoke", **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


class TestArmsOfAStudy:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_arm_is_paired_over_the_same_seeds(self, profile):
        study = Study.load(profile)
        configs = study.arm_configs()
        doses = [(arm, dose) for dose in study.pruning_doses for arm in study.pruning_dose_arms]
        expected = [*((arm, None) for arm in study.pruning_arms), *doses]
        assert [(config.pruning.arm, config.pruning.share, config.seed) for config in configs] == [
            (*arm, seed) for arm in expected for seed in study.pruning_seeds
        ]
        assert len(configs) == len(expected) * len(study.pruning_seeds)
        assert len({config.name for config in configs}) == len(configs)
        by_label = pd.DataFrame([(c.pruning.label, c.seed) for c in configs]).groupby(0)[1].agg(list)
        assert len(by_label) == len(expected)
        assert all(seeds == study.pruning_seeds for seeds in by_label)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_arm_is_valid_and_has_the_studys_values(self, profile):
        study = Study.load(profile)
        for config in study.arm_configs():
            assert TrainingConfig(**config.model_dump()) == config
            assert config.baseline == study.config(config.seed)  # trained once, for the figures and the arms
            assert config.epochs == study.pruning_epochs
            assert config.pruning.baseline_epochs == study.epochs
            assert config.pruning.probe_images == study.probe_images
            assert config.pruning.reference_images == study.reference_images
            for name in ("epoch", "method", "statistics", "evidence", "normalisation", "tau", "cut"):
                assert getattr(config.pruning, name) == getattr(study, f"pruning_{name}"), name

    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_profile_has_the_rule_and_its_control(self, profile):
        assert {"rule70", "random"} <= set(Study.load(profile).pruning_arms)

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            ({"pruning_seeds": [5]}, "pruning_seeds=[5] must be among seeds=[0, 1]"),
            ({"pruning_seeds": [0, 0]}, "pruning_seeds=[0, 0] names a seed twice"),
            ({"pruning_epochs": 4}, "pruning_epochs=4 must not exceed epochs=3"),
            ({"pruning_epochs": 0}, "pruning_epochs=0: input should be greater than or equal to 1"),
            ({"pruning_cut": 0}, "cut=0.0: input should be greater than 0"),
            ({"pruning_cut": 1.01}, "cut=1.01: input should be less than or equal to 1"),
            ({"pruning_tau": 0}, "tau=0.0: input should be greater than 0"),
            ({"pruning_arms": ["rule7"]}, "pruning_arms.0='rule7': input should be 'rule70', 'dose', "),
            ({"pruning_dose_arms": ["doze"]}, "pruning_dose_arms.0='doze': input should be 'rule70', 'dose'"),
            ({"pruning_doses": [0.2, 0]}, "share=0.0: input should be greater than 0"),
            ({"pruning_doses": [1]}, "share=1.0: input should be less than 1"),
            ({"pruning_arms": ["dose"]}, "arm='dose' needs the share to delete"),
            ({"pruning_dose_arms": ["rule70"]}, "share=0.4 with arm='rule70'"),
            ({"pruning_epoch": 4}, "epoch=4 must lie in 0..baseline_epochs=3"),
        ],
    )
    def test_an_impossible_value_is_refused_before_anything_is_trained(self, changes, part):
        assert part in error_line(**changes)

    def test_a_cut_of_1_is_allowed(self):
        assert Study.load("smoke", pruning_cut=1).arm_configs()[0].pruning.cut == 1

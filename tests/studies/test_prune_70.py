"""What the 70 % rule deletes under every reading, how arms are trained and scored, and claim C6."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, texts

from gradcam_gan.explaining.cam import explain
from gradcam_gan.run_explainer import Reading
from gradcam_gan.scoring.scores import reference_for
from gradcam_gan.studies import paths
from gradcam_gan.studies.prune_70.arms import Pruning
from gradcam_gan.studies.prune_70.charts import answer_chart, deletion_by_epoch, rule_heatmap
from gradcam_gan.studies.prune_70.rules import count_outcome, grid_outcomes, judge_pruning
from gradcam_gan.studies.prune_70.selection import Selection, selection
from gradcam_gan.studies.prune_70.tables import (
    BASELINE,
    METRICS,
    contact_sheet,
    differences,
    evaluate_arm,
    last_scores,
    looks_around,
    rule_grid,
    run_experiment,
    shown_deletion,
)
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_LAYERS
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE
from gradcam_gan.training.loop import run_name
from gradcam_gan.training.objective import Objective

COUNT = 30  # generated images scored

# --- which images would go


def test_the_grid_equals_counts_on_the_maps_of_explain(explainer, digits):
    images, taus, cuts = digits[:40], (0, 0.5), (0.1, 0.7)
    grid = rule_grid(explainer, images, 2, taus, cuts)
    assert len(grid) == len(ALL_READINGS) * 4
    assert grid[["seed", "epoch"]].drop_duplicates().to_numpy().tolist() == [[0, 2]]
    for layer, evidence in product(COMPARED_LAYERS, ("real", "fake")):
        how = {"method": "hirescam", "layer": layer, "evidence": evidence}
        maps = explain(explainer.run.discriminator(2), images, upsample=False, **how).numpy()
        for tau, cut in product(taus, cuts):
            shares = [np.count_nonzero(one > tau * one.max()) / one.size for one in maps]
            chosen = {**how, "statistics": "running", "tau": tau, "cut": cut}
            (row,) = grid[np.logical_and.reduce([grid[key] == value for key, value in chosen.items()])].index
            assert grid.loc[row, "deleted"] == pytest.approx(np.mean(np.array(shares) >= cut))
    assert grid["deleted"].nunique() > 5


def test_every_answer_has_part_a_of_the_claim():
    grid = pd.concat([grid_of(lambda reading, tau: 0.2 * (tau > 0), seed=seed) for seed in range(12)])
    outcomes = grid_outcomes(grid)
    assert len(outcomes) == len(ALL_READINGS) * 4
    assert outcomes.groupby("tau")["outcome"].unique().str.join("").to_dict() == {0.0: "fails", 0.5: "holds"}
    assert outcomes.groupby("tau")["deleted"].mean().to_dict() == pytest.approx({0.0: 0, 0.5: 0.2})


def test_the_sheet_has_the_first_of_either_kind_and_white_places():
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    gone = np.isin(np.arange(10), [2, 5, 7])
    sheet = contact_sheet(gone, images, 4)
    assert sheet.shape == (4, 2, 1, 2, 2)
    assert sheet[:, :, 0, 0, 0].tolist() == [[2, 5], [7, 255], [0, 1], [3, 4]]


@pytest.mark.parametrize(
    ("covered", "shown", "said"),
    [
        ([0.1, 0.8, 0.2, 0.9, 0.3], [1, 3], "the rule deletes 40.0% of the images"),
        (
            [0.1, 0.2, 0.4, 0.3, 0.2],
            [2],
            "the rule deletes 0 of 5 images, so the 20% of highest coverage are shown",
        ),
        ([0.7, 0.8, 0.8, 0.9, 1.0], [4], "the rule deletes all images, so the 20% of highest"),
        ([0.9] + 199 * [0.1], range(40), "the rule deletes 1 of 200 images, so the 20% of highest"),
    ],
)
def test_the_top_is_shown_where_the_rule_hardly_divides(covered, shown, said):
    gone, words = shown_deletion(np.array(covered), 0.7)
    assert gone.nonzero()[0].tolist() == list(shown)
    assert words.startswith(said)


def test_what_d_looks_around_by_hand():
    keep = np.ones(5, dtype=bool)
    covered, lift = np.array([0.9, 0.8, 0.1, 0.2, 0.3]), np.array([0.4, 0.6, 0.2, np.nan, 1.0])
    table = looks_around({3: Selection(keep, covered, lift), 4: Selection(keep, covered / 2, lift)}, 0.7)
    assert table[["seed", "way", "deleted"]].to_numpy().tolist() == [
        [3, "rule", 0.4], [3, "top 20 %", 0.2], [4, "rule", 0.0], [4, "top 20 %", 0.2],
    ]  # fmt: skip
    found = table[["around_deleted", "around_kept", "difference"]].to_numpy()
    nothing = [np.nan, 0.4, np.nan]
    np.testing.assert_allclose(found, [[1 / 2, 1 / 3, 1 / 6], [1, 1 / 4, 3 / 4], nothing, [1, 1 / 4, 3 / 4]])


# --- trained anew


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield Study.load(
            "smoke",
            **{
                "train_images": 128, "width": 2, "batch_size": 32, "device": "cpu", "seeds": [0, 1],
                "generated_images": COUNT, "pruning.arms": ["rule70", "random"], "comparison.models": ["dudgan"],
                "pairs.train_images": 96, "pairs.width": 2, "pairs.epochs": 4, "pairs.seeds": [0, 1],
            },
        )  # fmt: skip


@pytest.fixture(scope="module")
def scored_against(study):
    return reference_for(study.pair_config(0), study.runs_dir, "cpu", (0, 100))


@pytest.fixture(scope="module")
def results(study, scored_against):
    return run_experiment(study, scored_against)


class TestExperiment:
    def test_has_a_row_for_every_training_with_what_is_deleted(self, study, results):
        arms = ["rule70", "random", "dose 20 %", "random 20 %"]
        expected = [(arm, seed) for arm in [BASELINE, *arms] for seed in (0, 1)]
        assert list(zip(results["arm"], results["seed"], strict=True)) == expected
        for arm, row in zip(study.arms(), results[2:].to_dict("records"), strict=True):
            chosen = selection(arm, study.runs_dir)
            assert row["deleted"] == pytest.approx((~chosen.keep).mean())
            assert row["by_rule"] == (chosen.coverage >= 0.7).mean()
        assert results[:2]["by_rule"].isna().all()

    @pytest.mark.parametrize(("epochs", "expected"), [([0, 1, 2, 3, 4], 3.0), ([0, 1, 2], 1.5)])
    def test_a_score_is_the_mean_of_the_last_three_trained_generators(self, monkeypatch, epochs, expected):
        """Log FID is the epoch here: the untrained generator never counts."""

        def fake(_run, _reference, *, epochs, count):
            others = dict.fromkeys(METRICS[1:], float(count))
            fids = {"fid": np.exp(epochs), "fid_without_veil": np.exp(2 * np.array(epochs))}
            return pd.DataFrame({"epoch": epochs, **fids, **others})

        monkeypatch.setattr("gradcam_gan.studies.prune_70.tables.evaluate_with_and_without_veil", fake)
        expected_of_fid = {"log_fid": expected, "log_fid_without_veil": 2 * expected}
        assert last_scores(SimpleNamespace(epochs=epochs), None, COUNT) == pytest.approx(
            {**dict.fromkeys(METRICS, COUNT), **expected_of_fid}
        )

    def test_an_arm_that_deletes_nothing_is_its_baseline_and_one_that_deletes_all_is_not_trained(
        self, study, results, scored_against
    ):
        arm = study.arms()[0]
        baseline = results.iloc[0]

        def evaluated(**changes):
            pruning = Pruning(**arm.pruning.model_dump() | changes)
            return evaluate_arm(replace(arm, pruning=pruning), study.runs_dir, scored_against, COUNT).iloc[0]

        nothing = evaluated(arm="random", share=0.001)
        assert nothing["deleted"] == 0
        assert [nothing[metric] for metric in METRICS] == [baseline[metric] for metric in METRICS]
        nearly_all = evaluated(arm="random", share=0.9)
        assert nearly_all["deleted"] == pytest.approx(86 / 96)
        assert not set(METRICS) & set(nearly_all.index)
        assert not (study.runs_dir / run_name(arm.training, np.ones(96, dtype=bool))).exists()

    def test_a_second_call_neither_trains_nor_selects_nor_scores(
        self, results, study, scored_against, monkeypatch
    ):
        def forbidden(*_arguments, **_named):
            raise AssertionError("it is done again")

        monkeypatch.setattr(Objective, "step", forbidden)
        monkeypatch.setattr("gradcam_gan.studies.prune_70.selection.select", forbidden)
        monkeypatch.setattr("gradcam_gan.scoring.scores.evaluate", forbidden)
        pd.testing.assert_frame_equal(run_experiment(study, scored_against), results, rtol=1e-12)


# --- judged


def made_up(change=0.0, *, noise=0.1, by_rule=0.2, networks=12, baseline=1.0, **others):
    """Scores of the arms of so many networks.

    Args:
        change: of log FID without the top 20 %, against 20 % at random.
        noise: standard deviation of that change, exactly.
        by_rule: share that the rule deletes, or one a network.
        networks: how many.
        baseline: standard deviation of the baseline's log FID over seeds.
        others: changes of other arms against the baseline.
    """
    spread = np.random.default_rng(0).normal(size=networks)
    if networks > 1:
        spread = (spread - spread.mean()) / spread.std(ddof=1)
    level = 2 + baseline * spread[::-1]
    arms = {BASELINE: level, "random 20 %": level + 0.5, "dose 20 %": level + 0.5 + change + noise * spread}
    arms |= {arm: level + more for arm, more in others.items()}
    shares = np.broadcast_to(by_rule, networks)
    return pd.concat(
        [
            pd.DataFrame({"arm": arm, "seed": range(networks), "log_fid": values, "recall": 0.1 * values})
            .assign(log_fid_without_veil=values)
            .assign(by_rule=np.nan if arm == BASELINE else shares)
            for arm, values in arms.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def test_arms_are_compared_with_the_baseline_and_with_as_many_at_random():
    scores = made_up(-0.3, rule70=-0.2, random=0.1).assign(
        **dict.fromkeys(set(METRICS) - {"log_fid", "recall", "log_fid_without_veil"}, 1.0)
    )
    table = differences(scores).query("metric == 'log_fid'").set_index(["arm", "to"])
    expected = {
        ("random 20 %", BASELINE): 0.5, ("dose 20 %", BASELINE): 0.2, ("rule70", BASELINE): -0.2,
        ("random", BASELINE): 0.1, ("dose 20 %", "random 20 %"): -0.3, ("rule70", "random"): -0.3,
    }  # fmt: skip
    assert table["estimate"].to_dict() == pytest.approx(expected)
    assert table["effect"].to_dict() == pytest.approx(expected)  # the baseline's deviation is 1
    assert set(table["n"]) == {12}
    assert differences(scores).query("metric == 'kid'")["effect"].isna().all()  # no deviation, no effect size


def shares(worthwhile, others, share=0.0):
    """Shares that the rule deletes, in so many networks 20 % and in so many others another share."""
    return pd.Series([0.2] * worthwhile + [share] * others)


@pytest.mark.parametrize(
    ("worthwhile", "others", "outcome"),
    [
        (10, 2, "holds"),
        (9, 3, "unclear"),
        (3, 9, "unclear"),
        (2, 10, "fails"),
        # fewer than 12 measured: whatever the others show
        (10, 0, "holds"),
        (9, 0, "unclear"),
        (0, 10, "fails"),
        (0, 9, "unclear"),
        (1, 10, "fails"),
        (0, 0, "unclear"),
    ],
)
def test_part_a_counts_networks_and_waits_for_those_that_could_change_it(worthwhile, others, outcome):
    for share in (0.0, 0.0099, 0.501, 1.0):
        assert count_outcome(shares(worthwhile, others, share)) == outcome
    for share in (0.01, 0.5):  # both within
        assert count_outcome(shares(0, 12, share)) == "holds"


FEW, SOME = shares(1, 11), shares(5, 7)


@pytest.mark.parametrize(
    ("by_rule", "change", "noise", "verdict"),
    [
        (0.2, -0.3, 0.1, "reproduced"),
        (0.2, -0.3, 1.0, "partly"),  # (a) alone
        (SOME, -0.3, 0.1, "partly"),  # (b) alone
        (SOME, 0.0, 1.0, "inconclusive"),
        (FEW, -0.3, 0.1, "not reproduced"),  # (a) fails, whatever (b) shows
        (0.2, 0.3, 0.1, "not reproduced"),  # worse than at random
        (0.2, 0.0, 0.1, "not reproduced"),  # as at random
        (0.2, -0.12, 0.05, "reproduced"),  # small, but certain: below 0 comes first
        (SOME, 0.0, 0.1, "not reproduced"),
    ],
)
def test_verdicts(by_rule, change, noise, verdict):
    claim = judge_pruning(made_up(change, noise=noise, by_rule=by_rule), [])
    assert (claim.name, claim.verdict) == ("C6", verdict)
    assert claim.effect.estimate == pytest.approx(change)
    assert claim.effect.n == 12


def test_by_hand():
    """Noise of deviation 0.1: Student's half width at n = 12 is 2.201 x 0.1 / sqrt(12)."""
    claim = judge_pruning(
        made_up(-0.3, by_rule=np.linspace(0.02, 0.28, 12), baseline=0.5, rule70=-0.2), range(3)
    )
    half = 2.201 * 0.1 / np.sqrt(12)
    assert (claim.effect.low, claim.effect.high) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-4)
    assert "in 12 of 12 networks: 2 % to 28 %" in claim.sentence
    assert claim.p < 1e-5
    assert claim.beside["sign-flip p"] == f"{2 / 2**12:.3g}"  # all differences below 0
    assert claim.beside["in units of the baseline's deviation from seed to seed"] == "-0.6"
    assert claim.beside["change of recall"].estimate == pytest.approx(-0.03)
    assert claim.beside["change of log FID, rule70 minus baseline"].estimate == pytest.approx(-0.2)
    assert claim.beside["change of log FID, dose 20 % minus baseline"].estimate == pytest.approx(0.2)
    assert claim.beside["healthy scoring networks alone"].n == 3
    assert "change of log FID, rule70 minus random" not in claim.beside  # no such arm
    assert "holds in 100% if the truth is -0.3" in claim.beside["power of (b) with 12 networks"]


@pytest.mark.parametrize("networks", [0, 1, 2, 11])
def test_fewer_pairs_than_planned_are_interim(networks):
    claim = judge_pruning(made_up(-0.9, noise=0.01, networks=networks), [])
    assert claim.verdict == (
        "partly" if networks == 11 else "inconclusive"
    )  # 11 shares of 20 % settle part (a)
    assert f"interim: {networks} of 12 pairs decide nothing" in claim.sentence
    assert judge_pruning(made_up(-0.9, noise=0.01, networks=networks, by_rule=1.0), []).verdict == (
        "not reproduced" if networks == 11 else "inconclusive"
    )


# --- drawn


def grid_of(deleted, seed=0):
    """``deleted(reading, tau)`` gives the share that the rule deletes."""
    return pd.DataFrame(
        {**vars(reading), "tau": tau, "cut": cut, "seed": seed, "deleted": deleted(reading, tau)}
        for reading, tau, cut in product(ALL_READINGS, (0.0, 0.5), (0.5, 0.7))
    )


def drawn(function, *arguments):
    figure = draw(function, *arguments)
    assert_nothing_is_cut_off(figure, PAGE)
    return figure


class TestCharts:
    def test_the_rule_has_a_cell_for_every_answer_in_percent_over_networks(self):
        grid = pd.concat(
            [grid_of(lambda reading, tau: tau / 5 + (reading == Reading()) / 2, seed=i) for i in (0, 1)]
        )
        real, fake = drawn(rule_heatmap, grid).axes[:2]
        values = np.asarray(real.collections[0].get_array())
        assert values.shape == (18, 4)
        assert values[0] == pytest.approx([50, 50, 60, 60])
        assert values[1] == pytest.approx([0, 0, 10, 10])
        assert np.asarray(fake.collections[0].get_array())[0] == pytest.approx([0, 0, 10, 10])
        assert texts(real.get_yticklabels())[0] == "Grad-CAM at conv3, running"
        assert texts(real.get_xticklabels()) == ["0\n50", "0\n70", "0.5\n50", "0.5\n70"]

    def test_deletion_has_a_panel_a_reading_and_a_line_a_network(self):
        epochs = pd.DataFrame(
            {
                **vars(reading),
                "seed": seed,
                "epoch": epoch,
                "deleted": epoch / 10 if reading == Reading() else 0.0,
            }
            for reading, seed, epoch in product(ALL_READINGS, (1, 2), range(4))
        )
        figure = drawn(deletion_by_epoch, epochs, 2)
        assert len(figure.axes) == len(ALL_READINGS) / 2
        first = [line.get_ydata().tolist() for line in figure.axes[0].lines[1:]]  # after the mark
        assert (
            first == [[0, 10, 20, 30]] * 3 + [[0, 0, 0, 0]] * 3
        )  # two networks and their mean, for either method

    @pytest.mark.parametrize("networks", [1, 12])
    def test_the_answer_has_the_rule_and_every_pair_with_a_tick_a_network(self, networks):
        scores = made_up(-0.3, networks=networks).assign(
            **dict.fromkeys(set(METRICS) - {"log_fid", "recall", "log_fid_without_veil"}, 1.0)
        )
        left, middle, right = drawn(answer_chart, scores).axes
        assert left.lines[0].get_xdata().tolist() == [20] * networks
        assert texts(middle.get_yticklabels())[-1] == "dose 20 %\n− random 20 %"
        ticks = [line for line in middle.lines if line.get_marker() == "|" and line.get_color() == "0.3"]
        assert [len(line.get_xdata()) for line in ticks] == [networks] * 3
        assert middle.containers[0].lines[0].get_xdata().astype(float)[-1] == pytest.approx(-0.3, abs=0.2)
        assert right.get_xlabel() == "change of recall"

"""Measures against maps whose answer is known, and against a plain per-image reading of the definitions."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcam_gan.explaining import measures
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, map_change, measure, normalise

SHARES = ["coverage", "focus", "rank_accuracy", "mask_area", "entropy"]
light = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def centre_mask(n: int = 1, side: int = 16) -> torch.Tensor:
    """A centred square of half the side: a quarter of the area, clear of the border ring."""
    mask = torch.zeros(n, side, side, dtype=torch.bool)
    mask[:, side // 4 : -side // 4, side // 4 : -side // 4] = True
    return mask


def random_case(seed: int, n: int = 6, height: int = 12, width: int = 9):
    """Signed maps with many ties and zeros, and masks of a third of the pixels."""
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, height, width, generator=random)
    maps[::2] = (maps[::2] * 2).round() / 2
    return maps, torch.rand(n, height, width, generator=random) < 1 / 3


def naive(heatmap, mask, tau, normalisation, border):
    """One row, by loops over pixels: heatmap and mask (H, W) as numpy arrays."""
    height, width = heatmap.shape
    pixels = list(itertools.product(range(height), range(width)))
    value = {p: max(float(heatmap[p]), 0.0) for p in pixels}
    inside = {p for p in pixels if mask[p]}
    ring = {(i, j) for i, j in pixels if min(i, j) < border or i >= height - border or j >= width - border}
    energy, k = sum(value.values()), len(inside)
    low = min(value.values()) if normalisation == "min-max" else 0.0
    top = max(value.values()) if isinstance(normalisation, str) else normalisation
    row = dict.fromkeys(COLUMNS, math.nan)
    row["mask_area"] = k / len(pixels)
    row["all_zero"] = energy == 0
    row["coverage"] = (
        sum((v - low) / (top - low) >= tau for v in value.values()) / len(pixels) if energy else 0.0
    )
    has_mask = 0 < k < len(pixels)
    if energy:
        row["border_lift"] = sum(value[p] for p in ring) / energy * len(pixels) / len(ring)
        shares = [v / energy for v in value.values() if v > 0]
        row["entropy"] = -sum(s * math.log(s) for s in shares) / math.log(len(pixels))
        if has_mask:
            row["focus"] = sum(value[p] for p in inside) / energy
            row["focus_lift"] = row["focus"] / row["mask_area"]
    if has_mask:
        # pixel p is in the top K with the share of its tied group that still fits below the strictly larger
        hits = 0.0
        for p in inside:
            above = sum(v > value[p] for v in value.values())
            tied = sum(v == value[p] for v in value.values())
            hits += min(max((k - above) / tied, 0.0), 1.0)
        row["rank_accuracy"] = hits / k
    return row


def test_the_mask_itself_as_map_is_perfect():
    mask = centre_mask()
    row = measure(mask.float() * 3, mask).iloc[0]
    assert row["focus"] == 1
    assert row["focus_lift"] == 4
    assert row["rank_accuracy"] == 1
    assert row["border_lift"] == 0
    assert row["mask_area"] == row["coverage"] == 0.25
    assert not row["all_zero"]


def test_a_uniform_map_is_chance():
    row = measure(torch.full((1, 16, 16), 0.3), centre_mask()).iloc[0]
    assert row["coverage"] == 1
    assert row["focus_lift"] == pytest.approx(1, abs=1e-6)
    assert row["rank_accuracy"] == row["mask_area"] == 0.25
    assert row["border_lift"] == pytest.approx(1, abs=1e-6)
    assert row["entropy"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_without_positive_part(value):
    row = measure(torch.full((1, 16, 16), value), centre_mask()).iloc[0]
    assert row["all_zero"]
    assert row["coverage"] == 0
    assert row["rank_accuracy"] == 0.25
    assert row[["focus", "focus_lift", "border_lift", "entropy"]].isna().all()


@pytest.mark.parametrize("white", [True, False])
def test_a_full_or_empty_mask_is_nan(white):
    row = measure(torch.rand(1, 16, 16), torch.full((1, 16, 16), white)).iloc[0]
    assert row["mask_area"] == float(white)
    assert row[["focus", "focus_lift", "rank_accuracy"]].isna().all()
    assert row[["coverage", "border_lift", "entropy"]].notna().all()


def test_a_single_pixel_has_no_entropy():
    maps = torch.zeros(2, 16, 16)
    maps[0, 8, 8] = 7  # in the mask
    maps[1, 0, 3] = 7  # on the border
    table = measure(maps, centre_mask(2))
    assert table["entropy"].tolist() == [0, 0]
    assert table["focus"].tolist() == [1, 0]
    assert table["border_lift"].tolist() == pytest.approx([0, 256 / 60])
    assert table["coverage"].tolist() == [1 / 256, 1 / 256]


def test_a_digit_of_one_pixel():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 5, 7] = True
    heat = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert measure(heat + mask.float(), mask)["rank_accuracy"].item() == 1
    assert measure(heat - mask.float(), mask)["rank_accuracy"].item() == 0


def test_half_in_half_out():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    maps = torch.ones(1, 16, 16)
    maps[:, :8] = 0  # lower half hot: half of it in the mask
    row = measure(maps, mask).iloc[0]
    assert row["focus"] == 0.5
    assert row["focus_lift"] == 1
    assert row["rank_accuracy"] == 0.5
    assert row["coverage"] == 0.5
    assert row["entropy"] == pytest.approx(math.log(128) / math.log(256), abs=1e-6)


def test_negative_evidence_does_not_count():
    mask = centre_mask()
    maps = torch.where(mask, 1.0, -5.0)
    pd.testing.assert_frame_equal(measure(maps, mask), measure(mask.float(), mask))


@light
@given(
    seed=seeds, normalisation=st.sampled_from(["max", "min-max", 1.5]), tau=st.sampled_from([0.3, 0.7, 1.0])
)
def test_equals_a_loop_over_pixels(seed, normalisation, tau):
    maps, mask = random_case(seed)
    options = {"tau": tau, "normalisation": normalisation, "border": 2}
    got = measure(maps.double(), mask, **options)
    pairs = zip(maps.double().numpy(), mask.numpy(), strict=True)
    expected = pd.DataFrame([naive(heatmap, own, tau, normalisation, 2) for heatmap, own in pairs])
    pd.testing.assert_frame_equal(got, expected, rtol=1e-6, atol=1e-9)


@light
@given(seed=seeds, scale=st.floats(1e-30, 1e30))
def test_scale_of_the_map_does_not_matter(seed, scale):
    maps, mask = random_case(seed)
    maps += 0.01  # keeps every value off the threshold, where one rounding may flip a pixel
    pd.testing.assert_frame_equal(
        measure(maps * scale, mask, tau=0.4321), measure(maps, mask, tau=0.4321), rtol=1e-4
    )


def test_extreme_magnitudes_neither_overflow_nor_vanish():
    maps, mask = random_case(3)
    for scale in (1e-37, 1e37):
        table = measure(maps * scale, mask)
        assert table.notna().all(axis=None)
        assert table["entropy"].between(0.5, 1).all()


@light
@given(seed=seeds)
def test_shares_are_shares_and_rows_follow_the_images(seed):
    maps, mask = random_case(seed)
    table = measure(maps, mask)
    order = torch.randperm(len(maps), generator=torch.Generator().manual_seed(seed))
    permuted = measure(maps[order], mask[order])
    pd.testing.assert_frame_equal(permuted, table.iloc[order.numpy()].reset_index(drop=True))
    assert table[SHARES].apply(lambda column: column.dropna().between(0, 1).all()).all()


def test_rank_accuracy_is_the_mean_over_random_tie_breaks():
    random = np.random.default_rng(0)
    heatmap = random.integers(0, 3, (8, 8)).astype(np.float32)
    mask = random.random((8, 8)) < 0.3
    k = mask.sum()
    hits = [mask.ravel()[np.lexsort((random.random(64), -heatmap.ravel()))[:k]].mean() for _ in range(20_000)]
    got = measure(torch.tensor(heatmap)[None], torch.tensor(mask)[None])["rank_accuracy"].item()
    assert got == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / math.sqrt(len(hits)))


def test_chunks_do_not_change_the_rows(monkeypatch):
    maps, mask = random_case(1, n=7)
    whole = measure(maps, mask), map_change(maps, maps.flip(0))
    monkeypatch.setattr(measures, "CHUNK_PIXELS", {"cpu": 2 * maps[0].numel()})
    pd.testing.assert_frame_equal(measure(maps, mask), whole[0])
    assert torch.equal(map_change(maps, maps.flip(0)), whole[1])


def test_the_table_is_tidy():
    maps, mask = random_case(2)
    table = measure(maps.requires_grad_(), mask)
    assert list(table.columns) == list(COLUMNS)
    assert table["all_zero"].dtype == bool
    assert (table.drop(columns="all_zero").dtypes == "float64").all()
    empty = measure(maps[:0], mask[:0])
    assert len(empty) == 0
    assert (empty.dtypes == table.dtypes).all()


def test_inputs_are_left_alone():
    maps, mask = random_case(4)
    before = maps.clone(), mask.clone()
    measure(maps, mask)
    normalise(maps, "min-max")
    map_change(maps, maps)
    assert torch.equal(maps, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(dtype):
    maps, mask = random_case(5)
    maps = maps.to(dtype)
    pd.testing.assert_frame_equal(measure(maps, mask), measure(maps.float(), mask), rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_rows_from_a_gpu():
    maps, mask = random_case(8)
    pd.testing.assert_frame_equal(measure(maps.cuda(), mask), measure(maps, mask), rtol=1e-5)


def test_the_default_border_is_a_sixteenth_of_the_side():
    for side, border in ((64, 4), (28, 2), (8, 1)):
        maps, mask = torch.rand(1, side, side), centre_mask(1, side)
        pd.testing.assert_frame_equal(measure(maps, mask), measure(maps, mask, border=border))


def test_a_planted_marker_is_measured_by_hand():
    """The truth is a 2x2 marker in a corner; a map finds half of it, another is fooled by the digit."""
    planted = torch.zeros(2, 8, 8, dtype=torch.bool)
    planted[:, :2, :2] = True
    maps = torch.zeros(2, 8, 8)
    maps[0, 0, :2], maps[0, 4, 4:6] = 3.0, 1.0  # 6 of 8 on the marker's upper half
    maps[1, 3:5, 3:5] = 1.0
    found, fooled = measure(maps, planted, border=2).to_dict("records")
    assert found["mask_area"] == 4 / 64
    assert found["focus"] == pytest.approx(6 / 8)
    assert found["focus_lift"] == pytest.approx(6 / 8 * 16)
    assert found["rank_accuracy"] == 2 / 4  # of the four highest pixels two are the marker's
    assert found["border_lift"] == pytest.approx(6 / 8 * 64 / 48)
    assert found["coverage"] == 2 / 64
    assert [fooled[name] for name in ("focus", "focus_lift", "rank_accuracy", "border_lift")] == [0, 0, 0, 0]


def test_digit_mask():
    images = torch.full((1, 2, 4, 4), -1.0)
    images[0, 1, 2, 2] = 0.5  # one channel is enough
    images[0, 0, 1, 1] = 0.0  # at the threshold is not above it
    assert digit_mask(images).nonzero().tolist() == [[0, 2, 2]]
    assert digit_mask(images, 0.6).sum() == 0
    assert digit_mask((images + 1).mul(127.5).to(torch.uint8)).sum() == 1
    bytes_ = torch.tensor([127, 128], dtype=torch.uint8).view(1, 1, 1, 2)
    assert digit_mask(bytes_).flatten().tolist() == [False, True]


def test_normalise():
    maps = torch.tensor([[[-1.0, 1.0], [2.0, 4.0]], [[1.0, 2.0], [2.0, 3.0]]])
    assert normalise(maps, "max")[0].tolist() == [[0, 0.25], [0.5, 1]]
    assert normalise(maps, "min-max")[1].tolist() == [[0, 0.5], [0.5, 1]]
    assert normalise(maps, 2)[1].tolist() == [[0.5, 1], [1, 1.5]]
    assert normalise(torch.zeros(1, 3, 3), "max").eq(0).all()
    assert normalise(torch.ones(1, 3, 3), "min-max").eq(0).all()


def test_map_change():
    a = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    b = torch.stack([3 * a[0] + 1, -a[1], torch.ones(8, 8) * 0.1, a[2]])
    change = map_change(a, b)
    assert change[:2].tolist() == pytest.approx([0, 2], abs=1e-5)
    assert change[2].isnan()
    assert change[3] == pytest.approx(1 - np.corrcoef(a[3].flatten(), a[2].flatten())[0, 1], abs=1e-5)
    assert torch.allclose(map_change(a * 1e37, b * 1e-37), change, atol=1e-5, equal_nan=True)


MAPS, MASK = torch.rand(2, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
IMAGES = torch.zeros(2, 1, 8, 8)
NAN = torch.full((2, 8, 8), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(MAPS[:, None], MASK), "maps must have shape (N, H, W), got (2, 1, 8, 8)"),
        (lambda: measure(MAPS.numpy(), MASK), "maps must be a float tensor, got ndarray"),
        (lambda: measure(MAPS.int(), MASK), "got torch.int32"),
        (lambda: measure(NAN, MASK), "maps hold NaN"),
        (lambda: measure(MAPS / 0, MASK), "NaN or infinite"),
        (lambda: measure(MAPS, MASK[:1]), "mask is torch.bool (1, 8, 8); give bool (2, 8, 8)"),
        (lambda: measure(MAPS, IMAGES), "mask is torch.float32 (2, 1, 8, 8)"),
        (lambda: measure(MAPS, MASK.numpy()), "mask is ndarray"),
        (lambda: measure(MAPS, MASK, tau=0), "tau=0 "),
        (lambda: measure(MAPS, MASK, tau=70), "tau=70 "),
        (lambda: measure(MAPS, MASK, tau=math.nan), "tau=nan"),
        (lambda: measure(MAPS, MASK, normalisation="minmax"), "did you mean 'min-max'"),
        (lambda: measure(MAPS, MASK, normalisation=-1.0), "normalisation=-1.0"),
        (lambda: measure(MAPS, MASK, normalisation=True), "normalisation=True"),
        (lambda: measure(MAPS, MASK, border=4), "border=4 must be 1 to 3"),
        (lambda: measure(MAPS, MASK, border=0), "border=0"),
        (lambda: measure(MAPS[:, :2], MASK[:, :2]), "3x3"),
        (lambda: digit_mask(IMAGES + 255), "images has values from 255"),
        (lambda: digit_mask(IMAGES, 128), "threshold=128 must lie in [-1, 1)"),
        (lambda: normalise(MAPS, "mean"), "normalisation='mean'"),
        (lambda: map_change(MAPS, MAPS[:1]), "maps_a (2, 8, 8) and maps_b (1, 8, 8)"),
        (lambda: map_change(MAPS, NAN), "maps_b hold NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    assert message in refused(call)

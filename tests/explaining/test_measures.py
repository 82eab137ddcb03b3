"""Measures against maps whose answer is known, and against a plain per-image reading of the definitions."""

import importlib
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcam_gan.errors import InputError
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, map_change, measures, normalise

SHARES = ["coverage", "focus", "rank_accuracy", "mask_area", "entropy"]
light = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def images_of(mask: torch.Tensor) -> torch.Tensor:
    """Bool (N, H, W) -> images in [-1, 1] that are white in the mask and black outside."""
    return mask[:, None].float() * 2 - 1


def centre_mask(n: int = 1, side: int = 16) -> torch.Tensor:
    """A centred square of half the side: a quarter of the area, clear of the border ring."""
    mask = torch.zeros(n, side, side, dtype=torch.bool)
    mask[:, side // 4 : -side // 4, side // 4 : -side // 4] = True
    return mask


def random_case(seed: int, n: int = 6, height: int = 12, width: int = 9):
    """Signed maps with many ties and zeros, and random images."""
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, height, width, generator=random)
    maps[::2] = (maps[::2] * 2).round() / 2
    images = torch.randint(0, 256, (n, 3, height, width), generator=random, dtype=torch.uint8)
    return maps, images


def naive(heatmap, image, tau, normalisation, threshold, border):
    """One row, by loops over pixels: heatmap (H, W) and image (C, H, W) as numpy arrays."""
    height, width = heatmap.shape
    pixels = list(itertools.product(range(height), range(width)))
    value = {p: max(float(heatmap[p]), 0.0) for p in pixels}
    inside = {p for p in pixels if max(image[:, p[0], p[1]] / 127.5 - 1) > threshold}
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
    row = measures(mask.float() * 3, images_of(mask)).iloc[0]
    assert row["focus"] == 1
    assert row["focus_lift"] == 4
    assert row["rank_accuracy"] == 1
    assert row["border_lift"] == 0
    assert row["mask_area"] == row["coverage"] == 0.25
    assert not row["all_zero"]


def test_a_uniform_map_is_chance():
    row = measures(torch.full((1, 16, 16), 0.3), images_of(centre_mask())).iloc[0]
    assert row["coverage"] == 1
    assert row["focus_lift"] == pytest.approx(1, abs=1e-6)
    assert row["rank_accuracy"] == row["mask_area"] == 0.25
    assert row["border_lift"] == pytest.approx(1, abs=1e-6)
    assert row["entropy"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_without_positive_part(value):
    row = measures(torch.full((1, 16, 16), value), images_of(centre_mask())).iloc[0]
    assert row["all_zero"]
    assert row["coverage"] == 0
    assert row["rank_accuracy"] == 0.25
    assert row[["focus", "focus_lift", "border_lift", "entropy"]].isna().all()


@pytest.mark.parametrize("white", [True, False])
def test_a_full_or_empty_mask_is_nan(white):
    row = measures(torch.rand(1, 16, 16), images_of(torch.full((1, 16, 16), white))).iloc[0]
    assert row["mask_area"] == float(white)
    assert row[["focus", "focus_lift", "rank_accuracy"]].isna().all()
    assert row[["coverage", "border_lift", "entropy"]].notna().all()


def test_a_single_pixel_has_no_entropy():
    maps = torch.zeros(2, 16, 16)
    maps[0, 8, 8] = 7  # in the mask
    maps[1, 0, 3] = 7  # on the border
    table = measures(maps, images_of(centre_mask(2)))
    assert table["entropy"].tolist() == [0, 0]
    assert table["focus"].tolist() == [1, 0]
    assert table["border_lift"].tolist() == pytest.approx([0, 256 / 60])
    assert table["coverage"].tolist() == [1 / 256, 1 / 256]


def test_a_digit_of_one_pixel():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 5, 7] = True
    heat = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images_of(mask)
    assert measures(heat + mask.float(), images)["rank_accuracy"].item() == 1
    assert measures(heat - mask.float(), images)["rank_accuracy"].item() == 0


def test_half_in_half_out():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :, :8] = True
    maps = torch.ones(1, 16, 16)
    maps[:, :8] = 0  # lower half hot: half of it in the mask
    row = measures(maps, images_of(mask)).iloc[0]
    assert row["focus"] == 0.5
    assert row["focus_lift"] == 1
    assert row["rank_accuracy"] == 0.5
    assert row["coverage"] == 0.5
    assert row["entropy"] == pytest.approx(math.log(128) / math.log(256), abs=1e-6)


def test_negative_evidence_does_not_count():
    mask = centre_mask()
    maps = torch.where(mask, 1.0, -5.0)
    pd.testing.assert_frame_equal(measures(maps, images_of(mask)), measures(mask.float(), images_of(mask)))


@light
@given(
    seed=seeds, normalisation=st.sampled_from(["max", "min-max", 1.5]), tau=st.sampled_from([0.3, 0.7, 1.0])
)
def test_equals_a_loop_over_pixels(seed, normalisation, tau):
    maps, images = random_case(seed)
    options = {"tau": tau, "normalisation": normalisation, "border": 2}
    got = measures(maps.double(), images, mask_threshold=0.25, **options)
    expected = pd.DataFrame(
        [
            naive(m, i, tau, normalisation, 0.25, 2)
            for m, i in zip(maps.double().numpy(), images.numpy(), strict=True)
        ]
    )
    pd.testing.assert_frame_equal(got, expected, rtol=1e-6, atol=1e-9)


@light
@given(seed=seeds, scale=st.floats(1e-30, 1e30))
def test_scale_of_the_map_does_not_matter(seed, scale):
    maps, images = random_case(seed)
    maps += 0.01  # keeps every value off the threshold, where one rounding may flip a pixel
    pd.testing.assert_frame_equal(
        measures(maps * scale, images, tau=0.4321), measures(maps, images, tau=0.4321), rtol=1e-4
    )


def test_extreme_magnitudes_neither_overflow_nor_vanish():
    maps, images = random_case(3)
    for scale in (1e-37, 1e37):
        table = measures(maps * scale, images)
        assert table.notna().all(axis=None)
        assert table["entropy"].between(0.5, 1).all()


@light
@given(seed=seeds, tau=st.lists(st.floats(0.01, 1), min_size=2, max_size=2).map(sorted))
def test_coverage_falls_with_tau(seed, tau):
    maps, images = random_case(seed)
    low, high = (measures(maps, images, tau=t)["coverage"] for t in tau)
    assert (low >= high).all()


@light
@given(seed=seeds)
def test_shares_are_shares_and_rows_follow_the_images(seed):
    maps, images = random_case(seed)
    table = measures(maps, images)
    order = torch.randperm(len(maps), generator=torch.Generator().manual_seed(seed))
    permuted = measures(maps[order], images[order])
    pd.testing.assert_frame_equal(permuted, table.iloc[order.numpy()].reset_index(drop=True))
    assert table[SHARES].apply(lambda column: column.dropna().between(0, 1).all()).all()


def test_rank_accuracy_is_the_mean_over_random_tie_breaks():
    random = np.random.default_rng(0)
    heatmap = random.integers(0, 3, (8, 8)).astype(np.float32)
    mask = random.random((8, 8)) < 0.3
    k = mask.sum()
    hits = [mask.ravel()[np.lexsort((random.random(64), -heatmap.ravel()))[:k]].mean() for _ in range(20_000)]
    images = images_of(torch.tensor(mask)[None])
    got = measures(torch.tensor(heatmap)[None], images)["rank_accuracy"].item()
    assert got == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / math.sqrt(len(hits)))


def test_chunks_do_not_change_the_rows(monkeypatch):
    maps, images = random_case(1, n=7)
    whole = measures(maps, images), map_change(maps, maps.flip(0))
    module = importlib.import_module("gradcam_gan.explaining.measures")
    monkeypatch.setattr(module, "CHUNK_PIXELS", {"cpu": 2 * maps[0].numel()})
    pd.testing.assert_frame_equal(measures(maps, images), whole[0])
    assert torch.equal(map_change(maps, maps.flip(0)), whole[1])


def test_the_table_is_tidy():
    maps, images = random_case(2)
    table = measures(maps.requires_grad_(), images)
    assert list(table.columns) == list(COLUMNS)
    assert table["all_zero"].dtype == bool
    assert (table.drop(columns="all_zero").dtypes == "float64").all()
    empty = measures(maps[:0], images[:0])
    assert len(empty) == 0
    assert (empty.dtypes == table.dtypes).all()


def test_inputs_are_left_alone():
    maps, images = random_case(4)
    before = maps.clone(), images.clone()
    measures(maps, images)
    normalise(maps, "min-max")
    map_change(maps, maps)
    assert torch.equal(maps, before[0])
    assert torch.equal(images, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(dtype):
    maps, images = random_case(5)
    maps = maps.to(dtype)
    pd.testing.assert_frame_equal(measures(maps, images), measures(maps.float(), images), rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_rows_from_a_gpu():
    maps, images = random_case(8)
    pd.testing.assert_frame_equal(measures(maps.cuda(), images), measures(maps, images), rtol=1e-5)


def test_uint8_and_scaled_images_agree():
    maps, images = random_case(6)
    scaled = images.float() / 127.5 - 1
    pd.testing.assert_frame_equal(measures(maps, images), measures(maps, scaled))


def test_the_default_border_is_a_sixteenth_of_the_side():
    for side, border in ((64, 4), (28, 2), (8, 1)):
        maps, images = torch.rand(1, side, side), images_of(centre_mask(1, side))
        pd.testing.assert_frame_equal(measures(maps, images), measures(maps, images, border=border))


def test_digit_mask():
    images = torch.full((1, 2, 4, 4), -1.0)
    images[0, 1, 2, 2] = 0.5  # one channel is enough
    images[0, 0, 1, 1] = 0.0  # at the threshold is not above it
    assert digit_mask(images).nonzero().tolist() == [[0, 2, 2]]
    assert digit_mask(images, 0.6).sum() == 0
    bytes_ = torch.tensor([127, 128], dtype=torch.uint8).view(1, 1, 1, 2)
    assert digit_mask(bytes_).flatten().tolist() == [False, True]


def test_normalise():
    maps = torch.tensor([[[-1.0, 1.0], [2.0, 4.0]], [[1.0, 2.0], [2.0, 3.0]]])
    assert normalise(maps, "max")[0].tolist() == [[0, 0.25], [0.5, 1]]
    assert normalise(maps, "min-max")[1].tolist() == [[0, 0.5], [0.5, 1]]
    assert normalise(maps, 2)[1].tolist() == [[0.5, 1], [1, 1.5]]
    assert normalise(torch.zeros(1, 3, 3), "max").eq(0).all()
    assert normalise(torch.ones(1, 3, 3), "min-max").eq(0).all()


def test_coverage_is_the_share_of_normalise():
    maps, images = random_case(7)
    for normalisation in ("max", "min-max", 0.8):
        shares = (normalise(maps, normalisation) >= 0.5).double().mean(dim=(1, 2))
        assert measures(maps, images, normalisation=normalisation)["coverage"].tolist() == shares.tolist()


def test_map_change():
    a = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    b = torch.stack([3 * a[0] + 1, -a[1], torch.ones(8, 8) * 0.1, a[2]])
    change = map_change(a, b)
    assert change[:2].tolist() == pytest.approx([0, 2], abs=1e-5)
    assert change[2].isnan()
    assert change[3] == pytest.approx(1 - np.corrcoef(a[3].flatten(), a[2].flatten())[0, 1], abs=1e-5)
    assert torch.allclose(map_change(a * 1e37, b * 1e-37), change, atol=1e-5, equal_nan=True)


MAPS, IMAGES = torch.rand(2, 8, 8), torch.zeros(2, 1, 8, 8)
NAN = torch.full((2, 8, 8), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measures(MAPS[:, None], IMAGES), r"maps .*\(N, H, W\).*\(2, 1, 8, 8\)"),
        (lambda: measures(MAPS.numpy(), IMAGES), "maps .*tensor"),
        (lambda: measures(MAPS.int(), IMAGES), "maps .*int32"),
        (lambda: measures(NAN, IMAGES), "maps .*NaN"),
        (lambda: measures(MAPS / 0, IMAGES), "maps .*infinite"),
        (lambda: measures(MAPS, IMAGES[:1]), r"\(1, 1, 8, 8\)"),
        (lambda: measures(MAPS, IMAGES[..., :4]), r"\(2, 1, 8, 4\)"),
        (lambda: measures(MAPS, IMAGES[:, 0]), r"images .*\(N, C, H, W\)"),
        (lambda: measures(MAPS, IMAGES.long()), "images .*int64"),
        (lambda: measures(MAPS, IMAGES + 255), r"images .*\[-1, 1\].*255"),
        (lambda: measures(MAPS, IMAGES * math.nan), r"images .*\[-1, 1\]"),
        (lambda: measures(MAPS, IMAGES, tau=0), "tau=0 "),
        (lambda: measures(MAPS, IMAGES, tau=70), "tau=70 "),
        (lambda: measures(MAPS, IMAGES, tau=math.nan), "tau=nan"),
        (lambda: measures(MAPS, IMAGES, normalisation="minmax"), "did you mean 'min-max'"),
        (lambda: measures(MAPS, IMAGES, normalisation=-1.0), "normalisation=-1.0"),
        (lambda: measures(MAPS, IMAGES, normalisation=True), "normalisation=True"),
        (lambda: measures(MAPS, IMAGES, border=4), "border=4 .*1 to 3"),
        (lambda: measures(MAPS, IMAGES, border=0), "border=0"),
        (lambda: measures(MAPS[:, :2], IMAGES[:, :, :2]), "3x3"),
        (lambda: measures(MAPS, IMAGES, mask_threshold=128), r"threshold=128 .*\[-1, 1\)"),
        (lambda: normalise(MAPS, "mean"), "normalisation='mean'"),
        (lambda: map_change(MAPS, MAPS[:1]), r"\(2, 8, 8\).*\(1, 8, 8\)"),
        (lambda: map_change(MAPS, NAN), "maps_b .*NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gradcam_gan.errors import InputError
from gradcam_gan.models.diffusion import ForwardDiffusion, diffuse, horizon, signal_shares
from gradcam_gan.models.options import Diffusion


def abar(time, horizon):
    """The product of 1 - beta over the first steps of a linear schedule, as textbooks write it."""
    step = (2e-2 - 1e-4) / max(horizon - 1, 1)
    return math.prod(1 - (1e-4 + step * i) for i in range(time))


def make(total_images=1000, seed=0, **options):
    return ForwardDiffusion(Diffusion(**options), total_images, torch.Generator().manual_seed(seed))


def fixed(horizon, **options):
    """A diffusion whose horizon cannot move."""
    return make(shortest=horizon, longest=horizon, **options)


def lists(diffusion, count):
    """That many lists of times, (count, 64)."""
    found = []
    for _ in range(count):
        diffusion.update(0, 0.0)
        found.append(diffusion.times.clone())
    return torch.stack(found)


def some_images(count=5, seed=0):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestDiffuse:
    @pytest.mark.parametrize(
        ("time", "horizon"), [(1, 1), (1, 10), (10, 10), (50, 100), (300, 300), (400, 1000)]
    )
    @pytest.mark.parametrize("sigma", [0.05, 1.0])
    def test_mean_and_variance_are_those_of_the_closed_form(self, time, horizon, sigma):
        draws, image = 20_000, torch.tensor([[[-1.0, -0.3], [0.4, 1.0]]])
        noise = torch.randn(draws, 1, 2, 2, generator=torch.Generator().manual_seed(time))
        times = torch.full((draws,), time)
        diffused = diffuse(image.expand(draws, 1, 2, 2), times, horizon, sigma, noise).double()
        share = abar(time, horizon)
        variance = (1 - share) * sigma**2
        error = 5 * math.sqrt(variance / draws)
        torch.testing.assert_close(
            diffused.mean(0), math.sqrt(share) * image.double(), rtol=0, atol=error + 1e-6
        )
        expected = torch.full((1, 2, 2), variance, dtype=torch.float64)
        torch.testing.assert_close(diffused.var(0), expected, rtol=5 * math.sqrt(2 / draws), atol=1e-12)

    @pytest.mark.parametrize("horizon", [0, 1, 10, 1000])
    def test_time_zero_gives_exactly_the_image(self, horizon):
        images = some_images()
        noise = torch.randn(images.shape)
        assert torch.equal(diffuse(images, torch.zeros(5, dtype=torch.int64), horizon, 0.05, noise), images)

    def test_each_image_gets_its_own_time(self):
        images, noise, times = some_images(), torch.randn(5, 1, 6, 6), torch.tensor([0, 7, 50, 99, 100])
        diffused = diffuse(images, times, 100, 0.3, noise)
        for i, time in enumerate(times.tolist()):
            share = abar(time, 100)
            expected = math.sqrt(share) * images[i] + math.sqrt(1 - share) * 0.3 * noise[i]
            torch.testing.assert_close(diffused[i], expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("horizon", "expected"), [(10, 0.95), (100, 0.60), (300, 0.22), (500, 0.08), (1000, 0.006)]
    )
    def test_the_contrast_left_at_the_horizon(self, horizon, expected):
        shares = signal_shares(horizon)
        assert shares.shape == (horizon + 1,)
        assert shares[0] == 1
        assert (shares.diff() < 0).all()
        assert shares[-1].sqrt().item() == pytest.approx(
            expected, abs=0.5 * 10 ** -(3 if horizon == 1000 else 2)
        )

    @pytest.mark.parametrize("time", [0, 1, 30, 100])
    def test_the_gradient_is_scaled_by_the_contrast(self, time):
        images = some_images().requires_grad_()
        diffused = diffuse(images, torch.full((5,), time), 100, 0.05, torch.randn(5, 1, 6, 6))
        diffused.sum().backward()
        expected = torch.full_like(images, math.sqrt(abar(time, 100)))
        torch.testing.assert_close(images.grad, expected, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("times", [[0, 11], [-1, 3], [-5, 40]])
    def test_times_beyond_the_horizon_are_refused_in_one_line(self, times):
        images = some_images(2)
        with pytest.raises(InputError) as caught:
            diffuse(images, torch.tensor(times), 10, 0.05, images)
        message = f"times go from {times[0]} to {times[1]}; they must lie in 0..T=10"
        assert str(caught.value) == message

    def test_no_images_are_no_error(self):
        assert (
            diffuse(some_images(0), torch.zeros(0, dtype=torch.int64), 10, 0.05, some_images(0)).shape[0] == 0
        )


class TestTimes:
    @pytest.mark.parametrize("prior", ["uniform", "priority"])
    @pytest.mark.parametrize("horizon", [1, 10, 1000])
    def test_half_of_the_list_is_zero_and_the_rest_lies_within_the_horizon(self, prior, horizon):
        found = lists(fixed(horizon, prior=prior), 20)
        assert found.shape == (20, 64)
        assert ((found == 0).sum(1) == 32).all()
        drawn = found[found > 0]
        assert drawn.min() >= 1
        assert drawn.max() <= horizon

    def test_half_of_the_images_stay_clean(self):
        diffusion = fixed(100)
        times = torch.cat([diffusion(torch.zeros(100, 1, 1, 1))[1] for _ in range(100)])
        clean = int((times == 0).sum())
        assert stats.binomtest(clean, len(times)).pvalue > 1e-3

    def test_images_draw_from_the_whole_list_alike(self):
        diffusion = fixed(1000, prior="uniform")
        times = torch.cat([diffusion(torch.zeros(100, 1, 1, 1))[1] for _ in range(100)])
        entries, copies = diffusion.times.unique(return_counts=True)
        observed = [int((times == entry).sum()) for entry in entries]
        assert sum(observed) == len(times)
        assert stats.chisquare(observed, copies.numpy() * len(times) / 64).pvalue > 1e-3

    @pytest.mark.parametrize("prior", ["uniform", "priority"])
    def test_the_prior_over_a_large_horizon(self, prior):
        drawn = lists(fixed(1000, prior=prior), 400)
        drawn = drawn[drawn > 0]
        observed = np.histogram(drawn, np.arange(0.5, 1001, 100))[0]
        ends = np.arange(0, 1001, 100)
        cumulative = ends / 1000 if prior == "uniform" else ends * (ends + 1) / (1000 * 1001)
        assert stats.chisquare(observed, np.diff(cumulative) * len(drawn)).pvalue > 1e-3
        mean = 500.5 if prior == "uniform" else 2001 / 3
        assert drawn.double().mean().item() == pytest.approx(mean, abs=5 * 289 / math.sqrt(len(drawn)))

    @pytest.mark.parametrize(
        ("prior", "shares"), [("uniform", [1 / 3] * 3), ("priority", [1 / 6, 2 / 6, 3 / 6])]
    )
    def test_the_prior_over_a_small_horizon_has_every_time(self, prior, shares):
        drawn = lists(fixed(3, prior=prior), 200)
        observed = drawn.flatten().bincount()[1:].numpy()
        assert stats.chisquare(observed, np.array(shares) * observed.sum()).pvalue > 1e-3

    def test_the_list_follows_a_horizon_that_moves(self):
        diffusion = make(shortest=2, longest=60, rise=1.0, target=0.0)
        signs = torch.randint(2, (150,), generator=torch.Generator().manual_seed(1)) * 2 - 1
        horizons = set()
        for sign in signs.tolist():
            diffusion.update(100, sign)
            _, times = diffusion(torch.zeros(50, 1, 2, 2))
            assert times.max() <= diffusion.times.max() <= diffusion.horizon
            horizons.add(diffusion.horizon)
        assert len(horizons) > 5

    def test_every_update_draws_a_new_list(self):
        found = lists(fixed(500), 5)
        assert all(not torch.equal(one, other) for one, other in itertools.combinations(found, 2))


class TestHorizon:
    OPTIONS = Diffusion(
        shortest=10, longest=110, target=0.6, rise=0.5
    )  # of 1000 images: 5 images a step of T

    def test_it_starts_at_the_shortest(self):
        assert make(shortest=7, longest=20).horizon == 7

    @pytest.mark.parametrize(
        ("progress", "expected"), [(0, 10), (0.004, 10), (0.006, 11), (0.5, 60), (1, 110)]
    )
    def test_progress_is_rounded_to_a_whole_horizon(self, progress, expected):
        assert horizon(self.OPTIONS, progress) == expected

    def test_it_goes_up_while_d_is_overconfident_down_while_not_and_no_further_than_its_ends(self):
        diffusion = make(**dict(self.OPTIONS))
        found = []
        for overconfidence in [-1, 0.61, 1, 0.6, 0.59, -1, -1, *[1] * 12, -1]:
            diffusion.update(50, overconfidence)
            found.append(diffusion.horizon)
        rising = [20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 110, 110]
        assert found == [10, 20, 30, 30, 20, 10, 10, *rising, 100]

    @pytest.mark.parametrize("target", [-1.0, 0.0, 0.6, 1.0])
    def test_it_stays_where_overconfidence_is_the_target(self, target):
        diffusion = make(shortest=10, longest=110, target=target)
        diffusion.progress.fill_(0.5)
        diffusion.update(100, target)
        assert diffusion.horizon == 60

    @pytest.mark.parametrize("rise", [0.1, 0.25, 1.0, 2.0])
    def test_always_up_it_takes_the_given_share_of_the_images(self, rise):
        diffusion = make(total_images=6_400, shortest=10, longest=500, rise=rise)
        shown = 0
        while diffusion.horizon < 500:
            assert shown < rise * 6_400
            diffusion.update(64, 1.0)
            shown += 64
        assert shown >= rise * 6_400 - 64  # rounding may reach the last step half a step early

    @pytest.mark.parametrize("overconfidence", [-1.0, 0.0, 1.0])
    @pytest.mark.parametrize("updates", [7, 100, 250])
    def test_an_open_loop_reaches_its_end_with_the_training_whatever_d_says(self, overconfidence, updates):
        options = {"shortest": 10, "longest": 300, "target": None, "rise": 1.0}
        diffusion = make(total_images=updates * 128, **options)
        for done in range(1, updates + 1):
            diffusion.update(128, overconfidence)
            assert diffusion.horizon == pytest.approx(10 + 290 * done / updates, abs=0.5 + 1e-9)
        assert diffusion.horizon == 300

    def test_a_horizon_of_zero_stays_and_changes_nothing(self):
        diffusion, images = fixed(0), some_images()
        for _ in range(3):
            diffusion.update(10_000, 1.0)
            diffused, times = diffusion(images)
            assert diffusion.horizon == 0
            assert not diffusion.times.any()
            assert not times.any()
            assert torch.equal(diffused, images)


class TestForwardDiffusion:
    def test_images_are_diffused_by_the_times_it_tells_over_the_horizon_it_is_at(self):
        diffusion, images = make(shortest=10, longest=210, sigma=0.0, rise=1.0), some_images(60)
        for expected in (10, 110, 210):
            assert diffusion.horizon == expected
            diffused, times = diffusion(images)
            contrast = torch.tensor([math.sqrt(abar(time, expected)) for time in times.tolist()])
            torch.testing.assert_close(diffused, contrast[:, None, None, None] * images, rtol=0, atol=1e-6)
            assert times.any()
            diffusion.update(500, 1.0)

    def test_noise_is_of_the_given_size_and_none_is_added_to_clean_images(self):
        diffusion = fixed(1000, sigma=0.2)
        diffused, times = diffusion(torch.zeros(400, 1, 10, 10))
        for time in times.unique().tolist():
            noise = diffused[times == time]
            expected = 0.2 * math.sqrt(1 - abar(time, 1000))
            assert noise.std().item() == pytest.approx(
                expected, rel=5 / math.sqrt(2 * noise.numel()), abs=1e-12
            )

    def test_two_calls_draw_other_times_and_other_noise(self):
        diffusion, images = fixed(500), torch.zeros(50, 1, 8, 8)
        (one, one_times), (other, other_times) = diffusion(images), diffusion(images)
        assert not torch.equal(one_times, other_times)
        both = (one_times > 0) & (other_times > 0)
        correlation = torch.corrcoef(torch.stack([one[both].flatten(), other[both].flatten()]))[0, 1]
        assert both.sum() > 5
        assert abs(correlation) < 0.2

    def test_the_same_seed_draws_the_same_and_the_global_random_state_has_no_part(self):
        images, found = some_images(), []
        for disturbance in range(2):
            torch.manual_seed(disturbance)
            before = torch.get_rng_state()
            diffusion = fixed(100, seed=3)
            found.append((*diffusion(images), diffusion.times))
            assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert not torch.equal(fixed(100, seed=4)(images)[0], found[0][0])

    def test_buffers_and_random_state_are_all_that_a_checkpoint_needs(self):
        diffusion, images = make(shortest=10, longest=210), some_images()
        diffusion.update(100, 1.0)
        saved = {name: tensor.clone() for name, tensor in diffusion.state_dict().items()}
        random = diffusion.generator.get_state()
        expected = diffusion(images)
        restored = make(shortest=10, longest=210, seed=9)
        restored.load_state_dict(saved)
        restored.generator.set_state(random)
        assert restored.horizon == diffusion.horizon == 90
        assert all(torch.equal(one, other) for one, other in zip(restored(images), expected, strict=True))
        assert not list(diffusion.parameters())

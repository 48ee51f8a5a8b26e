"""MultiMAE: what decoders may look at, losses against loops, missing modalities, standardisation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs import ConfigError
from configs.schema import GroupConfig
from pipeline.layers.patches import patchify
from pipeline.multimae.across import sums_from_others
from pipeline.multimae.groups import GroupTable, build_groups
from pipeline.multimae.loss import likeliest
from pipeline.multimae.patches import cut_patches, normed, robust_statistics
from pipeline.multimae.samples import Masking
from tests.pipeline.multimae_twin import GROUPS, ROWS, batch, config, masked, model, table

EVERYTHING = {"rgb": [0, 3, 9], "swir": [1], "radar": [2], "elevation": [0, 5, 7], "cover": [15]}


def mixed(groups: GroupTable):
    """Samples with all, some and one of the groups, of which as many patches are seen, or fewer."""
    rng = np.random.default_rng(0)
    return [
        masked(rng, groups, EVERYTHING, invalid=0.3),
        masked(rng, groups, {"radar": [1, 3], "elevation": [2]}),
        masked(rng, groups, {"cover": [1, 2, 3, 4]}, invalid=0.1),
        masked(rng, groups, {"rgb": [0, 1, 2], "swir": [5, 6, 7, 8, 9, 10]}),
    ]


def test_groups_run_in_registry_order_whatever_the_configuration_says() -> None:
    shuffled = dict(reversed(GROUPS.items()))
    found = build_groups(config(groups=shuffled), ROWS, "here")
    assert found == table()
    assert [g.name for g in found.groups] == ["rgb", "swir", "radar", "elevation", "cover"]
    assert [g.num_places for g in found.groups] == [16, 16, 4, 16, 16]
    assert [t.name for t in found.tasks][:3] == ["rgb", "rgb/normed", "swir"]
    assert found.groups[0].bands == (3, 2, 1)
    assert GroupTable.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "S3"}, "no S3; it has S2L2A"),
        ({"modality": "S2L2A", "bands": ("B99",)}, "no B99; it has B01"),
        ({"modality": "S2L2A", "stride": 2}, "stride is for class maps"),
        ({"modality": "WorldCover", "targets": ("normed",)}, "class numbers are no amounts"),
        ({"modality": "DEM", "patch_m": 50}, "does not divide into patches of 50 m"),
        ({"modality": "WorldCover", "stride": 3}, "into pixels of 30 m"),
    ],
)
def test_a_group_that_cannot_be_is_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        table(groups={"x": GroupConfig.model_validate(changes)})


def test_a_decoder_sees_encoded_visible_patches_and_nothing_else() -> None:
    """Other values in every hidden patch change no prediction; in one visible patch, all of them."""
    net, groups = model(), table()
    sample = masked(np.random.default_rng(1), groups, EVERYTHING)
    before = predict(net, sample)
    for group in groups.groups:
        x = torch.from_numpy(sample.pixels.values[group.modality])
        seen = np.zeros(group.num_places, bool)
        seen[EVERYTHING[group.name]] = True
        side, cell = group.grid[0], group.patch_px * group.stride
        hidden = ~np.kron(seen.reshape(side, side), np.ones((cell, cell), bool)).astype(bool)
        for band in group.bands:
            x[band][torch.from_numpy(hidden)] = 10 if group.classes else 7.5
    after = predict(net, sample)
    for name, made in before.items():
        assert torch.equal(made, after[name]), name
    sample.pixels.values["DEM"][0, 4:8, 4:8] += 1
    changed = predict(net, sample)
    assert all(not torch.allclose(made, changed[name]) for name, made in before.items())


def predict(net, sample):
    given = batch([sample], table())
    return net.predict(given, net.encode(given, net.cut(given)))


def test_the_loss_is_the_mean_error_of_hidden_valid_pixels_task_by_task() -> None:
    net, groups = model(loss_weights={"swir": 0.5, "rgb/normed": 2.0}), table()
    samples = mixed(groups)
    given = batch(samples, groups)
    made = net.predict(given, net.encode(given, net.cut(given)))
    expected = torch.zeros(len(samples), dtype=torch.float64)
    for task in groups.tasks:
        group = groups.groups[task.group]
        rows = given[f"rows/{group.name}"].tolist()
        for r, b in enumerate(rows):
            errors = []
            for place in range(group.num_places):
                if group.offset + place not in samples[b].visible:
                    truth, good = patch(samples[b], group, place)
                    guess = made[task.name][r, place].detach().float()
                    errors += pixel_errors(group, task, guess, truth, good)
            weight = {"swir": 0.5, "rgb/normed": 2.0}.get(task.name, 1.0)
            expected[b] += weight * sum(errors) / max(1, len(errors))
    torch.testing.assert_close(net(given).loss.double(), expected, rtol=1e-5, atol=1e-5)


def patch(sample, group, place):
    """Values [p, p, C] of one patch, cut out pixel by pixel, and which are valid [p, p]."""
    p, s = group.patch_px, group.stride
    top, left = (n * p * s + s // 2 for n in divmod(place, group.grid[1]))
    x, valid = sample.pixels.values[group.modality], sample.pixels.valid[group.modality]
    rows, columns = range(top, top + p * s, s), range(left, left + p * s, s)
    values = np.array([[[x[b, r, c] for b in group.bands] for c in columns] for r in rows])
    return torch.from_numpy(values), np.array([[valid[r, c] for c in columns] for r in rows])


def pixel_errors(group, task, guess, truth, good):
    p, errors = group.patch_px, []
    guess = guess.view(p, p, -1)
    if task.normed:
        known = truth[torch.from_numpy(good)]
        truth = (truth - known.mean()) / (known.var() + 1e-6).sqrt()
    for r in range(p):
        for c in range(p):
            if not good[r, c]:
                continue
            if group.classes:
                number = group.classes.index(int(truth[r, c, 0]))
                errors.append(float(F.cross_entropy(guess[r, c], torch.tensor(number))))
            else:
                apart = guess[r, c].double() - truth[r, c].double()
                error = apart.abs() if group.loss == "l1" else apart**2
                errors.append(float(error.mean()))
    return errors


@pytest.mark.parametrize("uncertainty", [False, True])
def test_a_batch_of_mixed_missing_modalities_has_the_gradients_of_its_samples(uncertainty) -> None:
    net, groups = model(uncertainty=uncertainty), table()
    if net.log_variance is not None:
        torch.nn.init.normal_(net.log_variance)
    samples = mixed(groups)
    net(batch(samples, groups)).loss.sum().backward()
    together = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    assert together.keys() == {n for n, _ in net.named_parameters()}
    net.zero_grad()
    for sample in samples:
        net(batch([sample], groups)).loss.sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-5, rtol=1e-5)


def test_every_parameter_is_used_in_the_same_order_whatever_is_present() -> None:
    net, groups = model(uncertainty=True), table()

    def order(sample):
        seen = []
        handles = [
            p.register_post_accumulate_grad_hook(lambda _, n=n: seen.append(n))
            for n, p in net.named_parameters()
        ]
        net(batch([sample], groups)).loss.sum().backward()
        for handle in handles:
            handle.remove()
        return seen

    everything, *others = map(order, mixed(groups))
    assert set(everything) == {n for n, _ in net.named_parameters()}
    assert all(other == everything for other in others)


def test_uncertainty_learns_nothing_from_what_a_sample_lacks() -> None:
    net, groups = model(uncertainty=True), table()
    net(batch([mixed(groups)[1]], groups)).loss.sum().backward()
    assert net.log_variance is not None
    assert net.log_variance.grad is not None
    taught = [t.name for t, g in zip(groups.tasks, net.log_variance.grad, strict=True) if g]
    assert taught == ["radar", "elevation"]


def test_padding_changes_nothing() -> None:
    net, groups = model(), table()
    few, many = mixed(groups)[1], mixed(groups)[3]
    alone, beside = batch([few], groups), batch([few, many], groups)
    assert "real" not in alone
    assert beside["real"].sum(1).tolist() == [3, 9]
    torch.testing.assert_close(net(alone).loss[0], net(beside).loss[0])


def test_a_sample_without_a_valid_pixel_teaches_nothing_and_spoils_nothing() -> None:
    net, groups = model(num_global_tokens=0, uncertainty=True), table()
    empty = masked(np.random.default_rng(6), groups, {"radar": [], "cover": []}, invalid=1.1)
    for samples in ([empty], [empty, mixed(groups)[3]]):
        loss = net(batch(samples, groups)).loss
        assert loss[0].item() == 0
        net.zero_grad()
        loss.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    together = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    net(batch([mixed(groups)[3]], groups)).loss.sum().backward()
    alone = [p.grad for p in net.parameters()]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_class_maps_keep_the_pixel_in_the_middle_and_no_class_is_invented() -> None:
    group = table().groups[-1]
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = cut_patches(group, x, torch.ones(1, 16, 16, dtype=torch.bool))
    assert torch.equal(found.values, patchify(x[..., 1::2, 1::2], 2))
    logits = torch.zeros(3, len(group.classes))
    logits[:, group.nodata] = 9.0
    logits[1, 4] = 1.0
    assert likeliest(group, logits).tolist() == [1, 4, 1]


def test_robust_standardisation_is_that_of_the_public_code() -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(3, 2, (4, 1, 8, 8)))
    valid = torch.from_numpy(rng.random((4, 8, 8)) < 0.7)
    valid[2], valid[3] = False, False
    valid[3, 0, :2] = True
    mean, std = robust_statistics(x, valid)
    for b in range(2):
        ordered = x[b, 0][valid[b]].sort().values
        middle = ordered[int(0.1 * len(ordered)) : int(0.9 * len(ordered))]
        torch.testing.assert_close(mean[b].squeeze(), middle.mean())
        torch.testing.assert_close(std[b].squeeze(), (middle.var() + 1e-6).sqrt())
    assert (float(mean[2]), float(std[2])) == (0.0, 1.0)
    # Of two values the middle is the smaller one.
    torch.testing.assert_close(mean[3].squeeze(), x[3, 0, 0, :2].min())
    # The level of the ground is gone from what the model sees, its relief is not.
    elevation = GroupConfig(modality="DEM", standardise="robust")
    group = table(groups={"elevation": elevation}).groups[0]
    low = cut_patches(
        group, x.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.ones(4, 16, 16).bool()
    )
    high = cut_patches(
        group, 5 + x.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.ones(4, 16, 16).bool()
    )
    torch.testing.assert_close(low.values, high.values)
    torch.testing.assert_close(low.centre + 5, high.centre)


def test_normed_patches_have_mean_0_and_variance_1_over_valid_values() -> None:
    rng = np.random.default_rng(4)
    values = torch.from_numpy(rng.normal(5, 3, (2, 4, 4 * 3)))
    valid = torch.from_numpy(rng.random((2, 4, 4)) < 0.8)
    found = normed(values, valid).unflatten(-1, (4, 3))
    for b, n in np.ndindex(2, 4):
        kept = found[b, n][valid[b, n]]
        assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
        assert float(kept.var()) == pytest.approx(1, abs=1e-4)
        assert not found[b, n][~valid[b, n]].any()


def test_held_out_errors_are_in_physical_units_beside_the_mean_as_a_guess() -> None:
    net, groups = model(), table()
    sample = masked(np.random.default_rng(5), groups, EVERYTHING)
    given = batch([sample], groups)
    made = net.predict(given, net.encode(given, net.cut(given)))
    sums = net(given, evaluate=True).sums
    hidden = [p for p in range(16) if p not in EVERYTHING["elevation"]]
    group = next(g for g in groups.groups if g.name == "elevation")
    truths = torch.stack([patch(sample, group, p)[0].flatten() for p in hidden])
    apart = (made["elevation"][0, hidden].float() - truths).double() * 200
    torch.testing.assert_close(sums["square/elevation"].sum(), (apart**2).sum(), rtol=1e-4, atol=0)
    guess = (truths.double() * 200).abs().sum()
    torch.testing.assert_close(sums["guess_absolute/elevation"].sum(), guess, rtol=1e-5, atol=0)
    assert float(sums["confusion/cover"].sum()) == 15 * 2 * 2


def test_a_group_from_the_others_alone_is_asked_for_whole() -> None:
    net, groups = model(), table()
    windows = [(i, s.pixels) for i, s in enumerate(mixed(groups))]
    given = []

    def keep(samples):
        given.extend(samples)
        return batch(samples, groups)

    found = sums_from_others(net, Masking(config(), groups), windows, keep)
    assert found.keys() == {"rgb", "swir", "radar", "elevation", "cover"}
    # Land cover is all that the third sample has: there is nothing to tell it from.
    assert found["cover"]["count"] == 1
    valid = sum(int(p.valid["DEM"].sum()) for _, p in windows if "DEM" in p.valid)
    assert found["elevation"]["pixels/elevation"] == valid
    by_name = {g.name: g for g in groups.groups}
    asked = iter(given)
    for name, sums in found.items():
        for _ in range(int(sums["count"])):
            visible = next(asked).visible
            places = by_name[name].places
            assert len(visible)
            assert not np.any((visible >= places.start) & (visible < places.stop))

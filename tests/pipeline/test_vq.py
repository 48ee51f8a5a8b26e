"""The codebook against slow implementations; what wakes it up when it sleeps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import VQConfig
from pipeline.stage1.quantizers.vq import VQ, nearest

V, L = 32, 4


def make(rows: int = 8, **changes) -> VQ:
    torch.manual_seed(0)
    given = {"num_codes": V, "latent_width": L, "ema_decay": 0.9, **changes}
    return VQ(VQConfig.model_validate(given), rows).train()


def step(vq: VQ, z: Tensor, cuts: int = 1) -> None:
    """One update from latents [B, N, L], in as many micro-batches."""
    found = [vq(part) for part in z.chunk(cuts)]
    stats = {k: torch.stack([f.stats[k] for f in found]).sum(0) for k in found[0].stats}
    vq.absorb(stats, {"latents": torch.cat([f.rows["latents"] for f in found])})


def test_a_latent_takes_the_code_it_is_most_like():
    vq, z = make(), torch.randn(3, 5, L)
    found = vq(z)
    for b in range(3):
        for n in range(5):
            similar = [float(F.cosine_similarity(z[b, n], e, dim=0)) for e in vq.codebook]
            assert found.codes[b, n] == similar.index(max(similar))
    torch.testing.assert_close(found.latents, vq.decode(found.codes))
    unit = F.normalize(z, dim=-1)
    expected = ((unit - vq.codebook[found.codes]) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found.loss, expected)


def test_gradients_pass_straight_through_and_pull_towards_the_code():
    vq, z = make(commitment=0.0), torch.randn(2, 5, L, requires_grad=True)
    weights = torch.randn(2, 5, L)
    (vq(z).latents * weights).sum().backward()
    reference = z.detach().clone().requires_grad_()
    (F.normalize(reference, dim=-1) * weights).sum().backward()
    torch.testing.assert_close(z.grad, reference.grad)


def test_updates_are_moving_averages_of_uses_and_latents():
    vq = make(dead_share=0.0)
    step(vq, torch.randn(4, 8, L))
    counts, sums = vq.counts.tolist(), vq.sums.clone()
    z = torch.randn(4, 8, L)
    codes = vq(z).codes
    step(vq, z)
    for k in range(V):
        mine = [F.normalize(z[b, n], dim=0) for b, n in (codes == k).nonzero().tolist()]
        count = 0.9 * counts[k] + 0.1 * len(mine)
        total = 0.9 * sums[k] + 0.1 * sum(mine, torch.zeros(L))
        assert float(vq.counts[k]) == pytest.approx(count, rel=1e-5)
        torch.testing.assert_close(vq.codebook[k], total / total.norm())


def test_the_codebook_is_the_same_however_a_batch_is_cut():
    whole, cut = make(), make()
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        z = torch.randn(6, 8, L, generator=generator)
        step(whole, z)
        step(cut, z, cuts=3)
    torch.testing.assert_close(cut.codebook, whole.codebook, rtol=1e-6, atol=1e-6)


def test_the_first_batch_decides_where_codes_are():
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(V, L), dim=1)
    z = (centres[torch.randint(V, (16, 32))] + 0.01 * torch.randn(16, 32, L)).requires_grad_()
    by_means, at_random = make(rows=32, kmeans_iterations=20), make(rows=32, kmeans_iterations=0)
    errors = []
    for vq in (by_means, at_random):
        step(vq, z.detach())
        errors.append(float(vq(z.detach()).loss.mean()))
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("dead_share", [0.0, 1 / 32])
def test_a_collapsed_codebook_recovers_where_codes_are_revived(dead_share: float):
    vq = make(dead_share=dead_share)
    around = torch.tensor([4.0, 0.0, 0.0, 0.0])

    def latents(num: int) -> Tensor:
        return around + torch.randn(num, 16, L)

    step(vq, latents(8))
    with torch.no_grad():  # all codes but one where no latent is
        vq.sums[1:] = -around + 0.1 * torch.randn(V - 1, L)
        vq.sums[0] = around
        vq.codebook.copy_(F.normalize(vq.sums, dim=1))
    assert len(vq(latents(64)).codes.unique()) == 1
    for _ in range(60):
        step(vq, latents(8))
    used = len(vq(latents(64)).codes.unique())
    assert used == 1 if dead_share == 0 else used > 0.9 * V


def test_the_codebook_keeps_its_precision_when_the_model_is_cast():
    vq = make()
    before = vq.codebook.clone()
    vq.bfloat16()
    assert vq.codebook.dtype == torch.float32
    assert torch.equal(vq.codebook, before)
    found = vq(torch.randn(2, 3, L).bfloat16())
    assert found.latents.dtype == torch.bfloat16
    assert found.stats["latents"].dtype == torch.float32


def test_chunks_change_nothing():
    vectors, codebook = torch.randn(10_000, L), torch.randn(V, L)
    assert torch.equal(nearest(vectors, codebook), (vectors @ codebook.t()).argmax(1))

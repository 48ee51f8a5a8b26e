"""Classifiers on frozen features: nearest neighbours, and a linear one.

Shapes: T training samples, E test samples, D width, C classes. Features are standardised by the training
samples' mean and deviation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_STEPS = 200
_TEMPERATURE = 0.07


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the mean and deviation of the first; channels that never vary become zero."""
    train, test = train.double(), test.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 1e-9, 1 / deviation.clamp(min=1e-9), 0.0)
    return (train - mean) * scale, (test - mean) * scale


def neighbour_shares(train: Tensor, labels: Tensor, test: Tensor, k: int) -> Tensor:
    """Weighted shares of the k most similar (cosine) training samples that have each class: [E, C] in [0, 1].

    Weights are exp(similarity / 0.07), as in DINO (Caron et al. 2021): with few samples k is most of them,
    and those far away must not outvote the near ones. `labels` [T, C] are 1 where a sample has a class.
    """
    similar = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    values, places = similar.topk(min(k, len(train)), dim=1)
    weights = (values / _TEMPERATURE).softmax(1)
    return (weights[..., None] * labels[places].to(weights.dtype)).sum(1)


def nearest(train: Tensor, labels: Tensor, test: Tensor, num_classes: int, k: int) -> Tensor:
    """The class [E] with the largest share of the k most similar training samples."""
    return neighbour_shares(train, F.one_hot(labels, num_classes), test, k).argmax(1)


def linear(train: Tensor, labels: Tensor, test: Tensor, num_classes: int, l2: float) -> Tensor:
    """The classes [E] of multinomial logistic regression, fitted to the end by L-BFGS.

    Minimises the mean cross-entropy plus l2 / 2 times the squared weights (not the biases).
    """
    weight = train.new_zeros(num_classes, train.shape[1], requires_grad=True)
    bias = train.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(train, weight, bias), labels)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return F.linear(test, weight.detach(), bias.detach()).argmax(1)


def probe(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int, k: int, l2: float
) -> dict[str, float]:
    """Accuracies of both on (features, labels)."""
    known, asked = standardise(train[0].cpu(), test[0].cpu())
    guesses = {
        "knn": nearest(known, train[1], asked, num_classes, k),
        "linear": linear(known, train[1], asked, num_classes, l2),
    }
    return {name: float((found == test[1]).double().mean()) for name, found in guesses.items()}

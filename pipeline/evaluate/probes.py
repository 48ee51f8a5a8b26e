"""Classifiers on frozen features: nearest neighbours, and a linear one.

Shapes: T training samples, E test samples, D width, C classes. Features are standardised by the training
samples' mean and deviation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_STEPS = 200


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the mean and deviation of the first; channels that never vary become zero."""
    train, test = train.double(), test.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 1e-9, 1 / deviation.clamp(min=1e-9), 0.0)
    return (train - mean) * scale, (test - mean) * scale


def nearest(train: Tensor, labels: Tensor, test: Tensor, num_classes: int, k: int) -> Tensor:
    """The class that most of the k most similar (cosine) training samples have: [E].

    Of classes with as many votes, the one whose neighbours are more similar together.
    """
    similar = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    values, places = similar.topk(min(k, len(train)), dim=1)
    votes = F.one_hot(labels[places], num_classes).to(values.dtype)
    # Similarities are at most 1, so that their mean only breaks ties.
    return (votes * (1 + values[..., None] / (2 * k))).sum(1).argmax(1)


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

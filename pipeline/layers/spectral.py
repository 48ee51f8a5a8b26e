"""The angle between spectra."""

import torch
from torch import Tensor
from torch.linalg import vector_norm


def spectral_angle(prediction: Tensor, truth: Tensor, floor: float | Tensor) -> Tensor:
    """Angle between the band vectors of each pixel (Kruse et al. 1993): [B, C, H, W] -> radians [B, H, W].

    Both in physical units, where a factor is a change of illumination. Computed as Kahan's
    2 atan2(|u - v|, |u + v|) of unit vectors: unlike the arc cosine it is exact for small angles, and
    its gradient stays finite there. Vectors shorter than `floor` have no direction: 0 where it is the
    truth's; a prediction fades towards a right angle, with a gradient no steeper than at the floor.
    """
    length = vector_norm(truth, dim=1, keepdim=True)
    has_direction = length > floor
    v = truth / torch.where(has_direction, length, 1.0)
    u = prediction / vector_norm(prediction, dim=1, keepdim=True).clamp(min=floor)
    angle = 2 * torch.atan2(vector_norm(u - v, dim=1), vector_norm(u + v, dim=1))
    return torch.where(has_direction[:, 0], angle, 0.0)


def has_spectral_direction(truth: Tensor, floor: float | Tensor) -> Tensor:
    """Where `spectral_angle` has something to compare with: [B, C, H, W] -> bool [B, H, W]."""
    return vector_norm(truth, dim=1) > floor

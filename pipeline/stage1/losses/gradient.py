"""The error of slopes: what relief is made of, and what an error of height alone leaves blurred."""

from torch import Tensor


def gradient_loss(prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """L1 of forward differences down and right (Eigen and Fergus 2015, without their square): [B].

    Images [B, C, H, W] and valid [B, H, W]. A mean over the differences between two valid pixels; 0
    for a sample without any. What lies in invalid pixels must be finite.
    """
    error = prediction - truth
    down, right = error.diff(dim=2).abs().mean(1), error.diff(dim=3).abs().mean(1)
    down_valid, right_valid = valid[:, 1:] & valid[:, :-1], valid[..., 1:] & valid[..., :-1]
    total = (down * down_valid).sum((1, 2)) + (right * right_valid).sum((1, 2))
    count = down_valid.sum((1, 2)) + right_valid.sum((1, 2))
    return total / count.clamp(min=1)

"""Images as rows of patches and back.

Shapes: B batch, C bands, H W pixels, p patch side, N = (H/p)(W/p) patches in row-major order.
A patch is flattened as (row, column, band), the order of 4M and TerraMind.
"""

from torch import Tensor


def patchify(x: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, p*p*C]. H and W must be multiples of the patch."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // patch, patch, w // patch, patch)
    # Sizes are spelled out: of an empty batch nothing could be inferred.
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(x: Tensor, patch: int, height: int, width: int) -> Tensor:
    """[B, N, p*p*C] -> [B, C, H, W]; the inverse of `patchify`."""
    b, c = x.shape[0], x.shape[2] // patch**2
    x = x.reshape(b, height // patch, width // patch, patch, patch, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)

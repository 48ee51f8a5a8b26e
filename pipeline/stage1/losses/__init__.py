"""What a decoder is taught by: one term per file, summed by `reconstruction`."""

from pipeline.stage1.losses.reconstruction import ReconstructionLoss, has_spectrum

__all__ = ["ReconstructionLoss", "has_spectrum"]

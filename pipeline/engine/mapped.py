"""Host memory that lies in files on a local disk.

The files are mapped: the kernel keeps of them in RAM what there is room for, and reads and writes the
rest. They have no names, so nothing is left when a process ends, however it ends, and two jobs on a
node never meet. Their space is taken at once: a full disk is an error at the start, not a crash later.
"""

import mmap
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pipeline.engine.errors import RunError


class MappedMemory:
    """Tensors on the disk of a folder. Raises RunError where files cannot be made there."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.zeros(1, torch.uint8)

    def zeros(self, numel: int, dtype: torch.dtype) -> Tensor:
        """A tensor of zeros, one-dimensional. Raises RunError when the disk has no room for it."""
        num_bytes = max(1, numel) * dtype.itemsize
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                memory = mmap.mmap(file.fileno(), num_bytes)
        except OSError as error:
            raise RunError(
                f"engine.offload.nvme_path={self._folder}: no {num_bytes / 1e9:.1f} GB for the optimizer "
                f"({error}{self._free()}); name a folder with more room on a local disk"
            ) from error
        return torch.frombuffer(memory, dtype=dtype)[:numel]

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros for the elements of another tensor, one-dimensional."""
        return self.zeros(tensor.numel(), tensor.dtype)

    def copy(self, tensor: Tensor) -> Tensor:
        """The elements of another tensor, one-dimensional."""
        return self.zeros_like(tensor).copy_(tensor.detach().view(-1))

    def _free(self) -> str:
        try:
            return f", {shutil.disk_usage(self._folder).free / 1e9:.1f} GB free"
        except OSError:
            return ""

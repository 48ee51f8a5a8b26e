"""What stage 1 and stage 2 agree on about tokens kept beside the pixels."""

PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
"""First entries of every text vocabulary, in this order."""


def extra_name(modality: str) -> str:
    """Name of the token modality that belongs to a modality, below `extra/` of a shard set."""
    return f"tok_{modality}"

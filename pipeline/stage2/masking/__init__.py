"""Which tokens of a sample the model sees and which it is asked for.

    mixture      one strategy for each sample, by weight
    dirichlet    any tokens; shares of the modalities by Dirichlet draws (4M)
    random       any tokens, all alike
    block        a rectangle on the ground is hidden and asked for
    tube         scattered places are hidden in all modalities and asked for
    single       one modality alone is seen
    dropout      around any of these: whole modalities are not seen

A strategy says where tokens may come from and how they are shared out; `drawing` does the rest, the same
for all: budgets are exact, what is absent gives nothing, no token is both seen and asked for, and
something is asked for wherever anything can be. Sequences are read or written (`prefix`), or lose spans
which are asked for (`span`).
"""

from pipeline.stage2.masking.build import build_masking
from pipeline.stage2.masking.mixture import Mixture
from pipeline.stage2.masking.selection import Selection, ask

__all__ = ["Mixture", "Selection", "ask", "build_masking"]

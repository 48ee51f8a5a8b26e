"""What the model thinks of open tokens, given the sources and what was drawn before."""

import numpy as np
from torch import Tensor

from pipeline.engine.distributed import to_device
from pipeline.engine.errors import RunError
from pipeline.generate.picking import Sampling
from pipeline.stage2.masking import ask
from pipeline.stage2.model import Context, MaskedTransformer
from pipeline.stage2.samples import Batch, Content, Masked, collate


class Proposer:
    """Logits of one target stream for a batch of samples, guided as asked for.

    Args:
        model: a trained model, in eval mode.
        contents: the source streams of each sample; the target must not be among them.
        target: index of the stream that is generated.
        how: whether and how sources are weighed.
    """

    def __init__(
        self, model: MaskedTransformer, contents: list[Content], target: int, how: Sampling
    ):
        self._model, self._target = model, target
        self._stream = model.layout.streams[target]
        sources = frozenset(i for c in contents for i in c.streams)
        self._terms = [
            (w, [_without(c, gone) for c in contents]) for w, gone in _terms(how, sources)
        ]
        if len(self._terms) > 1 and not model.config.num_registers:
            raise RunError(
                "guidance compares with what the model makes of no source at all, and without "
                "registers it cannot run on nothing; train it with masked.num_registers=4"
            )
        self._contexts: list[Context | None] = [None] * len(self._terms)

    def of_places(
        self, codes: list[np.ndarray], asked: list[np.ndarray], known: list[np.ndarray]
    ) -> list[Tensor]:
        """Logits [T, V] at the asked places of each sample, on the CPU; `codes` at the known are input."""
        found = None
        for weight, contents in self._terms:
            batch = self._batch(contents, codes, asked, known)
            rows = weight * self._logits(batch, self._model.encode(batch))
            found = rows if found is None else found + rows
        assert found is not None
        return list(found.cpu().split([len(places) for places in asked]))

    def of_next(self, written: list[np.ndarray]) -> list[Tensor]:
        """Logits [V] of the token that follows what is written, per sample, on the CPU.

        Sources do not change while a text is written: they are encoded once.
        """
        # The last place is the one asked for; its own value is never read.
        drafts = [np.append(codes, 0) for codes in written]
        places = [np.arange(len(d)) for d in drafts]
        found = None
        for number, (weight, contents) in enumerate(self._terms):
            batch = self._batch(contents, drafts, places, None)
            context = self._contexts[number]
            if context is None:
                context = self._contexts[number] = self._model.encode(batch)
            rows = weight * self._logits(batch, context)
            found = rows if found is None else found + rows
        assert found is not None
        # Beyond the tokens of a text its vocabulary has sentinels, which say nothing.
        tokens = found[:, : self._stream.first_sentinel]
        return [part[-1] for part in tokens.cpu().split([len(d) for d in drafts])]

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the samples."""
        self._terms = [(w, [contents[i] for i in rows]) for w, contents in self._terms]
        self._contexts = [c and c.rows(rows) for c in self._contexts]

    def _batch(
        self,
        contents: list[Content],
        codes: list[np.ndarray],
        asked: list[np.ndarray],
        known: list[np.ndarray] | None,
    ) -> Batch:
        masked = []
        for row, (content, values, places) in enumerate(zip(contents, codes, asked, strict=True)):
            inputs = {i: np.arange(len(v)) for i, v in content.streams.items()}
            if known is not None and len(known[row]):
                inputs[self._target] = known[row]
            given = dict(sorted(inputs.items()))
            selection = ask(self._model.layout.streams, given, self._target, places)
            drawn = content.with_streams({**content.streams, self._target: values})
            masked.append(Masked(drawn, selection))
        num_inputs = max(sum(map(len, m.selection.inputs.values())) for m in masked)
        num_targets = max(map(len, asked))
        device = next(self._model.parameters()).device
        return to_device(collate(masked, self._model.layout, num_inputs, num_targets), device)

    def _logits(self, batch: Batch, context: Context) -> Tensor:
        features = self._model.decode(batch, context)
        slots = batch[f"goal_slot/{self._stream.name}"]
        return self._model.logits(
            features.reshape(-1, features.shape[-1])[slots], self._target
        ).float()


Gone = frozenset[int]


def _terms(how: Sampling, sources: Gone) -> list[tuple[float, Gone]]:
    """Weights, and which sources are gone from the input whose logits they multiply; they sum to 1."""
    by = how.guidance_by
    if by:
        named = frozenset(by)
        return [(1 - sum(by.values()), named), *((w, named - {i}) for i, w in by.items())]
    if how.guidance != 1:
        return [(1 - how.guidance, sources), (how.guidance, frozenset())]
    return [(1.0, frozenset())]


def _without(content: Content, gone: Gone) -> Content:
    return content.with_streams({i: v for i, v in content.streams.items() if i not in gone})

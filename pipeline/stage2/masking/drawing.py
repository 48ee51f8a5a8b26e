"""The part of masking that all strategies share: exact budgets, and places for them.

Inputs are drawn first, targets from what is left. Where the inputs could take everything there is, a part
is kept back for the targets, in the proportion of the budgets: something is asked for wherever anything
can be.
"""

import numpy as np

from pipeline.data.budget import Shares, fit_budget
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.ground import Hidden, places_on_ground
from pipeline.stage2.masking.places import Places
from pipeline.stage2.masking.prefix import assign_roles
from pipeline.stage2.masking.selection import Present, Selection
from pipeline.stage2.masking.span import Spans, drop_spans


class Drawing:
    """Draws `num_inputs` inputs and `num_targets` targets, or as many as a sample has."""

    def __init__(self, layout: Layout, num_inputs: int, num_targets: int):
        streams = layout.streams
        self.num_inputs, self.num_targets = num_inputs, num_targets
        self._is_target = [s.is_target for s in streams]
        sequences = [i for i, s in enumerate(streams) if s.kind == "sequence"]
        self._spans = tuple(i for i in sequences if streams[i].num_sentinels)
        self._prefixes = tuple(i for i in sequences if not streams[i].num_sentinels)
        # Maps, places, dates: their tokens are chosen one by one.
        self._free = tuple(i for i, s in enumerate(streams) if s.kind != "sequence")
        self._unplaced = tuple(i for i in self._free if i not in places_on_ground(layout))
        self._places = Places(layout)

    def __call__(
        self,
        rng: np.random.Generator,
        present: Present,
        input_shares: Shares,
        target_shares: Shares,
        hidden: Hidden | None = None,
    ) -> Selection:
        """With `hidden` places, map tokens are inputs only outside them and targets only inside."""
        available = present.available
        seen = list(present.readable)
        asked = [n if t else 0 for n, t in zip(available, self._is_target, strict=True)]
        shared = self._free
        if hidden:
            for i, part in hidden.items():
                seen[i] = part.num_visible if seen[i] else 0
                asked[i] = part.num_inside if asked[i] else 0
            shared = self._unplaced
        assign_roles(rng, self._prefixes, seen, asked)
        must_drop = self._keep_back(seen, asked, shared)
        fit = input_shares(rng, seen)
        num_in = fit(seen, self.num_inputs)

        texts: dict[int, Spans] = {}
        for i in self._spans:
            if num_in[i]:
                texts[i] = Spans(drop_spans(rng, available[i], num_in[i], must_drop))
                must_drop = False
                num_in[i], asked[i] = len(texts[i].inputs), texts[i].num_targets
        if texts:
            # What the texts did not take after all, the others get.
            rest = [0 if i in self._spans else n for i, n in enumerate(seen)]
            taken = {i: num_in[i] for i in texts}
            num_in = fit(rest, self.num_inputs - sum(taken.values()))
            for i, n in taken.items():
                num_in[i] = n
        for i in shared:
            if asked[i]:
                asked[i] -= num_in[i]
        num_out = target_shares(rng, asked)(asked, self.num_targets)
        for i in self._spans:
            if num_out[i] and i not in texts:
                texts[i] = Spans([True] * available[i])
                self._announce(i, num_in, num_out, shared)
        return self._choose(rng, available, num_in, num_out, texts, hidden)

    def _keep_back(self, seen: list[int], asked: list[int], shared: tuple[int, ...]) -> bool:
        """Lower `seen` in place where it would leave no target; True where a text must lose a token."""
        both = [i for i in shared if seen[i] and asked[i]]
        total = sum([seen[i] for i in both])
        if total > self.num_inputs:
            return False
        if any(n for i, n in enumerate(asked) if i not in both and i not in self._spans):
            return False
        if any(asked[i] for i in self._spans):
            return True
        sizes = [n if i in both else 0 for i, n in enumerate(seen)]
        keep = max(1, total * self.num_targets // (self.num_inputs + self.num_targets))
        for i, n in enumerate(fit_budget(sizes, sizes, keep)):
            seen[i] -= n
        return False

    def _announce(
        self, text: int, num_in: list[int], num_out: list[int], shared: tuple[int, ...]
    ) -> None:
        """Give a text that is written its sentinel among the inputs, at another stream's cost if need be."""
        if sum(num_in) == self.num_inputs:
            giver = max(self._free, key=num_in.__getitem__, default=text)
            if num_in[giver] < 2:
                return
            num_in[giver] -= 1
            if giver in shared and self._is_target[giver] and sum(num_out) < self.num_targets:
                num_out[giver] += 1
        num_in[text] = 1

    def _choose(
        self,
        rng: np.random.Generator,
        available: list[int],
        num_in: list[int],
        num_out: list[int],
        texts: dict[int, Spans],
        hidden: Hidden | None,
    ) -> Selection:
        """Places for the budgets: random ones in maps and sets, and of sequences what is theirs."""
        inputs, targets, starts = {}, {}, {}
        active = [i for i in self._free if num_in[i] or num_out[i]]
        ranks = {i: part.ranks for i, part in hidden.items()} if hidden else {}
        places = self._places.shuffled(rng, active, ranks)
        at = 0
        for i, (n, k) in enumerate(zip(num_in, num_out, strict=True)):
            if not n and not k:
                continue
            if i in texts:
                if n:
                    inputs[i] = np.array(texts[i].inputs)
                if k:
                    wanted, starts[i] = texts[i].targets(rng, k)
                    targets[i] = np.array(wanted)
                continue
            if i in self._prefixes:
                # One of the two is 0.
                order = np.arange(n + k)
                stop = n + k
            else:
                stop = available[i]
                order = places[at : at + stop]
                at += stop
            if n:
                inputs[i] = order[:n]
            if k:
                targets[i] = order[stop - k :]
        return Selection(inputs, targets, starts)

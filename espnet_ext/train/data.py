"""From a dumped data directory to batches of tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import ESPnetDataset

from espnet_ext.errors import UserError
from espnet_ext.files import read_lines


@dataclass
class Batch:
    """A micro-batch on its device."""

    utterances: list[str]
    tensors: dict[str, torch.Tensor]  # speech (B, N), speech_lengths (B,), text (B, U), text_lengths (B,)


def read_shapes(path: str | Path) -> dict[str, int]:
    """First dimension of every utterance in a shape file (`<utterance> <length>[,<dim>]`).

    Raises:
        UserError: an absent file, or a line of another form.
    """
    shapes = {}
    for number, line in read_lines(path):
        fields = line.split()
        try:
            utterance, shape = fields
            shapes[utterance] = int(shape.split(",")[0])
        except ValueError:
            raise UserError(
                f"{path}:{number}: expected `<utterance> <length>`, found {line!r}; rerun stage stats"
            ) from None
    return shapes


class SpeechData:
    """The utterances of a data directory that are usable for training, by name.

    Args:
        data_dir: dumped directory (stage 3), with `text` and `wav.scp` or `feats.scp`.
        stats_dir: lengths (stage 5); only utterances listed there are used.
        preprocess: ESPnet's preprocessor, which turns the transcript into labels.
        text: whether transcripts are wanted.
    """

    def __init__(self, data_dir: str, stats_dir: str, preprocess: Callable | None, text: bool = True):
        data_dir, stats_dir = Path(data_dir), Path(stats_dir)
        self.lengths: Mapping[str, int] = read_shapes(stats_dir / "speech_shape")
        self.labels: Mapping[str, int] = read_shapes(stats_dir / "text_shape") if text else {}
        raw = (data_dir / "wav.scp").exists()
        speech = (
            (str(data_dir / "wav.scp"), "speech", "sound")
            if raw
            else (
                str(data_dir / "feats.scp"),
                "speech",
                "kaldi_ark",
            )
        )
        sources = [speech] + ([(str(data_dir / "text"), "text", "text")] if text else [])
        # max_cache_fd 0: a shared file position corrupts Kaldi archives once loader processes are forked.
        self.dataset = ESPnetDataset(sources, preprocess=preprocess, max_cache_fd=0)
        present = set(self.dataset.loader_dict["speech"].keys())
        missing = [utterance for utterance in self.lengths if utterance not in present]
        if missing:
            raise UserError(
                f"{stats_dir}/speech_shape: {len(missing)} utterances are not in {speech[0]}, "
                f"the first is {missing[0]!r}; rerun stage stats"
            )
        self.collate = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    def batches(
        self, order: Iterable[tuple[str, ...]], num_workers: int, device: torch.device | str = "cpu"
    ) -> Iterator[Batch]:
        """Load batches in the given order, ahead of time in ``num_workers`` processes."""
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=list(order),
            collate_fn=self.collate,
            num_workers=num_workers,
            prefetch_factor=4 if num_workers else None,
            # Loading draws nothing; a generator of its own keeps the loader off the global one.
            generator=torch.Generator().manual_seed(0),
            pin_memory=str(device).startswith("cuda"),
        )
        for utterances, tensors in loader:
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
            yield Batch(list(utterances), moved)

"""A task with all that the loop offers at once: two streams, two optimisers, turns that follow each other."""

import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.task import ASRTask
from espnet_ext.train.data import SpeechData
from espnet_ext.train.method import Loss, MicroBatch, Part, Turn


class TwoStreamMethod(JointMethod):
    """The recogniser on both streams; a head with BatchNorm on what the recogniser's turn kept."""

    def __init__(self, model, updater, head, head_updater):
        super().__init__(model, updater, modules={"head": head}, updaters={"head": head_updater})
        self.head = head
        self.steps = 0
        self._turns = (
            Turn(
                "model",
                (Part("labelled", self.keeping_part), Part("unlabelled", self.quiet_part, "unlabelled")),
                ("model",),
            ),
            Turn("head", (Part("kept:model", self.head_part, "head"),), ("head",)),
        )

    def keeping_part(self, micro: MicroBatch) -> Loss:
        output = self.model.outputs(**micro.batch.tensors, keys=micro.keys)
        loss = self.joint_loss(output, micro)
        return Loss(loss, self.joint_figures(output, loss, micro), output.encoder_out.detach().flatten(0, 1))

    def quiet_part(self, micro: MicroBatch) -> Loss:
        encoder_out, _ = self.model.encode_keyed(
            micro.batch.tensors["speech"], micro.batch.tensors["speech_lengths"], micro.keys
        )
        loss = encoder_out.pow(2).mean() * len(micro.batch.utterances) / micro.totals.utterances
        return Loss(0.1 * loss, {"energy": (loss.detach(), 1.0)})

    def head_part(self, micro: MicroBatch) -> Loss:
        scores = self.head(micro.kept)
        loss = (scores - 1).pow(2).sum() / micro.totals.utterances
        return Loss(loss, {"head": (loss.detach(), 1.0)})

    def after_step(self, position):
        self.steps += 1
        return {}

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"]


class TwoStreamTask(ASRTask):
    """The labelled set again as an unlabelled stream, with steps of another size."""

    @classmethod
    def build_streams(cls, args, everybody):
        streams = super().build_streams(args, everybody)
        data = SpeechData(
            args.train_data_dir,
            args.train_stats_dir,
            cls.build_preprocess_fn(args, True),
            args.seed,
            text=False,
        )
        budget = args.frames_per_step // 2
        return streams | {"unlabelled": cls.make_stream(args, "unlabelled", data, everybody, budget)}

    @classmethod
    def build_method(cls, args, model, streams):
        size = model.encoder.output_size()
        head = torch.nn.Sequential(
            torch.nn.BatchNorm1d(size), torch.nn.Dropout(0.5), torch.nn.Linear(size, 1)
        )
        updates = args.max_epoch * streams["labelled"].steps(1)
        return TwoStreamMethod(
            model,
            cls.make_updater(args, model.parameters(), updates),
            head,
            cls.make_updater(args, head.parameters(), updates),
        )

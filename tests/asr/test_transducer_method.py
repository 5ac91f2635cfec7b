"""Plain training of a transducer: what its loss is divided by, and what its figures say."""

import pytest
import torch

from espnet_ext.asr.transducer import adopt
from espnet_ext.asr.transducer_method import TransducerMethod
from espnet_ext.train.data import Batch
from espnet_ext.train.method import MicroBatch, Totals
from tests.asr.test_transducer import stock


@pytest.mark.parametrize(("loss_norm", "total", "weight"), [("utterance", 8, 4), ("token", 50, 25)])
@torch.no_grad()
def test_normalisation(batch, loss_norm, total, weight):
    """Half a step: its sums over the step's utterances, or over its labels with their <eos>."""
    weights = {"transducer_weight": 0.7, "auxiliary_ctc_weight": 0.3, "auxiliary_lm_loss_weight": 0.1}
    model = adopt(stock(**weights)).eval()
    micro = MicroBatch(Batch(list("abcd"), batch), Totals(utterances=8, labels=50, frames=999), None)
    found = TransducerMethod(model, None, loss_norm).transducer_part(micro)
    output = model.outputs(**batch)
    transducer = model.losses(output).sum()
    expected = (0.7 * transducer + 0.3 * output.ctc_sum + 0.1 * output.lm_sum) / total
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.figures["loss"][0], expected * total, rtol=1e-5, atol=0)
    assert found.figures["loss"][1] == weight  # 21 labels, and four times <eos>
    for name, value in (("transducer", transducer), ("ctc", output.ctc_sum), ("lm", output.lm_sum)):
        torch.testing.assert_close(found.figures[f"loss_{name}"][0], value, rtol=1e-5, atol=0)
        assert found.figures[f"loss_{name}"][1] == 4

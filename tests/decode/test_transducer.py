"""Searches of stand-alone transducers: batched, and equal to ESPnet's own."""

import argparse

import numpy as np
import pytest
import torch
from espnet2.asr_transducer.beam_search_transducer import BeamSearchTransducer
from espnet2.lm.seq_rnn_lm import SequentialRNNLM
from espnet2.lm.transformer_lm import TransformerLM

from espnet_ext.decode.options import DecodeOptions, check_options
from espnet_ext.decode.recogniser import Recogniser
from espnet_ext.decode.transducer import next_token, search_transducer
from espnet_ext.errors import UserError

TOKENS = ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"]


def config(decoder: str = "rnn", **options) -> dict:
    """Options of ESPnet's ASRTransducerTask.build_model."""
    block = {"block_type": "ebranchformer", "hidden_size": 16, "linear_size": 32, "heads": 2}
    block |= {"conv_mod_kernel_size": 7}
    predictor = {"embed_size": 16} | ({"hidden_size": 16} if decoder == "rnn" else {})
    return {
        "token_list": list(TOKENS),
        "token_type": "char",
        "init": None,
        "input_size": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 40},
        "specaug": None,
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "encoder_conf": {"input_conf": {"vgg_like": False, "conv_size": 8}, "body_conf": [block]},
        "decoder": decoder,
        "decoder_conf": predictor | options.pop("decoder_conf", {}),
        "joint_network_conf": {"joint_space_size": 16},
        "model_conf": {"auxiliary_ctc_weight": 0.3},
    } | options


LENS = torch.tensor([17, 3, 30, 9, 5, 24])
#: Encoder outputs, with noise behind the ends that no search may see.
MEMORY = torch.randn(len(LENS), 30, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def build():
    """Function: (kind of prediction network, options) → a transducer that has half learned what to say about
    MEMORY: its distributions are neither flat nor certain.
    """
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    from espnet_ext.asr.transducer import adopt
    from espnet_ext.asr.transducer_loss import joint_loss

    known = {}

    def make(decoder="rnn", blank=0.0, **options):
        name = f"{decoder} {blank} {options}"
        if name in known:
            return known[name]
        torch.manual_seed(4)
        model = adopt(ASRTransducerTask.build_model(argparse.Namespace(**config(decoder, **options)))).eval()
        labels = (LENS // 3).clamp_min(1)
        targets = torch.randint(2, 12, (len(LENS), int(labels.max())))
        inputs = torch.nn.functional.pad(targets, (1, 0))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            predicted = model.decoder(inputs)
            network = model.joint_network
            loss = joint_loss(
                lambda nodes: nodes.losses().sum(), network, MEMORY, LENS, predicted, targets, labels
            )
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            model.joint_network.lin_out.bias[0] += blank
        return known.setdefault(name, model.eval().requires_grad_(False))

    return make


def stock(
    model, memory: torch.Tensor, beam: int, most: int, nbest: int, lm=None, weight: float = 0.1
) -> list[tuple[list[int], float]]:
    """ESPnet's own search of one utterance."""
    search = BeamSearchTransducer(
        model.decoder, model.joint_network, beam, lm, weight, search_type="alsd", u_max=most, nbest=nbest
    )
    if lm is not None:
        # ESPnet pads between <sos> and the tokens: beside longer ones, an empty hypothesis reads padding.
        search.create_lm_batch_inputs = lambda prefixes: torch.tensor(
            [[prefix[-1] if prefix[1:] else search.sos] for prefix in prefixes]
        )
    with torch.no_grad():
        return [(hypothesis.yseq[1:], float(hypothesis.score)) for hypothesis in search(memory)]


KINDS = {
    "lstm": ("rnn", {}),
    "gru": ("rnn", {"decoder_conf": {"rnn_type": "gru", "num_layers": 2}}),
    "stateless": ("stateless", {}),
}


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_espnets_search(build, kind, beam):
    model = build(KINDS[kind][0], **KINDS[kind][1])
    memory, lens = MEMORY, LENS
    options = DecodeOptions(method="transducer", beam_size=beam, nbest=beam)
    found = search_transducer(model, memory, lens, options)
    lengths = set()
    for row, length in enumerate(lens.tolist()):
        wanted = stock(model, memory[row, :length], beam, length, beam)
        assert [list(each.tokens) for each in found[row]] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([each.score for each in found[row]], [s for _, s in wanted], atol=1e-4)
        lengths.add(len(found[row][0].tokens))
    assert len(lengths) > 2  # it is no search that finds nothing
    if beam == 1:
        greedy = search_transducer(model, memory, lens, DecodeOptions(method="transducer_greedy"))
        assert greedy == found


def test_hypotheses_that_meet_are_added_up(build, monkeypatch):
    """Without merging, ESPnet's scores (and mostly its results) are missed: the test above can fail."""
    from espnet_ext.decode import transducer

    model, memory, lens = build(), MEMORY, LENS
    options = DecodeOptions(method="transducer", beam_size=4)
    right = search_transducer(model, memory, lens, options)
    monkeypatch.setattr(transducer._Search, "_merge", lambda self, score, tokens, count: score)
    wrong = search_transducer(model, memory, lens, options)
    assert [each[0].score for each in right] != [each[0].score for each in wrong]


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_shallow_fusion_equals_espnets(build, weight):
    torch.manual_seed(1)
    model, lm = build(), SequentialRNNLM(len(TOKENS), unit=8, nlayers=2).eval()
    for parameter in lm.parameters():
        parameter.detach().mul_(5)  # it has opinions
    options = DecodeOptions(method="transducer", beam_size=4, lm_weight=weight)
    with torch.no_grad():
        found = search_transducer(model, MEMORY, LENS, options, lm)
    plain = search_transducer(model, MEMORY, LENS, DecodeOptions(method="transducer", beam_size=4), lm)
    for row, length in enumerate(LENS.tolist()):
        ((tokens, score),) = stock(model, MEMORY[row, :length], 4, length, 1, lm, weight)
        assert list(found[row][0].tokens) == tokens
        np.testing.assert_allclose(found[row][0].score, score, atol=1e-4)
    assert [each[0].tokens for each in plain] != [each[0].tokens for each in found]


def test_next_token_of_a_transformer():
    """Of each prefix alone, whatever the batch."""
    torch.manual_seed(1)
    lm = TransformerLM(len(TOKENS), pos_enc="sinusoidal", embed_unit=8, att_unit=8, head=2, unit=8, layer=2)
    tokens, count = torch.randint(1, 12, (3, 7)), torch.tensor([5, 0, 2])
    with torch.no_grad():
        together = next_token(lm.eval(), tokens, count, 12)
        for row, length in enumerate(count.tolist()):
            alone = lm(torch.tensor([[12, *tokens[row, :length].tolist()]]), None)[0][0, -1].log_softmax(-1)
            torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-6)


def test_fusion_without_a_language_model(build):
    with pytest.raises(UserError, match="there is no language model"):
        Recogniser(build(), DecodeOptions(method="transducer", lm_weight=0.3))


def test_length_limit(build):
    """No blank ever: cut off after as many labels as allowed, as in ESPnet, and told."""
    model, memory = build(blank=-100.0), torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(2))
    options = DecodeOptions(method="transducer", beam_size=2, maxlenratio=0.5)
    found = search_transducer(model, memory, torch.tensor([12, 6]), options)
    for row, (frames, most) in enumerate(((12, 6), (6, 3))):
        (best,) = found[row]
        wanted = stock(model, memory[row, :frames], 2, most, 1)
        assert best.truncated and list(best.tokens) == wanted[0][0]


def test_batch_changes_nothing_and_too_short_is_empty(build):
    model = build(blank=-4.0)
    generator = np.random.default_rng(0)
    audio = [generator.normal(0, 0.1, n).astype(np.float32) for n in (16000, 300, 9000, 12000)]
    for method in ("transducer", "transducer_greedy", "ctc_greedy"):
        recogniser = Recogniser(model, DecodeOptions(method=method))
        together = recogniser(audio)
        assert together[1][0].tokens == ()
        assert method == "ctc_greedy" or any(each[0].tokens for each in together)
        for one, found in zip(audio, together, strict=True):
            (alone,) = recogniser([one])
            assert [each.tokens for each in alone] == [each.tokens for each in found]
    assert Recogniser(model, DecodeOptions(method="transducer"))([audio[1]])[0][0].tokens == ()


@pytest.mark.parametrize("method", ["joint", "attention_greedy"])
def test_other_methods_are_refused(build, method):
    with pytest.raises(UserError, match="this model is a transducer; decode with `method: transducer`"):
        Recogniser(build(), DecodeOptions(method=method))


def test_ctc_of_a_transducer_without(build):
    with pytest.raises(UserError, match="auxiliary_ctc_weight 0"):
        Recogniser(build(model_conf={}), DecodeOptions(method="ctc_greedy"))


def test_other_models_are_refused(model):
    with pytest.raises(UserError, match="method transducer is for stand-alone transducers"):
        Recogniser(model, DecodeOptions(method="transducer"))


def test_options_that_are_not_read():
    with pytest.raises(UserError, match="does not read `ctc_weight`"):
        check_options({"method": "transducer", "ctc_weight": 0.3}, "x.yaml")

"""Y11: a streaming student hears no more of the future than is said, in stock ESPnet too."""

import numpy as np
import pytest
import torch
import yaml

from espnet_ext.asr.load import load_exported
from espnet_ext.distillation.streaming import check_streaming, frame_shift_of, look_ahead
from espnet_ext.errors import UserError
from espnet_ext.ssl.grid import grid_of
from tests.distillation.conftest import (
    TRAINING,
    NoiseTeacher,
    build_transducer,
    transducer_config,
    write_exported,
)

STREAM = {"dynamic_chunk_training": True, "short_chunk_size": 8}
HOP, CHUNK = 192, 10


def streaming_config(block: str = "ebranchformer", **changes) -> dict:
    config = transducer_config(hop=HOP, main=STREAM)
    body = dict(config["encoder_conf"]["body_conf"][0], block_type=block, num_blocks=2)
    if block != "ebranchformer":
        del body["depth_conv_kernel_size"]
    config["encoder_conf"] = {**config["encoder_conf"], "body_conf": [body]}
    config |= {"specaug": None, "specaug_conf": {}}
    return config | {"normalize": "global_mvn", "normalize_conf": {"stats_file": "feats_stats.npz"}} | changes


@pytest.fixture
def exported(tmp_path):
    """Function: block type → folder of an exported streaming transducer with random weights."""
    import argparse

    from espnet2.tasks.asr_transducer import ASRTransducerTask

    def make(block: str = "ebranchformer"):
        draw = np.random.default_rng(0)
        rows = draw.normal(-5, 2, (100, 20))
        stats = tmp_path / "feats_stats.npz"
        np.savez(stats, count=100, sum=rows.sum(0), sum_square=np.square(rows).sum(0))
        config = streaming_config(block)
        torch.manual_seed(1)
        built = {**config, "normalize_conf": {"stats_file": str(stats)}}
        model = ASRTransducerTask.build_model(argparse.Namespace(**built))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "conv" in name and parameter.dim() == 3 and parameter.size(-1) > 1:
                    torch.nn.init.normal_(parameter, std=0.5)  # what a convolution hears must show
        folder = write_exported(tmp_path / block, model, config | {"token_type": "char", "bpemodel": None})
        stats.rename(folder / "feats_stats.npz")
        return folder

    return make


def noise(seconds: float = 4.0, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(int(16000 * seconds), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def encode(model, speech: torch.Tensor) -> torch.Tensor:
    return model.encode_keyed(speech[None], torch.tensor([len(speech)]), None)[0][0]


@pytest.mark.parametrize("block", ["ebranchformer", "branchformer", "conformer"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_nothing_beyond_the_look_ahead(exported, block, chunk):
    """New samples from the stated one on change no output up to there; those just before do."""
    folder = exported(block)
    model = load_exported(folder)
    model.encoder.dynamic_chunk_training = True
    model.encoder.evaluation_chunk = chunk
    ahead = look_ahead(model.export_config, chunk)
    assert ahead.window == grid_of(model.encoder).window and ahead.factor == grid_of(model.encoder).factor
    speech = noise()
    before = encode(model, speech)
    for frame in (0, 5, 19, 40):
        first = ahead.last_sample(frame)
        assert first <= ahead.time(frame) + ahead.samples
        changed = speech.clone()
        changed[first:] = noise(seed=1)[first:]
        after = encode(model, changed)
        scale = before.abs().max()
        assert (after - before)[: frame + 1].abs().max() <= 1e-5 * scale
        assert (after - before)[frame + chunk :].abs().max() > 1e-2 * scale
        # The statement is no larger than it must be: the chunk hears the samples just before.
        changed = speech.clone()
        changed[first - 150 : first] += 0.5
        assert (encode(model, changed) - before)[frame].abs().max() > 1e-4 * scale
    # And it can be wrong: without chunks every output hears the end.
    model.encoder.evaluation_chunk = None
    changed = speech.clone()
    changed[-2000:] = 0.3
    assert (encode(model, changed) - encode(model, speech))[5].abs().max() > 1e-3 * scale


def stream(folder, speech: torch.Tensor, window: int = CHUNK * 4 * HOP):
    """Encoder outputs of each call of stock ESPnet's streaming inference, without the last."""
    from espnet2.bin.asr_transducer_inference import Speech2Text

    config = yaml.safe_load((folder / "config.yaml").read_text())
    if config["normalize"] == "global_mvn":
        config["normalize_conf"]["stats_file"] = str(folder / "feats_stats.npz")
    (folder / "stock.yaml").write_text(yaml.safe_dump(config))
    recogniser = Speech2Text(
        str(folder / "stock.yaml"),
        str(folder / "model.pth"),
        beam_size=1,
        streaming=True,
        decoding_window=round(window / 16),
        left_context=128,  # all there is: the limit is another difference
    )
    outputs, original = [], recogniser.asr_model.encoder.chunk_forward

    def tapped(*args, **kwargs):
        outputs.append(original(*args, **kwargs))
        return outputs[-1]

    recogniser.asr_model.encoder.chunk_forward = tapped
    for start in range(0, len(speech) - window + 1, window):
        recogniser.streaming_decode(speech[start : start + window])
    return [each[0] for each in outputs]


@pytest.mark.parametrize("block", ["ebranchformer", "branchformer", "conformer"])
def test_stock_streaming_hears_no_more(exported, block):
    """The same with stock ESPnet, audio fed window by window: its frame i is encoder frame i + 1."""
    folder = exported(block)
    ahead = look_ahead(streaming_config(block), CHUNK)
    speech = noise()
    before = stream(folder, speech)
    assert [len(each) for each in before] == [7] + [10] * (len(before) - 1)
    whole = torch.cat(before)
    for frame in (3, 8, 17, 25):
        changed = speech.clone()
        first = ahead.time(frame) + ahead.samples
        changed[first:] = noise(seed=1)[first:]
        after = torch.cat(stream(folder, changed))
        assert torch.equal(after[:frame], whole[:frame])  # encoder frames 1 to `frame`
        assert (after - whole)[frame + CHUNK :].abs().max() > 1e-3


def test_trained_exported_streamed(toy, capsys):
    """From stage 1 and stage 2 over the export to stock ESPnet: what train.log says is what is heard."""
    from espnet_ext.distillation.encoder_task import EncoderTask
    from espnet_ext.distillation.task import DistillationTask
    from espnet_ext.train.export import export

    front = dict(TRAINING["frontend_conf"], hop_length=HOP)
    encoder = streaming_config()["encoder_conf"]
    student = {"frontend_conf": front, "encoder_conf": encoder, "streaming_chunk": CHUNK}
    toy.teachers = {"one": NoiseTeacher(6, 1, shift=4 * HOP), "two": NoiseTeacher(10, 2, shift=2 * HOP)}
    make_stores(toy)
    words = [f"--targets_dir={toy.folder / 'targets'}"]
    conf = {"teachers": {"one": 1, "two": 1}}
    assert EncoderTask.main(cmd=toy.command("encoder", *words, distillation_conf=conf, **student)) == 0
    capsys.readouterr()
    assert (
        DistillationTask.main(cmd=toy.command("student", f"--stage1={toy.folder / 'encoder'}", **student))
        == 0
    )
    stated = look_ahead(student | {"normalize": None}, CHUNK).samples
    assert f"no output depends on more than {stated} samples" in capsys.readouterr().out
    export(toy.folder / "student", toy.folder / "export", 2)
    speech = noise()
    before = torch.cat(stream(toy.folder / "export", speech))
    ahead = look_ahead(yaml.safe_load((toy.folder / "export" / "config.yaml").read_text()), CHUNK)
    assert ahead.samples == stated
    for frame in (5, 20):
        changed = speech.clone()
        changed[ahead.time(frame) + stated :] = noise(seed=1)[ahead.time(frame) + stated :]
        after = torch.cat(stream(toy.folder / "export", changed))
        assert torch.equal(after[:frame], before[:frame])
        assert not torch.equal(after[frame + CHUNK :], before[frame + CHUNK :])


def make_stores(toy):
    """Embeddings at this student's frame rate."""
    from espnet_ext.distillation.dump import Dump, DumpOptions

    for name, teacher in toy.teachers.items():
        options = DumpOptions(4 * HOP, 16000)
        Dump(name, teacher, [toy.data], [], toy.folder / "targets" / name, options).run()


@pytest.mark.parametrize("block", ["ebranchformer", "branchformer", "conformer"])
@torch.no_grad()
def test_training_computes_what_is_streamed(exported, block):
    """Chunks of a masked batch give stock ESPnet's streamed outputs, up to rounding."""
    folder = exported(block)
    streamed = stream(folder, noise())
    sizes = [len(each) for each in streamed]
    model = load_exported(folder)
    features, lengths = model._extract_feats(noise()[None], torch.tensor([len(noise())]))
    features, lengths = model.normalize(features, lengths)
    encoder = model.encoder
    # ESPnet's inference never gives out the first frame, nor attends to it.
    x, mask = encoder.embed(features[:, 4:], torch.zeros(1, features.size(1) - 4, dtype=torch.bool))
    x, mask = x[:, : sum(sizes)], mask[:, : sum(sizes)]
    chunk = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ours = encoder.encoders(x, encoder.pos_enc(x), mask, chunk_mask=chunk[None, :] > chunk[:, None])
    torch.testing.assert_close(ours[0], torch.cat(streamed), rtol=1e-4, atol=1e-4)


def refused(**changes) -> dict:
    config = streaming_config()
    for path, value in changes.items():
        *outer, name = path.split("__")
        place = config
        for each in outer:
            place[each] = dict(place[each])
            place = place[each]
        place[name] = value
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (refused(encoder_conf__main_conf={}), "dynamic_chunk_training"),
        (refused(encoder_conf__main_conf__dynamic_chunk_training=False), "dynamic_chunk_training"),
        (refused(encoder_conf__main_conf__short_chunk_size=0), "short_chunk_size: expected at least 1"),
        (refused(encoder_conf__input_conf__subsampling_factor=3), "subsampling_factor 3: expected 2, 4 or 6"),
        (refused(encoder_conf__input_conf__vgg_like=True), "vgg_like"),
        (refused(normalize="utterance_mvn"), "utterance_mvn: hears a whole utterance"),
        (refused(frontend_conf__hop_length=160), "n_fft 512 with hop_length 160 .* lose, repeat or spoil"),
        (refused(frontend="sliding_window"), "frontend sliding_window"),
        (refused(encoder_conf__body_conf=[{"block_type": "lstm"}]), "blocks lstm"),
    ],
)
def test_what_cannot_stream_is_refused(config, message):
    check_streaming(streaming_config())
    with pytest.raises(UserError, match=message):
        check_streaming(config)


@pytest.mark.parametrize(
    ("n_fft", "hop", "good"),
    [
        *((512, 128, True), (512, 192, True), (512, 256, True), (640, 160, True)),
        *((512, 160, False), (400, 160, False)),
    ],
)
def test_why_some_hops_are_refused(n_fft, hop, good):
    """Stock ESPnet's features of a stream are those of the whole utterance with some hops alone."""
    from espnet2.asr_transducer.frontend.online_audio_processor import OnlineAudioProcessor

    model = build_transducer(exact=False, hop=hop, n_fft=n_fft)
    online = OnlineAudioProcessor(
        model._extract_feats, None, 640, 4, {"n_fft": n_fft, "hop_length": hop}, "cpu"
    )
    online.offset_frames = 10**6  # keep everything, to compare
    window = 40 * hop
    for start in range(0, 6 * window, window):
        feats, _ = online.compute_features(noise()[start : start + window], False)
    offline, _ = model._extract_feats(noise()[None], torch.tensor([64000]))
    size = feats.size(1)
    assert torch.allclose(feats[0, 3:], offline[0, 3:size], atol=2e-2) == good
    front = {"n_fft": n_fft, "hop_length": hop, "win_length": 400}
    config = streaming_config(frontend_conf=front)
    if good:
        check_streaming(config)
    else:
        with pytest.raises(UserError, match="lose, repeat or spoil"):
            check_streaming(config)


@pytest.mark.parametrize("factor", [2, 4, 6])
def test_windows_are_the_input_layers(factor):
    """What a frame reads is said without building the network."""
    import argparse

    from espnet2.tasks.asr_transducer import ASRTransducerTask

    config = refused(encoder_conf__input_conf__subsampling_factor=factor) | {"normalize": None}
    grid = grid_of(ASRTransducerTask.build_model(argparse.Namespace(**config)).encoder)
    ahead = look_ahead(config, 1)
    assert (ahead.factor, ahead.window) == (grid.factor, grid.window)


def test_look_ahead_by_hand():
    """From the middle of a chunk's first frame to the end of its last frame's last window."""
    ahead = look_ahead(streaming_config(), 10)
    middle, last = 3 * 192, ((10 - 1) * 4 + 6) * 192 + 400 // 2
    assert (ahead.time(0), ahead.samples) == (middle, last - middle)


def test_validation_and_decoding_hear_chunks(toy, tmp_path):
    """The model that is trained and the one that was exported, with no further option."""
    from espnet_ext.distillation.task import DistillationTask

    front = dict(TRAINING["frontend_conf"], hop_length=HOP)
    student = {"frontend_conf": front, "encoder_conf": streaming_config()["encoder_conf"], "model_conf": {}}
    args = toy.args(DistillationTask, streaming_chunk=CHUNK, **student)
    model = DistillationTask.build_model(args)
    assert model.encoder.evaluation_chunk == CHUNK
    config = streaming_config() | {"normalize": None, "normalize_conf": {}, "streaming_chunk": CHUNK}
    folder = write_exported(tmp_path / "exported", model, config)
    assert load_exported(folder).encoder.evaluation_chunk == CHUNK
    args.streaming_chunk = -1
    with pytest.raises(UserError, match="--streaming_chunk -1: expected 0"):
        DistillationTask.check_options(args)


def test_frame_shift():
    assert frame_shift_of(streaming_config()) == 4 * HOP
    with pytest.raises(UserError, match="needs audio"):
        frame_shift_of(streaming_config(input_size=80))
    with pytest.raises(UserError, match="is no transducer"):
        frame_shift_of({"encoder": "e_branchformer", "encoder_conf": {}})
    with pytest.raises(UserError, match="expected at least 1 encoder frame"):
        look_ahead(streaming_config(), 0)

"""Teachers: real loading code on tiny folders; frames that depend on nothing but the audio."""

import json

import numpy as np
import pytest
import torch

from espnet_ext.distillation.frames import common_length, reduce_rate, reduction_factor
from espnet_ext.distillation.teachers import check_rate, load_teacher
from espnet_ext.errors import UserError

KINDS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "whisper")


def assert_alone_equals_batch(teacher, utterances):
    together = teacher.embed(utterances)
    for samples, frames in zip(utterances, together, strict=True):
        single = teacher.embed([samples])[0]
        assert single.shape == frames.shape and frames.shape[1] == teacher.size
        assert (single - frames).abs().max() <= 1e-5 * single.abs().max()
        assert abs(len(frames) - len(samples) / teacher.shift) <= 7
        assert teacher.frames(len(samples)) == len(frames)
        assert single.std(0).mean() > 1e-3  # frames differ, so that a wrong one would show


@pytest.mark.parametrize("kind", KINDS)
def test_huggingface(kind, huggingface, utterances):
    """Y6: frozen, in evaluation mode, the same embedding twice; alone as in a batch; every layer choice."""
    folder = str(huggingface(kind))
    teacher = load_teacher(folder)
    assert not teacher.module.training and not any(p.requires_grad for p in teacher.module.parameters())
    assert (teacher.rate, teacher.shift, teacher.size) == (16000, 320, 16)
    assert_alone_equals_batch(teacher, utterances)
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.embed(utterances), teacher.embed(utterances), strict=True)
    )
    first, second, mean, last = (
        load_teacher(folder, layer).embed(utterances[:1])[0] for layer in (1, 2, "mean:3", "last")
    )
    assert not torch.allclose(first, second) and not torch.allclose(mean, last)
    assert_alone_equals_batch(load_teacher(folder, 2), utterances)
    with pytest.raises(UserError, match="has 3 layers"):
        load_teacher(folder, 4)


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec-audio"])
def test_too_short(kind, huggingface, utterances):
    """An utterance of which the convolutions leave nothing, with others or alone."""
    teacher = load_teacher(str(huggingface(kind)))
    for audio in ([utterances[0], utterances[0][:399]], [utterances[0][:399]]):
        with pytest.raises(UserError, match=f"{kind}: an utterance of 399 samples is too short"):
            teacher.embed(audio)
    assert len(teacher.embed([utterances[0][:400]])[0]) == 1


def test_layer_normed_wav2vec(huggingface, utterances):
    """The large models' kind: LayerNorm in every convolution, normalisation before attention."""
    folder = huggingface("wav2vec2", feat_extract_norm="layer", do_stable_layer_norm=True)
    assert_alone_equals_batch(load_teacher(str(folder)), utterances)


def test_equals_transformers_own(huggingface, utterances):
    """An utterance alone gives what transformers gives with its own feature extractor."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    folder = huggingface("hubert")
    inputs = Wav2Vec2FeatureExtractor.from_pretrained(folder)(
        utterances[1], sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(folder).eval()(inputs.input_values).last_hidden_state[0]
    torch.testing.assert_close(load_teacher(str(folder)).embed([utterances[1]])[0], theirs)


def test_whisper_drops_its_silence(huggingface):
    """Frames of the audio alone; what is longer than the window is heard in pieces, or refused."""
    folder = str(huggingface("whisper"))
    draw = np.random.default_rng(0)
    audio = draw.normal(0, 0.1, 32000 + 9000).astype(np.float32)
    teacher = load_teacher(folder)
    assert len(teacher.embed([audio[:8000]])[0]) == 25
    whole = teacher.embed([audio])[0]
    assert len(whole) == 100 + 9000 // 320
    torch.testing.assert_close(whole[100:], teacher.embed([audio[32000:]])[0])
    strict = load_teacher(folder, long="refuse")
    with pytest.raises(UserError, match="an utterance has 2.6 s"):
        strict.embed([audio])
    torch.testing.assert_close(strict.embed([audio[:32000]])[0], whole[:100])  # just the window
    with pytest.raises(UserError, match="an utterance of 319 samples is too short for it; raise --min_wav"):
        teacher.embed([audio, audio[:319]])
    assert len(teacher.embed([audio[:320]])[0]) == 1


def test_recognisers(recogniser, tmp_path, utterances):
    """An exported attention model, and a transducer; the layers are the encoder's."""
    from tests.distillation.conftest import build_transducer, transducer_config, write_exported

    transducer = write_exported(
        tmp_path / "transducer", build_transducer(exact=False, blocks=2), transducer_config(blocks=2)
    )
    for folder in (recogniser(), transducer):
        teacher = load_teacher(str(folder))
        assert (teacher.shift, teacher.size) == (640, 16)
        assert_alone_equals_batch(teacher, utterances)
        assert_alone_equals_batch(load_teacher(str(folder), 1), utterances)
        assert not torch.allclose(
            teacher.embed(utterances[:1])[0], load_teacher(str(folder), 1).embed(utterances[:1])[0]
        )


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_names_of_older_files(huggingface, utterances, kind):
    """As files on the hub: of a recogniser with its head, older names of the weight norm, pickled."""
    from safetensors.torch import load_file

    folder = huggingface(kind)
    expected = load_teacher(str(folder)).embed(utterances[:1])[0]
    state = {f"{kind}.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        (name,) = (each for each in state if each.endswith(new))
        state[name.replace(f"parametrizations.weight.{new}", old)] = state.pop(name)
    torch.save(state | {"lm_head.weight": torch.zeros(3, 16)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load_teacher(str(folder)).embed(utterances[:1])[0], expected)


def test_identity_tells_teachers_apart(huggingface):
    one, other = huggingface("wav2vec2", "one"), huggingface("wav2vec2", "other", seed=1)
    identities = [
        load_teacher(str(one)).identity,
        load_teacher(str(other)).identity,
        load_teacher(str(one), 1).identity,
    ]
    assert load_teacher(str(one)).identity == identities[0]
    assert len({json.dumps(each, sort_keys=True) for each in identities}) == 3


def test_identity_tells_settings_apart(huggingface):
    """The same weights, but samples that are scaled or not, and Whisper's long audio in pieces or refused."""
    folder = huggingface("wav2vec2")
    scaled = load_teacher(str(folder)).identity
    about = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(about | {"do_normalize": False}))
    assert load_teacher(str(folder)).identity != scaled
    whisper = str(huggingface("whisper"))
    assert load_teacher(whisper).identity != load_teacher(whisper, long="refuse").identity


def change(path, **values):
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights in this folder"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json: no such file"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "unknown type 'bert'"),
        (lambda f: (f / "config.json").write_text("no"), "OSError|JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "cannot load it"),
        (
            lambda f: change(f / "preprocessor_config.json", sampling_rate=None),
            "None: expected",
        ),
        (lambda f: change(f / "preprocessor_config.json", sampling_rate="16k"), "16k.: expected"),
        (lambda f: change(f / "preprocessor_config.json", do_normalize="no"), "do_normalize 'no': expected"),
    ],
)
def test_bad_folder(huggingface, break_it, message):
    folder = huggingface("hubert")
    break_it(folder)
    with pytest.raises(UserError, match=message) as error:
        load_teacher(str(folder))
    assert str(folder) in str(error.value)


def test_code_of_a_folder_is_never_run(huggingface, monkeypatch, tmp_path):
    """Neither code that config.json names (transformers would ask), nor what a pickle calls."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    monkeypatch.setattr("builtins.input", lambda *_: "y")
    names = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    folder = huggingface("wav2vec2", "asks")
    change(folder / "config.json", model_type="evil", auto_map=names)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')\nEvilConfig = object\n")
    pickled = huggingface("wav2vec2", "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, pickled / "pytorch_model.bin")
    for place, message in ((folder, "contains custom code"), (pickled, "Weights only load failed")):
        with pytest.raises(UserError, match=message):
            load_teacher(str(place))
    assert not (tmp_path / "evil").exists()


def test_whisper_of_other_mel_bands(huggingface):
    folder = huggingface("whisper")
    change(folder / "preprocessor_config.json", feature_size=40)
    with pytest.raises(UserError, match="makes 40 mel bands, the network .* hears 20"):
        load_teacher(str(folder))


def test_bad_place(tmp_path, huggingface):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent"):
        with pytest.raises(UserError, match="unknown type|no such file"):
            load_teacher(str(tmp_path / place))
    slow = load_teacher(str(huggingface("hubert", rate=8000)))
    with pytest.raises(UserError, match="hears 8000 Hz, this audio has 16000 Hz"):
        check_rate(slow, "slow", 16000)


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("encoder.layers.1.attention.k_proj.weight", {}),
        # Those of a multilingual model, one in each layer.
        ("encoder.layers.1.adapter_layer.norm.weight", {"adapter_attn_dim": 4, "do_stable_layer_norm": True}),
    ],
)
def test_missing_tensors_are_refused(part, options, huggingface):
    """A file that lacks a layer would be filled with random numbers."""
    from safetensors.torch import load_file, save_file

    path = huggingface("wav2vec2", **options) / "model.safetensors"
    state = load_file(path)
    del state[part]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the network's tensors"):
        load_teacher(str(path.parent))


def test_convolutions_behind_the_encoder_are_left_out(huggingface, utterances):
    """What add_adapter appends has a fraction of the frames that are counted."""
    teacher = load_teacher(str(huggingface("wav2vec2", add_adapter=True)))
    assert_alone_equals_batch(teacher, utterances)
    assert [len(frames) for frames in teacher.embed(utterances)] == [
        teacher.frames(len(samples)) for samples in utterances
    ]


def test_frame_rates():
    """Rates are brought together by whole numbers; lengths are cut, never stretched."""
    frames = torch.arange(14.0).view(7, 2)
    assert reduce_rate(frames, 2, "mean").tolist() == [[1, 2], [5, 6], [9, 10]]
    assert reduce_rate(frames, 2, "concat").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert torch.equal(reduce_rate(frames, 1, "mean"), frames)
    assert reduction_factor(320, 640, "x") == 2
    for shift in (768, 160):
        with pytest.raises(UserError, match="nothing is stretched"):
            reduction_factor(320, shift, "x")
    assert common_length(24, 25, 3, "u", "x") == 24
    assert common_length(24, 27, 3, "u", "x") == common_length(27, 24, 3, "u", "x") == 24
    with pytest.raises(UserError, match="the student has 28 frames, teacher x has 24; more than 3 apart"):
        common_length(28, 24, 3, "u", "x")
    with pytest.raises(UserError, match="'u': the student has 24 frames, teacher x has 28"):
        common_length(24, 28, 3, "u", "x")


def test_frames_are_at_the_same_time(huggingface, recogniser):
    """A click is heard in the frame where it is, whichever teacher, at the student's rate."""
    draw = np.random.default_rng(0)
    quiet = draw.normal(0, 1e-3, 32000).astype(np.float32)
    click = quiet.copy()
    click[19200:19840] += draw.normal(0, 0.5, 640).astype(np.float32)  # frame 30 of 40 ms
    for place in (huggingface("wavlm", feat_extract_norm="layer", do_stable_layer_norm=True), recogniser()):
        teacher = load_teacher(str(place), 1)
        teacher.normalise = False  # a click would change the loudness of everything else
        factor = reduction_factor(teacher.shift, 640, "x")
        with_click, without = (reduce_rate(teacher.embed([x])[0], factor, "mean") for x in (click, quiet))
        assert abs(int((with_click - without).abs().sum(1).argmax()) - 30) <= 1

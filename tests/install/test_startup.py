"""`import espnet_ext` before ESPnet: no noise, no network, no waste, and nothing else changed."""

import os
import subprocess
import sys

import pytest

# Importing what every training process imports, on a machine where any use of the network is a failure.
IMPORT_ASR = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"network used: {args}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import espnet_ext
import espnet2.tasks.asr
"""

# What no process of ours needs in order to start.
HEAVY = {"transformers", "nltk", "matplotlib", "sympy", "scipy.signal"}


def run_python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def output_of(code: str, *options: str, **environment: str) -> str:
    """Run the code; it must succeed and say nothing on stderr. Returns what it printed."""
    done = run_python(code, *options, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_espnet_imports_silently_offline_and_without_heavy_packages_that_few_runs_use():
    code = f"print('heavy:', *({HEAVY} & set(sys.modules)))"
    # -W default: also the warnings that Python shows only to developers' own code, such as deprecations.
    assert output_of(f"import sys\n{IMPORT_ASR}\n{code}", "-W", "default") == "heavy:\n"


@pytest.mark.slow
def test_espnet_is_noisy_by_itself():
    """The noise is real: if ESPnet stops making it, the hook can go."""
    done = run_python("import espnet.nets.pytorch_backend.transformer.attention")
    assert "Flash Attention" in done.stdout


TRAIN_A_STEP = """
import sys, torch
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([weight])
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo.eval_frame" in sys.modules)
"""


def test_optimisers_do_not_load_the_compiler():
    assert output_of("import espnet_ext" + TRAIN_A_STEP) == "False\n"
    assert output_of(TRAIN_A_STEP) == "True\n"  # or else the hook is no longer needed


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())",
        "import torch._dynamo.config; print(2.0 if torch._dynamo.config.cache_size_limit else 0)",
        "print(torch._dynamo.disable(lambda: 2.0)())",
        "torch._dynamo.reset(); print(2.0)",
    ],
)
def test_the_compiler_is_there_for_whoever_compiles(use):
    """Before and after optimisers have run without it."""
    assert output_of("import espnet_ext, torch, torch._dynamo\n" + use) == "2.0\n"
    assert output_of("import espnet_ext" + TRAIN_A_STEP + use) == "False\n2.0\n"


def test_other_output_of_a_hooked_module_is_kept():
    """A flash_attn that is there but broken is reported, as ESPnet does."""
    code = """
import espnet_ext, sys, types
sys.modules["flash_attn"] = types.ModuleType("flash_attn")  # has none of the names that ESPnet wants
import espnet.nets.pytorch_backend.transformer.attention
"""
    assert "cannot import name 'flash_attn_func'" in output_of(code)


TYPECHECK = """
import espnet_ext
from espnet2.asr.ctc import CTC
try:
    CTC(odim="seven", encoder_output_size=4)
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("switch", "error"), [("1", "TypeCheckError"), ("0", "TypeError"), ("", "TypeError")]
)
def test_switch_of_espnets_type_checks(switch, error):
    assert output_of(TYPECHECK, ESPNET_EXT_TYPECHECK=switch).strip() == error


@pytest.mark.parametrize("first", ["espnet_ext", "typeguard"])  # pytest itself imports typeguard first
def test_other_packages_keep_their_type_checks(first, tmp_path):
    code = f"""
import {first}, espnet_ext
from typeguard import TypeCheckError, typechecked

@typechecked
def ours(number: int): ...

@typechecked(collection_check_strategy=None)
class Ours:
    def method(self, number: int): ...

for function in (ours, Ours().method):
    try:
        function("one")
    except TypeCheckError:
        print("checked")
"""
    (tmp_path / "checked.py").write_text(code)  # typeguard reads the source, which needs a file
    assert (
        output_of("import checked", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        == "checked\n" * 2
    )


@pytest.mark.slow
def test_late_names_become_the_things_they_stand_for():
    code = """
import espnet_ext
import espnet2.asr.encoder.beats_encoder as beats
import espnet2.layers.create_adapter_fn as adapter
import espnet2.train.preprocessor as preprocessor

assert beats.is_transformers_available
assert beats.Wav2Vec2ConformerConfig(hidden_size=8).hidden_size == 8
assert isinstance(beats.Wav2Vec2ConformerConfig, type)
assert not isinstance(3, adapter.Wav2Vec2EncoderLayerStableLayerNorm)
assert isinstance(adapter.Wav2Vec2EncoderLayerStableLayerNorm, type)
assert len(preprocessor.scipy.signal.get_window("hann", 5)) == 5
"""
    output_of(code)


def test_without_transformers_espnet_says_so():
    code = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "transformers" else find(name, *rest)
import espnet_ext
import espnet2.asr.encoder.beats_encoder as beats
print(beats.is_transformers_available)
"""
    assert output_of(code) == "False\n"


def test_phoneme_tokens_download_nothing_and_say_what_is_missing(tmp_path):
    code = """
import espnet_ext
from espnet2.text.phoneme_tokenizer import G2p_en
from espnet_ext.errors import UserError
try:
    G2p_en()("hello")
except UserError as error:
    print(error)
"""
    # An empty home: a developer's own copy of the dictionaries must not decide the result.
    said = output_of(code, HOME=str(tmp_path), NLTK_DATA=str(tmp_path))
    assert "python -m nltk.downloader averaged_perceptron_tagger_eng" in said


def test_hooks_are_installed_once():
    code = """
import importlib, sys
import espnet_ext
importlib.reload(espnet_ext)
print(sum(type(finder).__module__ == "espnet_ext._startup" for finder in sys.meta_path))
"""
    assert output_of(code) == "1\n"

"""What must happen before espnet2 is imported: no download, no noise, no time spent on what few runs use.

A plain `import espnet2.tasks.asr` instruments every function with typeguard, asks nltk to download two
dictionaries, loads all of transformers, and prints. `install` arranges that, *when* one of the modules below
is imported, if ever, it is executed differently:

- `typeguard`: its `@typechecked` returns functions of ESPnet and inflect as they are, and checks others';
- `g2p_en`: at its first use only, and never downloads;
- the modules of `_LATE`: the names they take from a heavy package are looked up at their first use;
- ESPnet's attention layer: does not print that the optional package flash_attn is absent.

The warnings of `_WARNINGS`, which only ESPnet's authors can act on, are not shown. Everything else stays as
it is: other messages, other warnings, other packages. ESPNET_EXT_TYPECHECK=1 in the environment turns
ESPnet's own type checks back on.
"""

import builtins
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Run = Callable[[ModuleType], None]  # executes a module's code

# Packages whose functions are not instrumented. ESPnet imports inflect (which spells numbers, for speech
# synthesis), whose instrumentation alone takes longer than the rest of the import.
_UNCHECKED = {"espnet", "espnet2", "espnetez", "inflect"}

# Modules that `espnet2.tasks.asr` imports -> the package from which they import names that few runs use.
_LATE = {
    "espnet2.asr.decoder.hugging_face_transformers_decoder": "transformers",
    "espnet2.asr.encoder.beats_encoder": "transformers",
    "espnet2.asr.encoder.hugging_face_transformers_encoder": "transformers",
    "espnet2.asr.postencoder.hugging_face_transformers_postencoder": "transformers",
    "espnet2.gan_tts.jets.alignments": "scipy",
    "espnet2.layers.create_adapter_fn": "transformers",
    "espnet2.text.hugging_face_token_id_converter": "transformers",
    "espnet2.text.hugging_face_tokenizer": "transformers",
    "espnet2.text.qwen2audio_tokenizer": "transformers",
    "espnet2.train.preprocessor": "scipy",
    "librosa.filters": "scipy",
}

# (beginning of the message, category, module whose line is at fault); both texts are regular expressions.
_WARNINGS = (
    # torch 2.4 renamed torch.cuda.amp.autocast() to torch.amp.autocast("cuda"); ESPnet uses the old name.
    (r"`torch\.cuda\.amp\.", FutureWarning, r"espnet2?\."),
)


def install() -> None:
    """Prepare the import system; safe to call again."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if "typeguard" in sys.modules:  # pytest loads typeguard's plug-in before us
        _relax_typeguard(sys.modules["typeguard"])
    sys.meta_path.insert(0, _Finder())
    for message, category, module in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)


class _Finder(MetaPathFinder):
    """Finds modules as Python does, and lets a function of `_HOOKS` execute those that are named there."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if _PENDING and name.rpartition(".")[0] in _PENDING:
            _PENDING[name.rpartition(".")[0]]()  # a submodule needs its package
        hook = _HOOKS.get(name)
        if hook is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module
        # Set on this one loader object, so that its other methods (source, resources) stay the module's own.
        spec.loader.exec_module = lambda module: hook(module, run)
        return spec


# --- typeguard ----------------------------------------------------------------------------------------------


def _exec_typeguard(module: ModuleType, run: Run) -> None:
    run(module)
    _relax_typeguard(module)


def _relax_typeguard(typeguard: ModuleType) -> None:
    """Make `@typechecked` a no-op for the packages of `_UNCHECKED`, unless ESPNET_EXT_TYPECHECK=1."""
    if os.environ.get("ESPNET_EXT_TYPECHECK", "0") not in ("", "0"):
        return
    check = typeguard.typechecked

    def typechecked(target: Any = None, /, **options: Any) -> Any:
        if target is None:  # @typechecked(option=...)
            return lambda real_target: typechecked(real_target, **options)
        if getattr(target, "__module__", "").split(".")[0] in _UNCHECKED:
            return target
        return check(target, **options)

    typeguard.typechecked = typechecked


# --- g2p_en -------------------------------------------------------------------------------------------------


def _exec_g2p_en(module: ModuleType, run: Run) -> None:
    """Leave the module empty until somebody asks it for a name: only phoneme tokens do, and it loads nltk."""

    def load(name: str) -> Any:
        if name.startswith("__"):  # asked by inspect, doctest and others of every module there is
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        import nltk

        download = nltk.download
        nltk.download = _refuse_download
        try:
            run(module)
        finally:
            nltk.download = download
        del module.__getattr__
        return getattr(module, name)

    module.__getattr__ = load


def _refuse_download(resource: str, *_args: Any, **_kwargs: Any) -> None:
    from espnet_ext.errors import UserError

    raise UserError(
        f"phoneme tokens of the type g2p_en need the nltk resource {resource!r}, which is not here "
        f"and is not downloaded unasked. With a network, once: python -m nltk.downloader {resource}"
    )


# --- heavy packages -----------------------------------------------------------------------------------------


class _LateName:
    """Stands for `name` of the module `source` inside the module `owner`, until somebody uses it."""

    def __init__(self, owner: ModuleType, source: str, name: str):
        self._where = (owner, source, name)

    def _resolve(self) -> Any:
        owner, source, name = self._where
        value = getattr(importlib.import_module(source), name)
        setattr(owner, name, value)  # from now on the owner uses the thing itself
        return value

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # copy, inspect and typing probe for these
            raise AttributeError(attribute)
        return getattr(self._resolve(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._resolve()(*args, **kwargs)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._resolve())


class _LateSource:
    """What `from PACKAGE import NAME` finds in place of the package: every name is a `_LateName`."""

    def __init__(self, owner: ModuleType, source: str):
        self._where = (owner, source)

    def __getattr__(self, name: str) -> _LateName:
        return _LateName(*self._where, name)


def _exec_late(module: ModuleType, run: Run) -> None:
    """Execute a module of `_LATE`; its own imports from the heavy package wait for their first use."""
    package = _LATE[module.__name__]
    if PathFinder.find_spec(package) is None:
        run(module)  # ESPnet must see the ImportError and say what to install
        return

    def import_(name: str, globals=None, locals=None, fromlist=(), level: int = 0) -> Any:
        if level == 0 and name.split(".")[0] == package:
            if fromlist:
                return _LateSource(module, name)
            name = package  # `import scipy.signal`: scipy loads its own submodules at their first use
        return builtins.__import__(name, globals, locals, fromlist, level)

    _exec_with_builtins(module, run, __import__=import_)


# --- torch's compiler ---------------------------------------------------------------------------------------

_COMPILER = "torch._dynamo"


def _exec_compiler(module: ModuleType, run: Run) -> None:
    """Leave torch's compiler unloaded until something compiles; every optimiser imports it, for 0.8 s.

    What optimisers want of it is `disable` (run this uncompiled) and `graph_break`: without a compiler,
    nothing to do. Any other name, and any submodule (see `_Finder`), loads the compiler.
    """

    def load(name: str | None = None) -> Any:
        if name is not None and name.startswith("__"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        if _PENDING.pop(_COMPILER, None) is not None:
            for each in ("__getattr__", "disable", "graph_break"):
                delattr(module, each)
            run(module)
        return getattr(module, name) if name is not None else None

    def disable(fn: Any = None, *arguments: Any, **options: Any) -> Any:
        if fn is not None and sys._getframe(1).f_globals.get("__name__") == "torch._compile":
            return fn  # a decorated function of torch's own that runs for the first time
        load()
        return module.disable(fn, *arguments, **options)

    _PENDING[_COMPILER] = load
    module.disable, module.graph_break, module.__getattr__ = disable, lambda *_, **__: None, load


#: Packages whose code waits → what executes it.
_PENDING: dict[str, Callable[[], Any]] = {}


# --- ESPnet's attention layer -------------------------------------------------------------------------------


def _exec_attention(module: ModuleType, run: Run) -> None:
    def print_(*values: Any, **options: Any) -> None:
        text = " ".join(map(str, values))
        absent = "Failed to import Flash Attention" in text and "No module named 'flash_attn'" in text
        if not absent:  # present but broken is worth a line
            builtins.print(*values, **options)

    _exec_with_builtins(module, run, print=print_)


def _exec_with_builtins(module: ModuleType, run: Run, **changed: Any) -> None:
    """Execute a module that sees other builtins than the rest of the program, which is not touched."""
    module.__builtins__ = {**vars(builtins), **changed}
    run(module)


_HOOKS: dict[str, Callable[[ModuleType, Run], None]] = {
    "typeguard": _exec_typeguard,
    "g2p_en": _exec_g2p_en,
    _COMPILER: _exec_compiler,
    "espnet.nets.pytorch_backend.transformer.attention": _exec_attention,
    **dict.fromkeys(_LATE, _exec_late),
}

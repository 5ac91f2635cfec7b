"""Stage 13: one archive of an exported model that stock ESPnet loads, wherever it is unpacked."""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_path

#: What ESPnet's own archiver writes.
SUFFIXES = (".zip", ".tgz", ".tar", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="pack", description=__doc__)
    parser.add_argument("--model_dir", type=Path, required=True, help="exported model (stage 9)")
    parser.add_argument("--out", type=Path, required=True, help=f"archive to write ({', '.join(SUFFIXES)})")
    return parser


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not args.out.name.endswith(SUFFIXES):
        raise UserError(f"--out {args.out}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    for name in ("config.yaml", "model.pth"):
        if not (args.model_dir / name).exists():
            raise UserError(f"{args.model_dir / name}: no such file; run stage 9 (export) first")
    pack_model(args.model_dir, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


def pack_model(model_dir: Path, out: Path) -> None:
    """Write the archive, whole or not at all.

    ESPnet stores files under their path relative to the current directory, links resolved; what lies
    elsewhere gets an absolute path that no other machine has. So the files are packed from a folder that
    holds copies of them.

    Raises:
        UserError: the configuration names a file that is not in the model's folder.
    """
    from espnet2.main_funcs.pack_funcs import pack

    with (
        tempfile.TemporaryDirectory(prefix="espnet_ext_pack_") as folder,
        atomic_path(out.absolute()) as archive,
    ):
        names = ["config.yaml", "model.pth", *_named_files(model_dir)]
        for name in names:
            shutil.copyfile(model_dir / name, Path(folder) / name)
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            pack({"asr_model_file": "model.pth"}, {"asr_train_config": "config.yaml"}, archive, names[2:])


def _named_files(model_dir: Path) -> list[str]:
    """Files beside the configuration that it names and that ESPnet opens when it builds the model."""
    from espnet_ext.asr.load import read_config

    config = read_config(model_dir / "config.yaml")
    named = [(config.get("normalize_conf") or {}).get("stats_file"), config.get("bpemodel")]
    found = [name for name in named if name is not None]
    for name in found:
        if Path(name).name != name or not (model_dir / name).exists():
            raise UserError(
                f"{model_dir / 'config.yaml'}: names {name!r}, which is no file of {model_dir}; "
                "run stage 9 (export) again"
            )
    return found


if __name__ == "__main__":
    sys.exit(main())

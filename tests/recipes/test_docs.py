"""The documentation names options, stages and files that exist."""

import re
from pathlib import Path

import pytest

from espnet_ext.recipe.options import load_options
from espnet_ext.recipe.stages import find_stage, load_stages

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))]


@pytest.fixture(params=PAGES)
def page(request, repo_root):
    """Path and text of a page."""
    path = repo_root / request.param
    return path, path.read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Lines of the shell blocks that call a recipe, continued lines joined, comments removed."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line.split(" # ")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if "./run.sh" in line]


def test_options_and_stages_of_commands(page, repo_root):
    egs2 = repo_root / "egs2"
    template = egs2 / "TEMPLATE/asr1/conf/options.yaml"
    options = load_options(template)
    known = set(options.table)
    for recipe in ("synth", "librispeech_100"):
        own = load_options(template, egs2 / recipe / "asr1/conf/options.yaml")
        known |= set(own.table)
    stages = load_stages(egs2 / "TEMPLATE/asr1/stages")
    for line in commands(page[1]):
        line = re.sub(r'"[^"]*"', "VALUE", line)  # options of another command
        for name, value in re.findall(r"--(\w+)(?:[ =]([\w.]+))?", line):
            assert name in known | {"help"}, line
            if name in ("stage", "stop_stage") and value:
                find_stage(value, stages)


def test_links_lead_somewhere(page):
    path, text = page
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_files_that_are_named_exist(page, repo_root):
    for name in re.findall(r"`((?:tests|tools|egs2|espnet_ext)/[\w./]+)`", page[1]):
        if name not in ("tools/venv",) and "mycorpus" not in name:
            assert (repo_root / name).exists(), name


def test_modules_that_are_run_exist(page, repo_root):
    for name in re.findall(r"python -m (espnet_ext[\w.]+)", page[1]):
        assert (repo_root / f"{name.replace('.', '/')}.py").exists(), name

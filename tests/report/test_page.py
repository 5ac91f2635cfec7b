"""index.html in a browser: it is sorted, filtered, asked for two systems, and looked at in three widths."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from espnet_ext.bin.report import main
from tests.report import browser
from tests.report.folders import add_result, decode, hypotheses, make_set, train, write

EVIL = "<script>window.evil=1</script> </script><img src=x onerror=window.evil=2> &amp; <!-- \u2028 ]]>"
SPOKEN = {
    "spk00-000": EVIL,
    "spk00-001": "שלום עולם טוב",
    "spk00-002": "cafe\u0301 nai\u0308ve",
    "spk00-003": "",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.program(), reason="no browser: `apt-get install chromium-headless-shell`"),
]


def add_audio(folder, names, root):
    """Half a second of noise for each utterance, where wav.scp says."""
    sound = np.random.default_rng(0).normal(0, 0.1, 8000)
    (root / "wav").mkdir(exist_ok=True)
    for name in names:
        soundfile.write(root / "wav" / f"{name}.wav", sound, 16000)
    write(folder / "wav.scp", "".join(f"{name} wav/{name}.wav\n" for name in names))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with several systems, seeds, odd transcripts, audio, curves and calibration; its report."""
    root = tmp_path_factory.mktemp("recipe")
    exp, dump = root / "exp", root / "dump" / "raw"
    for name in ("dev", "test_clean", "test_noisy"):
        names = make_set(dump / name)
        add_audio(dump / name, names, root)
    text = (dump / "test_clean" / "text").read_text().splitlines()
    pairs = [line.split(maxsplit=1) for line in text]
    odd = [f"{name} {SPOKEN.get(name, words)}" for name, words in pairs]
    write(dump / "test_clean" / "text", "\n".join(odd).replace("\u2028", "") + "\n")
    systems = {"pretrain": 0.3, "none": 0.2, "gan": 0.05, "gan_no_critic": 0.21, "mutual_learning": 0.1}
    systems["mutual_learning_single_with_smoothing_sampling"] = 0.15
    for number, (system, wrong) in enumerate(systems.items()):
        for seed in (1, 2):
            experiment = f"{system}_seed{seed}"
            for name in ("dev", "test_clean", "test_noisy"):
                add_result(exp, experiment, "joint", dump / name, wrong, seed=10 * number + seed)
            columns = "train_critic_gap valid_critic_gap" if "gan" in system else "valid_agreement valid_kl"
            train(exp, experiment, seed, columns=columns)
            figures = {"ece": 0.1, "max_posterior": 0.8, "accuracy": 0.7}
            write(exp / experiment / "calibration" / "test_clean.json", figures)
    add_result(exp, "none_seed1", "att", dump / "test_clean", 0.4)
    decode(exp, "gan_seed1", "att", dump / "test_clean", hypotheses(dump / "test_clean" / "text", 0.3))
    assert main(["--expdir", str(exp)]) == 0
    return root


@pytest.fixture(scope="module")
def window():
    with browser.browser() as page:
        yield page


@pytest.fixture
def page(window, recipe):
    """The page at a desk's width."""
    window.events.clear()
    window.open(recipe / "exp" / "report" / "index.html", 1280)
    return window


def column(page, table, number):
    return page.run(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{number}].textContent)"
    )


def click(page, table, number):
    page.run(f"document.querySelectorAll('#{table} thead button')[{number}].click()")


def choose(page, name, value):
    page.run(
        f"(() => {{ const s = document.getElementById({name!r}); s.value = {value!r};"
        " s.dispatchEvent(new Event('change')); s.dispatchEvent(new Event('input')); })()"
    )


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_overflows_and_nothing_is_fetched(window, recipe, width):
    window.events.clear()
    window.open(recipe / "exp" / "report" / "index.html", width)
    window.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert window.run("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *')].filter(each => {
        const head = each.closest('thead');
        if (head && getComputedStyle(head).position === 'absolute') return false;
        const box = each.getBoundingClientRect();
        return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1);
    }).map(each => each.tagName + ' ' + each.textContent.slice(0, 60))"""
    assert window.run(outside) == []
    hidden = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert window.run(hidden) == 0
    size = "parseFloat(getComputedStyle(each).fontSize)"
    assert window.run(f"[...document.querySelectorAll('p, td, li')].every(each => {size} >= 12)")
    assert window.complaints() == [] and window.requests() == []
    titles = window.run("[...document.querySelectorAll('h2')].map(each => each.innerText)")
    assert titles[:3] == ["What is missing, or gave an alarm", "Verdicts", "Error rates"] and len(titles) == 7
    assert "could not be drawn" not in window.run("document.body.innerText")


def test_tables_are_sorted(page):
    click(page, "rate-table", 4)
    rates = [float(each.split()[0]) for each in column(page, "rate-table", 4)]
    assert rates == sorted(rates) and len(set(rates)) == 6
    click(page, "rate-table", 4)
    assert [float(each.split()[0]) for each in column(page, "rate-table", 4)] == rates[::-1]
    sort = "document.querySelectorAll('#rate-table th')[4].getAttribute('aria-sort')"
    assert page.run(sort) == "descending"
    click(page, "rate-table", 0)
    names = column(page, "rate-table", 0)
    assert names == sorted(names) and page.run(sort) is None


def test_the_page_has_the_reports_numbers(page, recipe):
    results = json.loads((recipe / "exp" / "report" / "results.json").read_text())
    shown = dict(zip(column(page, "rate-table", 0), column(page, "rate-table", 4), strict=True))
    for each in results["summaries"]:
        if (each["decoding"], each["set"]) == ("joint", "test_clean"):
            value, low, high = (f"{each[name]:.2f}" for name in ("value", "low", "high"))
            assert shown[each["system"]] == f"{value} [{low}, {high}]"
    verdicts = column(page, "verdict-table", 5)
    assert len(verdicts) == len(results["comparisons"]) > 3
    for text, each in zip(verdicts, results["comparisons"], strict=True):
        assert text.startswith(each["verdict"])
    choose(page, "way", "att")
    assert column(page, "rate-table", 0) == ["none"]


def test_systems_are_filtered(page):
    choose(page, "filter", "GAN")
    assert column(page, "rate-table", 0) == ["gan", "gan_no_critic"]
    assert all("gan" in each for each in column(page, "detail-table", 0))
    assert page.run("document.getElementById('shown').innerText") == "2 of 6 systems"
    panels = page.run("[...document.querySelectorAll('#curves figcaption')].map(each => each.innerText)")
    assert "critic gap" in panels and not any("agreement" in each for each in panels)
    choose(page, "filter", "nobody")
    assert "No scored system has such a name." in page.run("document.body.innerText")
    choose(page, "filter", "")
    assert len(column(page, "rate-table", 0)) == 6


def test_two_systems_are_put_side_by_side(page, recipe):
    sets = page.run("[...document.getElementById('set').options].map(each => each.text)")
    choose(page, "set", str(sets.index("test_noisy")))
    choose(page, "one", "pretrain_seed1")
    choose(page, "two", "gan_seed2")
    summary = page.run("document.getElementById('summary').innerText")
    counts = {}
    for name in ("pretrain_seed1", "gan_seed2"):
        scored = recipe / "exp" / name / "decode_joint" / "test_noisy" / "score" / "result.json"
        counts[name] = json.loads(scored.read_text())["words"]["errors"]
    assert summary.startswith(
        f"pretrain_seed1: {counts['pretrain_seed1']} errors, gan_seed2: {counts['gan_seed2']}."
    )
    heads = page.run(
        "[...document.querySelectorAll('.utterance > p:first-child')].map(each => each.innerText)"
    )
    apart = [abs(eval(each.split(" · ")[-1].split(" errors")[0].replace(" and ", "-"))) for each in heads]
    assert len(heads) == 20 and apart == sorted(apart, reverse=True) and apart[0] > 0
    # What is marked is what was counted, and with the marks taken away the sentence is the reference.
    first = page.run(
        """(() => { const [said, heard] = document.querySelectorAll('.utterance .words');
        const marks = heard.querySelectorAll('mark, del, ins').length;
        heard.querySelectorAll('ins').forEach(each => each.remove());
        heard.querySelectorAll('mark').forEach(each => each.replaceWith(each.querySelector('s').innerText));
        return [said.innerText.trim(), heard.innerText.trim().replace(/ +/g, ' '), marks]; })()"""
    )
    assert first[0] == first[1] and heads[0].split(" · ")[-1].startswith(f"{first[2]} and ")
    choose(page, "order", "loss")
    choose(page, "search", "alpha")
    found = page.run("[...document.querySelectorAll('.utterance')].map(each => each.innerText)")
    assert found and all("alpha" in each for each in found)
    page.run("document.querySelector('button.again')?.click()")
    assert page.complaints() == []


def test_transcripts_are_text(page):
    sets = page.run("[...document.getElementById('set').options].map(each => each.text)")
    choose(page, "set", str(sets.index("test_clean")))
    choose(page, "order", "name")
    said = page.run(
        "[...document.querySelectorAll('.sentence .words:nth-of-type(1)')].map(each => each.innerText)"
    )
    assert said[0] == " ".join(EVIL.replace("\u2028", "").split())
    assert page.run("window.evil") is None and page.run("document.querySelectorAll('img').length") == 0
    assert "שלום" in said[1] and said[2] == SPOKEN["spk00-002"] and said[3] == "(nothing)"
    direction = (
        "getComputedStyle(document.querySelectorAll('.utterance')[1].querySelector('.words')).direction"
    )
    assert page.run(direction) == "rtl"


def test_audio_is_there(page, recipe):
    sources = page.run("[...document.querySelectorAll('audio')].map(each => each.getAttribute('src'))")
    assert len(sources) == 20 and sources[0].startswith("data:audio/flac;base64,")
    choose(page, "order", "name")
    linked = page.run("[...document.querySelectorAll('audio')].map(each => each.getAttribute('src'))")
    files = [each for each in linked if not each.startswith("data:")]
    assert files and all((recipe / "exp" / "report" / each).is_file() for each in files)
    duration = """new Promise((done, fail) => { const each = [...document.querySelectorAll('audio')].find(%s);
        each.onloadedmetadata = () => done(each.duration); each.onerror = () => fail(each.error.message);
        each.preload = 'metadata'; each.load(); })"""
    for which in ("e => e.src.startsWith('data:')", "e => e.src.startsWith('file:')"):
        assert page.run(duration % which) == pytest.approx(0.5)


def test_it_prints_without_its_tools(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('nav, .tools, audio')].filter(each => each.offsetParent).length"
    assert page.run(shown) == 0 and len(page.call("Page.printToPDF")["data"]) > 10_000
    page.call("Emulation.setEmulatedMedia", media="")


def test_a_page_that_was_moved_keeps_working(window, recipe, tmp_path):
    shutil.copy(recipe / "exp" / "report" / "index.html", tmp_path / "moved.html")
    window.events.clear()
    window.open(tmp_path / "moved.html", 820)
    assert window.complaints() == [] and len(column(window, "rate-table", 0)) == 6
    source = window.run("document.querySelector('audio').src")
    assert source.startswith("data:")


def test_a_single_pair_of_texts_has_a_page(window, tmp_path):
    write(tmp_path / "ref.txt", "the cat sat\na dog\n")
    write(tmp_path / "hyp.txt", "the cat sat\na fog\n")
    pair = [str(tmp_path / name) for name in ("ref.txt", "hyp.txt")]
    assert main([*pair, "--out_dir", str(tmp_path / "out")]) == 0
    window.events.clear()
    window.open(tmp_path / "out" / "index.html", 360)
    text = window.run("document.body.innerText")
    assert window.complaints() == [] and "could not be drawn" not in text and "20.00" in text
    assert "No two systems that are shown have been compared." in text

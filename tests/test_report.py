"""The report in a real browser: what it shows, that it makes no requests, and that it is accessible."""

import json
import random
import re
import shutil
import time
import zipfile

import pytest
from results_folder import HOSTILE, Results, WithoutSimilarity
from workflow import ROOT, snakemake

from implicit.judging.oracle import Oracle, describe
from make_findings import read_csv
from reporting.page import examples

MARKS = ("first-contentful-paint", "chart 1", "examples")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("made"), models=("one", "two"), modes=4, instructions=70)
    results.make("make_tables", "make_figures").make_report()
    return results


@pytest.fixture(scope="module")
def report(made):
    return made.folder / "results" / "made" / "report.html"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no browser tests: envs/browser.txt is not installed")
    if CHROMIUM is None:
        pytest.skip("no browser tests: chromium is not installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, report):
    """Opens the report; there must be no errors and no requests when the test ends.

    Tests wait for elements: a condition given as text (`wait_for_function`) is evaluated inside the page once it has
    to wait, and the page's policy forbids that.
    """
    complaints, requests, pages = [], [], []

    def open_(fragment="", *, path=report, **options):
        page = browser.new_page(**options)
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{path}{fragment}")
        page.evaluate("window.report.ready")
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:///", "data:"))] == [] and requests


def found(page):
    return int(page.locator("#found").inner_text().split()[0])


def test_it_shows_the_main_figure_and_its_sentence_in_one_screen(opened, made):
    page = opened(viewport={"width": 1280, "height": 900})
    rows = read_csv(made.folder / "results" / "made" / "figures" / "win_rates.csv")
    one = next(row for row in rows if row["tuning"] == "response tuning" and row["model"] == "one")
    sentence = page.locator(".sentence").first.inner_text()
    assert f"response tuning {one['win_rate']} ± {one['std']} % (paper 43.3)" in sentence
    box = page.locator("#figure-win_rates-0 svg").bounding_box()
    assert box["y"] + box["height"] < 900 and box["height"] > 80
    panels = json.loads(page.locator("#data-charts").text_content())["panels"]
    assert page.locator(".chart svg").count() == len(panels) == page.evaluate("window.report.shown")
    assert "n = 70" in page.locator("#figure-win_rates-0 figcaption").inner_text()


def test_every_table_is_there_with_its_notes_and_can_be_copied(opened, made):
    page = opened()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    folder = made.folder / "results" / "made" / "tables"
    assert page.locator("section.table").count() == len(list(folder.glob("*.md")))
    assert "43.3 ± 1.1" in page.locator("#table-table1").inner_text()
    assert "Rows truncated at tuning.max_length" in page.locator("#table-table1").inner_text()
    for form in ("csv", "md", "tex"):
        button = page.locator(f"#table-table1 [data-form={form}]")
        button.click()
        button.filter(has_text="copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == (folder / f"table1.{form}").read_text()


def test_a_paper_has_room_for_the_latex_table_and_all_else_is_in_the_csv(made):
    folder = made.folder / "results" / "made" / "tables"
    head = (folder / "table1.tex").read_text().partition("toprule\n")[2].splitlines()[0]
    columns = [name.strip().replace("\\%", "%") for name in head.removesuffix(r" \\").split("&")]
    assert columns == ["model", "tuning", "win rate", "95 %", "stopped", "seeds", "n"]
    assert set(columns) < set(read_csv(folder / "table1.csv")[0])
    assert r"\label{tab:table1}" in (folder / "table1.tex").read_text()


def test_examples_are_searched_filtered_and_told_with_the_judges_probabilities(opened, made):
    page = opened()
    assert found(page) == 140  # of two models
    assert page.locator("#list li").count() == 61
    page.get_by_role("button", name=re.compile("^more")).click()
    assert page.locator("#list li").count() == 121
    page.locator("#search").fill("Instruction 33:")
    assert found(page) == 2
    page.locator("#list button").nth(1).click()
    page.locator("#example .note", has_text="two/test-33").wait_for()
    rows = [row for (model, _), rows in made.given.items() if model == "two" for row in rows]
    shown = page.locator("#example .response pre").all_inner_texts()
    assert len(shown) == 6 and set(shown) <= {row["output"] for row in rows if row["id"] == "test-33"}
    assert re.search(r"(won|lost) against instruction tuning", page.locator("#example").inner_text())
    assert re.search(r"judge: better with probability 0\.\d\d", page.locator("#example").inner_text())
    page.locator("#search").fill("")
    page.locator("#kind").select_option("koala")
    assert found(page) == 2 * len([row for row in made.asked if row["source"] == "koala"])
    page.locator("#kind").select_option("")
    page.locator("#winner").select_option("won response tuning")
    won = found(page)
    page.locator("#winner").select_option("lost response tuning")
    assert won + found(page) == 140 and won
    page.locator("#winner").select_option("")
    page.locator("#stopped").select_option("all")
    stopped = found(page)
    page.locator("#stopped").select_option("some")
    assert stopped + found(page) == 140 and stopped


def test_a_link_opens_its_example_and_a_click_makes_one(opened):
    page = opened("#example=two%2Ftest-7")
    assert "Instruction 7:" in page.locator("#example h3").inner_text()
    assert page.locator("#example").bounding_box()["y"] < 900
    page.locator("#list button").nth(2).click()
    assert page.url.endswith("#example=one%2Ftest-2")
    page.locator("#example h3", has_text=re.compile("^Instruction 2:")).wait_for(timeout=5000)
    page.go_back()
    page.locator("#example h3", has_text=re.compile("^Instruction 7:")).wait_for()
    page = opened("#example=nobody")
    assert page.locator("#found").inner_text() == "There is no example nobody in this report."


def test_hostile_text_is_text(opened, report):
    page = opened("#example=one%2Ftest-1")
    assert page.locator("#example h3").text_content() == f"Instruction 1: hostile {HOSTILE}"
    assert HOSTILE in page.locator("#example pre").nth(1).text_content()
    assert page.title() == "made: results" and page.locator("#example img, #example b, #example script").count() == 0
    assert HOSTILE not in report.read_text()
    script = (ROOT / "scripts" / "reporting" / "page" / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_no_script_of_anothers_runs_and_no_request_is_allowed(browser, report):
    page = browser.new_page()
    page.goto(f"file://{report}")
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert page.evaluate("fetch('file:///etc/hostname').then(() => 'read', () => 'refused')") == "refused"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran") is None
    page.close()


def test_hover_tells_what_a_point_is(opened):
    page = opened(viewport={"width": 1280, "height": 900})
    chart = page.locator("[data-chart=similarity-0]")
    chart.scroll_into_view_if_needed()
    chart.locator(".role-mark path").nth(3).hover(force=True)
    page.wait_for_selector("#tooltip:not([hidden])")
    assert re.search(r"instruction\s+Instruction \d+", page.locator("#tooltip").inner_text())


def test_one_line_can_be_picked_by_keyboard(opened):
    page = opened()
    page.locator("#choice-training-0 select").focus()
    page.keyboard.press("ArrowDown")
    page.locator("[data-chart=training-0] .role-mark path[opacity='0.08']").first.wait_for(state="attached")


def test_provenance_leads_from_a_number_to_files_commit_config_and_versions(opened):
    page = opened()
    page.locator("#table-table1 [data-sources]").first.click()
    chain = page.locator("#chain")
    stages = [text.split(":")[0] for text in chain.locator("summary").all_inner_texts()]
    assert stages[:2] == ["judge", "judge"] and "generate" in stages
    chain.locator("summary").first.click()
    told = chain.locator("pre").first.inner_text()
    for sign in ("commit 0123456789abcdef", "judge.py", ".against-seed", "sha256", '"seed"', '"torch":"2.13"'):
        assert sign in told, sign
    cost = page.locator("#cost tbody").inner_text()
    assert (
        re.search(r"^judge\t44\t", cost, re.MULTILINE) and "1,880\t11" in cost
    )  # 20 comparisons and 24 validations: calls, price


def luminance(page, selector, name):
    """The luminance of a colour as computed by the browser, 0 (black) to 1."""
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 765


def test_dark_light_and_print(opened, tmp_path):
    page = opened(color_scheme="dark")
    assert luminance(page, "body", "backgroundColor") < 0.2 < 0.7 < luminance(page, ".chart svg text", "fill")
    page.locator("#theme").click()
    assert luminance(page, "body", "backgroundColor") > 0.9 and luminance(page, ".chart svg text", "fill") < 0.2
    page.locator("#theme").click()
    assert luminance(page, "body", "backgroundColor") < 0.2
    page.emulate_media(media="print")
    assert luminance(page, "body", "backgroundColor") > 0.9 and luminance(page, ".chart svg text", "fill") < 0.2
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("width", [320, 360, 768])
def test_it_fits_a_phone(opened, width):
    page = opened(viewport={"width": width, "height": 700})
    page.locator("#example").scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#figure-win_rates-0 svg").bounding_box()["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(opened, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="envs/browser.txt is not installed")
    page = opened(color_scheme=scheme)
    page.locator("#table-table1 [data-sources]").first.click()
    faults = axe.Axe().run(page).response["violations"]
    told = [(fault["id"], fault["impact"], fault["nodes"][0]["html"][:200]) for fault in faults]
    assert [fault for fault in told if fault[1] in ("serious", "critical")] == []


def test_at_the_papers_size_it_opens_and_is_small(opened, tmp_path):
    """805 instructions, 12 modes, responses of about 200 words."""
    results = Results(tmp_path, instructions=805, modes=11, seeds=2, length=200)
    path = results.make().make_report()
    size = path.stat().st_size / 1e6
    started = time.monotonic()
    page = opened(path=path)
    seconds = time.monotonic() - started
    print(f"{size:.1f} MB, all charts and examples after {seconds:.1f} s")  # on a machine that may be busy
    assert found(page) == 805 and size < 15
    page.locator("#search").fill("Instruction 804:")
    assert found(page) == 1
    marks = {name: page.evaluate(f"performance.getEntriesByName('{name}')[0].startTime") / 1000 for name in MARKS}
    print(marks)


def test_a_response_that_is_too_long_for_the_file_is_cut_and_counted(monkeypatch):
    monkeypatch.setattr(examples, "ROOM", 3000)
    draw = random.Random(1)
    row = ["".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(3000)), True, 9, 0, None, None]
    told = {"models": [{"systems": [{"rows": [row, ["short", True, 1, 0, None, None]]}]}], "instructions": {}}
    whole, note = examples.packed(told)
    assert len(whole) <= 3000 and re.fullmatch(r"1 responses are truncated to \d+ characters .*", note)
    assert len(row[0]) + row[3] == 3000 and row[3] > 0


def test_the_oracles_quality_is_told_in_its_parts(world):
    oracle = Oracle()
    draw = random.Random(2)
    for item in world.evaluation("test", 30):
        request = describe(item, 7)
        right = world.reference(item, draw)
        for text, stopped in ((right, True), (right * 9, False), ("no idea", True)):
            told = examples.explained(oracle.parts(request, text, stopped=stopped))
            quality = oracle.quality(request, text, stopped=stopped)
            parts = [float(part) for part in re.findall(r"\d\.\d\d", told)]
            assert parts[0] == pytest.approx(quality, abs=0.006)
            content = 0.7 * parts[1] + 0.3 * parts[2]
            product = content * (parts[3] if "brevity" in told else 1) * (1.0 if stopped else 0.5)
            assert product == pytest.approx(quality, abs=0.02), told


@pytest.fixture(scope="module")
def snakemakes_own(finished, tmp_path_factory):
    """Snakemake's own report of the test experiment, unpacked."""
    folder = tmp_path_factory.mktemp("own")
    done = snakemake(finished[0], "--report", str(folder / "report.zip"))
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(folder / "report.zip") as packed:
        packed.extractall(folder)
    return folder / "report" / "report.html"


def test_snakemakes_own_report_holds_tables_and_figures_with_captions(snakemakes_own, project):
    page = snakemakes_own.read_text(encoding="utf-8")
    told = {
        name: json.JSONDecoder().raw_decode(page, re.search(rf'var {name} = (?={{")', page).end())[0]
        for name in ("categories", "results")
    }
    results = project / "results" / "test"
    files = {
        "Tables": [str(path.relative_to(project)) for path in results.glob("tables/*.csv")],
        "Figures": [str(path.relative_to(project)) for path in results.glob("figures/*.png")],
        "Report": ["results/test/report.html"],
    }
    assert {name: sorted(paths["Other"]) for name, paths in told["categories"].items()} == {
        name: sorted(paths) for name, paths in files.items()
    }
    for name, begin in (
        ("Tables", "Tables of test:"),
        ("Figures", "Figures of test,"),
        ("Report", "All results of test"),
    ):
        assert all(told["results"][path]["caption"].startswith(f"<p>{begin}") for path in files[name])
    held = {path.name: path.read_bytes() for path in (snakemakes_own.parent / "data").rglob("*.*")}
    assert held["table1.csv"] == (results / "tables" / "table1.csv").read_bytes()
    assert held["report.html"] == (results / "report.html").read_bytes()


def test_snakemakes_own_report_asks_for_nothing(browser, snakemakes_own):
    page = browser.new_page()
    page.set_default_timeout(120_000)  # milliseconds: three megabytes, on a machine that may be busy
    requests, faults = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"file://{snakemakes_own}")
    page.get_by_text("Tables", exact=True).first.click()
    page.get_by_text("table1.csv").first.wait_for()
    assert faults == [] and [url for url in requests if not url.startswith(("file:///", "data:", "blob:"))] == []
    page.close()


def test_without_a_judge_there_is_still_a_report(tmp_path):
    results = WithoutSimilarity(tmp_path)
    results.measured = set()
    results.make()
    results.make_report()
    text = (tmp_path / "results" / "made" / "report.html").read_text()
    assert "6 models were tuned and 8 sets of responses generated; nothing was judged." in text

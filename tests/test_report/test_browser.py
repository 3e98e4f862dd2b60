"""The page in a real headless browser: it renders, and its filters, sliders and charts work."""

from pathlib import Path

import pytest

from tests.test_report.browser import Browser
from tests.test_report.conftest import CLASSES, HOSTILE_NAME, Experiment, write_experiment

SIZES = {"phone": (360, 740), "desktop": (1280, 900)}

# Of each element that holds text of its own: the contrast of text and ground, and whether the text is large.
CONTRASTS = """
(() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if ((color[3] ?? 1) > 0.6) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *:not(script):not(option)")]
    .filter((node) => node.checkVisibility())
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((node) => {
      const [a, b] = [rgba(getComputedStyle(node).color), ground(node)].map(luminance).sort((x, y) => y - x);
      return [node.textContent.slice(0, 40), (a + 0.05) / (b + 0.05)];
    });
})()
"""


@pytest.fixture(scope="module")
def page(finished: Experiment) -> Path:
    return finished.page()


@pytest.fixture
def opened(browser: Browser, page: Path):
    """The page at desktop width; whatever the test does, the console must stay silent."""
    browser.open(page)
    yield browser
    assert browser.complaints == []


def choose(browser: Browser, label: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const select = [...document.querySelectorAll('.choice')]"
        f".find((choice) => choice.firstChild.textContent === {label!r}).querySelector('select');"
        f"select.value = {value!r}; select.dispatchEvent(new Event('change')); }})()"
    )


def card_names(browser: Browser) -> list[str]:
    return texts(browser, "#gallery .card .file")


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll('{selector}')].map((node) => node.textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page__at_each_size_and_scheme__renders_in_its_width_and_asks_for_nothing(
    browser: Browser, page: Path, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    browser.open(page, width=width, height=height, scheme=scheme)
    assert browser.complaints == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    headings = browser.evaluate(
        "[...document.querySelectorAll('section:not([hidden]) > h2')].map((h) => h.textContent)"
    )
    assert headings == [
        "Mask AP", "Errors", "Data set", "Training", "Pseudo-labels", "Gallery", "Pictures", "Provenance"
    ]  # fmt: skip
    assert browser.evaluate("document.querySelectorAll('.chart svg .curve').length") >= 4
    assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page__texts__contrast_with_their_ground(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    contrasts = browser.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[1] < 4.5] == []


def test_page__controls_and_pictures__have_names(opened: Browser) -> None:
    nameless = opened.evaluate(
        "[...document.querySelectorAll('input, select, button, [role=img], [role=region]')].filter((node) =>"
        " !(node.getAttribute('aria-label') || node.textContent.trim())"
        " || (node.matches('select') && !node.closest('label'))).length"
    )
    assert nameless == 0
    assert opened.evaluate("[...document.images].every((image) => image.alt)")
    assert opened.evaluate("document.querySelectorAll('h1').length") == 1


def test_page__figures__are_those_of_the_experiment(opened: Browser) -> None:
    stages = opened.evaluate("[...document.querySelectorAll('.stage')].map((node) => node.innerText)")
    assert "20.0" in stages[0]
    assert "80.0 → 90.0" in stages[1] and "17 objects in 10 images" in stages[1]
    assert "23.5" in stages[2] and "+3.5" in stages[2]
    rows = opened.evaluate("[...document.querySelectorAll('#labels tbody tr')].map((row) => row.innerText)")
    assert any("rejected" in row and "30.0" in row for row in rows)
    assert any("box (taken)" in row and "+14.0 [2.0, 21.5]" in row for row in rows)


def test_page__names_with_markup__are_shown_as_they_are(opened: Browser) -> None:
    assert HOSTILE_NAME in card_names(opened)
    text = opened.evaluate("document.body.innerText")
    assert CLASSES[1] in text and "<i>there</i>" in text
    assert opened.evaluate("document.querySelectorAll('main b, main i, main u, img[src=x]').length") == 0


def test_gallery__class_filter__shows_images_and_objects_of_the_class(opened: Browser) -> None:
    before = card_names(opened)
    choose(opened, "Class", "1")
    shown = card_names(opened)
    assert 0 < len(shown) < len(before)  # generation 2 has lost this class in images 1 to 3
    assert opened.evaluate("document.getElementById('gallery-count').textContent").startswith(str(len(shown)))
    facts = texts(opened, "#gallery .card .facts")
    assert all(text.startswith("1 object") for text in facts)
    choose(opened, "Class", "all")
    assert card_names(opened) == before


def test_gallery__generation__shows_its_labels(opened: Browser) -> None:
    choose(opened, "Class", "1")
    of_second = len(card_names(opened))
    choose(opened, "Generation", "1")
    assert len(card_names(opened)) == 6 > of_second


def test_gallery__is_sorted_by_disagreement(opened: Browser) -> None:
    names = card_names(opened)
    ids = [10 if name == HOSTILE_NAME else int(name.split(".")[0]) for name in names]
    differing = [2 * i / (20 + i) / (1 if i <= 3 else 2) for i in ids]
    assert differing == sorted(differing, reverse=True)


def test_gallery__truth__can_be_put_on_either_side(opened: Browser) -> None:
    choose(opened, "Left", "truth")
    assert opened.evaluate("document.querySelector('#gallery .card .tag.left').textContent") == "ground truth"
    same = opened.evaluate(
        "(() => { const [left, right] = document.querySelectorAll('#gallery .card .masks');"
        " return left.lastChild.getAttribute('d') === right.lastChild.getAttribute('d'); })()"
    )
    assert same  # refined masks are the true ones here


def test_gallery__slider__moves_by_keyboard_and_by_pointer(opened: Browser, tmp_path: Path) -> None:
    def clips() -> list[str]:
        return opened.evaluate(
            "[...document.querySelectorAll('#gallery .card:first-child .masks')]"
            ".map((layer) => getComputedStyle(layer).clipPath)"
        )

    def picture() -> bytes:
        opened.screenshot(tmp_path / "shot.png")
        return (tmp_path / "shot.png").read_bytes()

    opened.evaluate(
        "document.querySelector('#gallery .card').scrollIntoView({ behavior: 'instant', block: 'center' })"
    )
    opened.evaluate("document.querySelector('#gallery .card input').focus()")
    assert clips() == ["inset(0px 50% 0px 0px)", "inset(0px 0px 0px 50%)"]
    before = picture()
    opened.press("End", 35)
    slider = "document.querySelector('#gallery .card input')"
    assert opened.evaluate(f"{slider}.getAttribute('aria-valuetext')").startswith("100 %")
    assert clips()[1] == "inset(0px 0px 0px 100%)"
    assert picture() != before
    opened.press("ArrowLeft", 37)
    assert opened.evaluate("document.querySelector('#gallery .card input').value") == "99"
    box = opened.evaluate(
        "(({ x, y, width }) => [x, y, width])"
        "(document.querySelector('#gallery .compare').getBoundingClientRect())"
    )
    opened.point(box[0] + box[2] / 4, box[1] + 20, click=True)
    assert opened.evaluate("document.querySelector('#gallery .card input').value") == "25"
    assert clips()[1] == "inset(0px 0px 0px 25%)"


def test_errors__images_show_wrong_and_missed_objects_and_both_networks_can_be_swapped(
    opened: Browser,
) -> None:
    assert texts(opened, "#errors .card .file")[0] == "1.png"
    assert "student: 1 wrong class" in texts(opened, "#errors .card .facts")[0]
    assert "student: no errors" in texts(opened, "#errors .card .facts")[1]
    marked = "document.querySelectorAll('#errors .card .masks.{} path.{}').length"
    assert opened.evaluate(marked.format("left", "wrong")) == 1
    teachers = [opened.evaluate(marked.format("right", kind)) for kind in ("false", "missed")]
    assert teachers[0] == teachers[1] > 0
    choose(opened, "Left side", "teacher")
    choose(opened, "Right side", "student")
    assert [opened.evaluate(marked.format("left", kind)) for kind in ("false", "missed")] == teachers


def test_errors__confusion_and_answers_are_shown(opened: Browser) -> None:
    rows = opened.evaluate(
        "[...document.querySelectorAll('#errors table')[0].tBodies[0].rows].map((row) =>"
        " [...row.cells].map((cell) => cell.textContent))"
    )
    assert rows == [
        [CLASSES[0], "10", "0", "0"],
        [CLASSES[1], "1", "9", "0"],
        ["background", "0", "0", "\u2013"],
    ]
    questions = texts(opened, "#summary .answer h2")
    assert questions == ["Is the student better?", "Where does it fail?", "What next?"]
    assert opened.evaluate("document.querySelector('#summary').firstElementChild.className") == "answer"


def test_chart__values__are_read_by_keyboard_and_pointer(opened: Browser) -> None:
    opened.evaluate("document.querySelector('#trainings .chart svg').focus()")
    opened.evaluate(
        "document.querySelector('#trainings .chart svg')"
        ".scrollIntoView({ behavior: 'instant', block: 'center' })"
    )
    opened.press("End", 35)
    reading = "document.querySelector('#trainings .chart .reading').textContent"
    assert opened.evaluate(reading) == "Iteration 40: total 1, loss_cls 1"
    opened.press("ArrowLeft", 37)
    assert opened.evaluate(reading).startswith("Iteration 30: total 1.33")
    box = opened.evaluate(
        "(({ x, y }) => [x, y])(document.querySelector('#trainings .chart svg').getBoundingClientRect())"
    )
    opened.point(box[0] + 60, box[1] + 100)
    assert opened.evaluate(reading).startswith("Iteration 10: total 4")


def test_chart__legend__switches_lines(opened: Browser) -> None:
    count = "document.querySelectorAll('#trainings .chart:first-child .curve').length"
    assert opened.evaluate(count) == 2
    opened.evaluate("document.querySelector('#trainings .legend button').click()")
    assert opened.evaluate(count) == 1
    assert (
        opened.evaluate("document.querySelector('#trainings .legend button').getAttribute('aria-pressed')")
        == "false"
    )


def test_page__printed__has_no_controls(opened: Browser) -> None:
    opened.send("Emulation.setEmulatedMedia", media="print")
    try:
        for hidden in ("nav", ".card input", ".choice"):
            assert not opened.evaluate(f"document.querySelector('{hidden}').checkVisibility()")
        assert opened.evaluate("document.querySelector('#gallery .card img').checkVisibility()")
        opened.send(
            "Emulation.setDeviceMetricsOverride", width=700, height=900, deviceScaleFactor=1, mobile=False
        )
        plot = "document.querySelector('.plot svg').getBoundingClientRect().right"
        assert opened.evaluate(f"{plot} <= innerWidth")
    finally:
        opened.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("until", ["teacher", "cache"])
def test_page__of_an_unfinished_experiment__says_what_comes_next(
    browser: Browser, data_source, tmp_path: Path, until: str
) -> None:
    browser.open(write_experiment(tmp_path / "work", data_source, until=until).page())
    assert browser.complaints == []
    text = browser.evaluate("document.getElementById('summary').innerText")
    assert "s4m train-student CONFIG" in text
    assert ("s4m refine CONFIG" in text) == (until == "teacher")
    assert (len(card_names(browser)) > 0) == (until == "cache")

"""The page of detections in a browser: what its reader sees and does, counted apart from it."""

import shutil
from collections import Counter
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from spp_detect.report.folder import GENERATOR
from spp_detect.report.gallery import Gallery, GalleryPhotograph, render_gallery

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
CLASSES = ("cat", "dog", "</script><script>document.title='hacked'</script>")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\">&amp;'.jpg"


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; the test skips where it or its driver is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_window_size(1200, 900)
    yield driver
    driver.quit()


def make_photographs(count, seed=0):
    """Photographs of random sizes with random boxes, best first; every fifth has none."""
    random = np.random.default_rng(seed)
    photographs = []
    for i in range(count):
        width, height = random.integers(100, 500, 2).tolist()
        boxes = []
        for _ in range(0 if i % 5 == 4 else random.integers(1, 12)):
            x1, y1 = random.uniform(0, [width - 30, height - 30]).round(1).tolist()
            x2, y2 = random.uniform([x1 + 20, y1 + 20], [width, height]).round(1).tolist()
            score = round(random.uniform(-0.8, 2.0), 5)
            boxes.append([int(random.integers(len(CLASSES))), score, x1, y1, x2, y2])
        boxes.sort(key=lambda box: -box[1])
        name = f"{i:05d}.jpg" if i != 3 else HOSTILE
        address = quote(name)
        photographs.append(GalleryPhotograph(name, address, address, address, width, height, boxes))
    return photographs


@pytest.fixture
def gallery(browser, tmp_path):
    """Opens a gallery of so many photographs, with pictures of the first eight."""

    def show(count=8, **changes):
        photographs = make_photographs(count)
        for one in photographs[:8]:
            Image.new("RGB", (one.width, one.height), "teal").save(tmp_path / one.name)
        given = {"failures": [f"{HOSTILE}: broken"], "settings": {"model": HOSTILE}}
        given |= {"least_score": -0.8, "first_score": -0.8} | changes
        page = render_gallery(Gallery("so many", CLASSES, photographs, **given))
        (tmp_path / "index.html").write_text(page, encoding="utf-8")
        browser.get((tmp_path / "index.html").as_uri())
        return photographs

    yield show
    errors = [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    missing = [one for one in errors if "ERR_FILE_NOT_FOUND" in one]
    assert errors == missing, "the page's code failed"


def find(browser, css):
    return browser.find_elements("css selector", css)


def read_count(browser):
    return find(browser, "#count")[0].text


def set_score(browser, score):
    browser.execute_script(
        "const s = document.getElementById('score'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        score,
    )


def count(photographs, least, classes=(0, 1, 2)):
    """What should be shown: boxes of each photograph."""
    return [sum(b[1] >= least and b[0] in classes for b in one.boxes) for one in photographs]


def test_the_page_is_known_as_ours():
    assert GENERATOR in render_gallery(Gallery("", (), []))[:1000]


def test_the_slider_shows_what_scores_as_high(browser, gallery):
    photographs = gallery()
    for least in (-0.8, 0.13, 1.0, 1.99):
        set_score(browser, least)
        expected = count(photographs, least)
        assert read_count(browser) == f"8 of 8 photographs, {sum(expected)} detections"
        cards = find(browser, ".card")
        assert [len(card.find_elements("css selector", "rect")) for card in cards] == expected
        by_class = Counter(b[0] for one in photographs for b in one.boxes if b[1] >= least)
        told = [int(place.text) for place in find(browser, ".class b")]
        assert told == [by_class[c] for c in range(len(CLASSES))]


def test_it_starts_at_the_first_score(browser, gallery):
    photographs = gallery(first_score=0.5)
    assert f"{sum(count(photographs, 0.5))} detections" in read_count(browser)
    assert find(browser, "#score-value")[0].text == "0.50"


def test_classes_are_filtered(browser, gallery):
    photographs = gallery()
    first, *_ = find(browser, ".class input")
    first.click()
    expected = count(photographs, -0.8, (1, 2))
    assert read_count(browser) == f"8 of 8 photographs, {sum(expected)} detections"
    every, none = find(browser, "#classes button")
    none.click()
    assert read_count(browser) == "8 of 8 photographs, 0 detections"
    assert {card.text.splitlines()[-1] for card in find(browser, ".card")} == {"nothing found"}
    every.click()
    assert f"{sum(count(photographs, -0.8))} detections" in read_count(browser)


def test_photographs_are_searched_sorted_and_left_out(browser, gallery):
    photographs = gallery()
    names = [one.name for one in photographs]

    def shown():
        return [place.text for place in find(browser, ".card .name")]

    assert shown() == names
    search = find(browser, "#search")[0]
    search.send_keys("0000")
    assert shown() == [name for name in names if "0000" in name]
    search.clear()
    search.send_keys("ONERROR")
    assert shown() == [HOSTILE]
    browser.execute_script(
        "arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", search
    )
    find(browser, "#sort option[value=most]")[0].click()
    expected = sorted(photographs, key=lambda one: -len(one.boxes))
    assert shown() == [one.name for one in expected]
    find(browser, "#sort option[value=best]")[0].click()
    scores = [max((b[1] for b in one.boxes), default=-np.inf) for one in photographs]
    assert shown() == [names[i] for i in np.argsort(-np.array(scores), kind="stable")]
    find(browser, "#sort option[value=name]")[0].click()
    find(browser, "#empty option[value=none]")[0].click()
    assert shown() == [one.name for one in photographs if not one.boxes]
    find(browser, "#empty option[value=found]")[0].click()
    assert shown() == [one.name for one in photographs if one.boxes]


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_keys_do_all(browser, gallery):
    from selenium.webdriver.common.keys import Keys

    photographs = gallery()
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"
    press(browser, Keys.TAB, Keys.TAB, Keys.TAB)  # sorting, kind, the first card
    assert browser.switch_to.active_element.get_attribute("class") == "card"
    press(browser, "+", "+")
    assert find(browser, "#score-value")[0].text == "-0.70"
    press(browser, "-")
    assert find(browser, "#score-value")[0].text == "-0.75"
    find(browser, ".card")[0].send_keys(Keys.ENTER)
    heading = find(browser, "#large-name")[0]
    assert heading.text == photographs[0].name
    press(browser, Keys.ARROW_LEFT)
    assert heading.text == photographs[0].name
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert heading.text == photographs[2].name
    press(browser, Keys.ESCAPE)
    assert not find(browser, "dialog[open]")
    label = browser.switch_to.active_element.get_attribute("aria-label")
    assert label.startswith(f"{photographs[2].name}: ")
    press(browser, "?")
    assert find(browser, "#keys[open]")


def test_the_large_photograph_has_every_box_where_it_is(browser, gallery):
    photographs = gallery()
    find(browser, ".card")[1].click()
    one = photographs[1]
    image = find(browser, "#large-picture img")[0].rect
    scale = min(image["width"] / one.width, image["height"] / one.height)
    left = image["x"] + (image["width"] - scale * one.width) / 2
    top = image["y"] + (image["height"] - scale * one.height) / 2
    rects = browser.execute_script(
        "return [...document.querySelectorAll('#large-picture rect')].map((one) => {"
        "const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]})"
    )
    drawn = sorted(map(tuple, np.round(rects, 3)))
    expected = np.array([box[2:] for box in one.boxes]) * scale + [left, top, left, top]
    assert len(drawn) == len(one.boxes)
    # A rectangle's bounds may hold half of its line, a pixel.
    np.testing.assert_allclose(drawn, sorted(map(tuple, expected)), atol=1.6)
    rows = find(browser, "#boxes tr")
    assert [row.text.split()[-5] for row in rows] == [f"{box[1]:.2f}" for box in one.boxes]
    texts = [place.text for place in find(browser, "#large-picture text")][::-1]
    assert texts == [f"{CLASSES[box[0]]} {box[1]:.2f}" for box in one.boxes]


def test_names_do_no_harm(browser, gallery):
    gallery()
    assert browser.title == "Detections"
    assert HOSTILE in [place.text for place in find(browser, ".card .name")]
    find(browser, ".card")[3].click()
    assert find(browser, "#large-name")[0].text == HOSTILE
    loaded = "return document.querySelector('#large-picture img').naturalWidth"
    assert browser.execute_script(loaded) == make_photographs(4)[3].width
    assert not find(browser, "[onerror]")
    assert browser.title == "Detections"
    find(browser, "#close")[0].click()
    assert find(browser, "#failures li")[0].text == f"{HOSTILE}: broken"
    find(browser, "#settings summary")[0].click()
    assert find(browser, "#settings dd")[0].text == HOSTILE


def test_five_thousand_photographs_are_filtered_at_once(browser, gallery):
    photographs = gallery(5000)
    script = (
        "const s = document.getElementById('score'); s.value = arguments[0];"
        "const begun = performance.now();"
        "s.dispatchEvent(new Event('input')); document.body.getBoundingClientRect();"
        "return performance.now() - begun"
    )
    times = [browser.execute_script(script, least) for least in np.linspace(-0.8, 1.9, 21)]
    assert np.median(times) < 100, times
    assert read_count(browser).startswith("5000 of 5000")
    assert len(find(browser, ".card")) < 200
    set_score(browser, -0.8)
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait_for(browser, lambda: len(find(browser, ".card")) > 60)
    assert f"{sum(count(photographs, -0.8))} detections" in read_count(browser)


def test_cards_follow_on_a_wide_page_after_every_filter(browser, gallery):
    """The end of the gallery may stay in view while it is filled anew."""
    size = {"width": 3840, "height": 2160, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        gallery(400)
        end = "window.scrollTo(0, document.body.scrollHeight)"

        def fill():
            browser.execute_script(end)
            return len(find(browser, ".card")) == 400

        wait_for(browser, fill)
        search = find(browser, "#search")[0]
        search.send_keys("0001")
        assert len(find(browser, ".card")) == 11  # 00001, and 00010 to 00019
        browser.execute_script(
            "arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", search
        )
        wait_for(browser, fill)
        set_score(browser, 0.5)
        wait_for(browser, fill)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: condition())


@pytest.mark.parametrize("width", [360, 800])
def test_a_narrow_page_needs_no_scrolling_aside(browser, gallery, width):
    size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        gallery()
        for large in (False, True):
            if large:
                find(browser, ".card")[0].click()
            script = "return [document.documentElement.scrollWidth, innerWidth]"
            reaches, inner = browser.execute_script(script)
            assert reaches <= inner == width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

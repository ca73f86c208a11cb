"""The built documentation, in a browser; `make site` builds it and runs this.

Needs Chromium and its driver on the PATH (Debian's `chromium` and `chromium-driver`). Leaves a
screenshot of each page in `build/screenshots`.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.site
ROOT = Path(__file__).parents[1]
SITE, SCREENSHOTS = ROOT / "site", ROOT / "build" / "screenshots"
PAGES = [page.parent.relative_to(SITE).as_posix() for page in sorted(SITE.rglob("index.html"))]


@pytest.fixture(scope="module")
def address():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert chromium, "Chromium is needed"
    assert driver, "ChromeDriver is needed"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1280,1600",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(driver))
    driver.set_script_timeout(20)
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    yield driver
    driver.quit()


def visit(browser, address, page):
    """Open a page, wait for what it loads, and return what went wrong in it."""
    browser.get(f"{address}/{page}/".replace("/./", "/"))
    browser.execute_async_script(
        "const done = arguments[0]; document.fonts.ready.then(() => setTimeout(done, 50))"
    )
    return [entry["message"] for entry in browser.get_log("browser")]


def shoot(browser, name):
    assert browser.save_screenshot(str(SCREENSHOTS / f"{name.replace('/', '-')}.png"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_it_holds(browser, address, page):
    assert visit(browser, address, page) == []
    shoot(browser, "home" if page == "." else page)
    formulas, rendered, errors, broken, wide = browser.execute_script("""
        const all = (query) => [...document.querySelectorAll(query)]
        all("img").forEach((image) => image.loading = "eager")
        return [
          all(".arithmatex").length,
          all(".arithmatex > .katex, .arithmatex > .katex-display").length,
          all(".katex-error").map((error) => error.title),
          all("img").filter((image) => !image.naturalWidth).map((image) => image.src),
          document.documentElement.scrollWidth - window.innerWidth,
        ]""")
    assert formulas == rendered
    assert errors == []
    assert broken == []
    assert wide <= 0


def test_most_pages_are_seen():
    assert len(PAGES) > 30, f"Build the site first: {len(PAGES)} pages in {SITE}"


@pytest.mark.parametrize(
    ("words", "target"),
    [("log partition", "log_partition"), ("nuts", "NUTS"), ("checkpoint", "checkpoint")],
)
def test_a_search_finds(browser, address, words, target):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    visit(browser, address, ".")
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys(words)
    results = WebDriverWait(browser, 20).until(
        lambda browser: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item")
    )
    top = " ".join(result.text for result in results[:5])
    assert target in top
    shoot(browser, f"search-{words.replace(' ', '-')}")


def test_it_can_be_dark(browser, address):
    visit(browser, address, ".")
    browser.execute_script("document.querySelector('label[title=\"Dark mode\"]').click()")
    assert browser.execute_script("return document.body.dataset.mdColorScheme") == "slate"
    visit(browser, address, "normalizers")
    shoot(browser, "dark")
    browser.execute_script("localStorage.clear()")


@pytest.mark.parametrize("page", [".", "choose-estimator", "api/kernels", "gallery"])
def test_a_phone_shows_it(browser, address, page):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        visit(browser, address, page)
        shoot(browser, f"phone-{page.replace('.', 'home')}")
        scroll = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(scroll) <= 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

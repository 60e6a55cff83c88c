"""The page in a real Chromium: choose, drop and paste pictures, move the threshold, no mouse."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.bright import CLASSES, picture
from tests.serving.chrome import Tab, tab
from tests.serving.running import Client, encoded, running

LABELS = "[...document.querySelectorAll('#legend button')].map(b => b.textContent).join()"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Tab, client: Client) -> Tab:
    """The page, opened anew."""
    browser.complaints.clear()
    browser.urls.clear()
    browser.open(client.url)
    browser.until("document.getElementById('model').textContent")
    return browser


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture with a cat (0.95), a 猫 (0.88) and a dog (0.73)."""
    pixels = np.asarray(picture()).copy()
    pixels[5:25, 5:25, 1] = 255
    pixels[100:120, 130:180, 2] = 255
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def pixel(page: Tab, x: float, y: float) -> tuple[int, ...]:
    """Colour in the canvas."""
    point = f"document.getElementById('canvas').getContext('2d').getImageData({x}, {y}, 1, 1)"
    return tuple(page.run(f"[...{point}.data]"))[:3]


def move_slider(page: Tab, value: float) -> None:
    page.run(
        f"(slider => {{ slider.value = {value}; slider.dispatchEvent(new Event('input')); }})"
        "(document.getElementById('threshold'))"
    )


def test_boxes_are_drawn_where_they_are(page: Tab, photo: Path, client: Client) -> None:
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    assert page.run(LABELS) == "cat1,猫1,dog1"
    assert page.run("[canvas.width, canvas.height]") == [192, 128]
    assert page.run("canvas.getAttribute('aria-label')") == "3 objects: 1 cat, 1 猫, 1 dog"
    for index, found in enumerate(client.post(photo.read_bytes()).json["detections"]):
        x1, y1, x2, y2 = found["box_xyxy"]
        color = CLASSES.colors[index]
        for x, y in ((x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)):  # right and lower edge
            np.testing.assert_allclose(pixel(page, round(x) - 1, round(y) - 1), color, atol=60)
    assert pixel(page, 100, 60) == (255, 0, 0)  # the picture itself
    assert page.run("document.querySelectorAll('#rows tr').length") == 3
    assert page.complaints == []


def test_the_slider_asks_nobody(page: Tab, photo: Path) -> None:
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    asked = len(page.urls)
    move_slider(page, 0.9)
    assert page.run(LABELS) == "cat1"
    assert page.run("document.getElementById('shown').textContent") == "0.90"
    move_slider(page, 1)
    assert page.run("document.getElementById('legend').textContent") == "Nothing scores so high."
    assert pixel(page, 119, 50) == (255, 0, 0)  # the box is gone from the canvas
    move_slider(page, 0.01)
    assert page.run(LABELS) != "cat1"
    assert len(page.urls) == asked
    assert page.complaints == []


def test_classes_are_hidden_by_their_button(page: Tab, photo: Path) -> None:
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    page.run("document.querySelector('[data-name=cat]').focus()")
    page.press(" ")
    state = "document.querySelector('[data-name=cat]').getAttribute('aria-pressed')"
    assert page.run(state) == "false"
    assert page.run("document.activeElement.dataset.name") == "cat"  # focus is not lost
    assert page.run("canvas.getAttribute('aria-label')") == "2 objects: 1 猫, 1 dog"
    page.press(" ")
    assert page.run(state) == "true"
    assert page.complaints == []


def test_everything_is_reached_by_keyboard(page: Tab, photo: Path) -> None:
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(7):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["file", "threshold", "BUTTON", "BUTTON", "BUTTON", "SUMMARY", "api"]
    page.run("document.getElementById('threshold').focus()")
    page.press("End")
    assert page.run("document.getElementById('shown').textContent") == "1.00"
    page.press("Home", "ArrowRight")
    assert page.run("document.getElementById('shown').textContent") == "0.02"


def test_dropping_and_pasting(page: Tab, photo: Path) -> None:
    page.drop(photo, 300, 150)
    page.until("!document.getElementById('canvas').hidden")
    assert page.run(LABELS) == "cat1,猫1,dog1"
    content = base64.b64encode(encoded(picture(channel=2))).decode()
    page.run(f"""(() => {{
      const bytes = Uint8Array.from(atob("{content}"), c => c.charCodeAt(0));
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([bytes], "x.png", {{type: "image/png"}}));
      dispatchEvent(new ClipboardEvent("paste", {{clipboardData}}));
    }})()""")
    page.until(f"{LABELS} === 'dog1'")
    assert page.complaints == []


def test_what_the_service_refuses_is_shown(page: Tab, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    page.choose("#file", tmp_path / "a.png")
    page.until("document.getElementById('status').className === 'bad'")
    assert "not an image" in page.run("document.getElementById('status').textContent")


def test_pictures_that_the_browser_cannot_show(page: Tab, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.tif")
    page.choose("#file", tmp_path / "a.tif")
    page.until("!document.getElementById('canvas').hidden")
    assert "cannot show" in page.run("document.getElementById('status').textContent")
    assert page.run("[canvas.width, canvas.height]") == [192, 128]
    assert page.run(LABELS) == "cat1"


def test_turned_photos(page: Tab, tmp_path: Path) -> None:
    """Browser and service agree on what EXIF says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "a.jpg", exif=exif, quality=95)
    page.choose("#file", tmp_path / "a.jpg")
    page.until("!document.getElementById('canvas').hidden")
    assert page.run("[canvas.width, canvas.height]") == [128, 192]
    assert page.run("[current.answer.width, current.answer.height]") == [128, 192]


def test_nothing_is_loaded_from_elsewhere(page: Tab, photo: Path, client: Client) -> None:
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    asked = [url for url in page.urls if not url.startswith(("data:", "about:"))]
    assert len(asked) >= 5
    assert all(url.startswith(client.url) for url in asked), asked


def test_complaints_are_heard(page: Tab) -> None:
    """The tests above can fail."""
    page.run("fetch('https://example.org').catch(() => {})")
    page.until("true")
    assert any("Content Security Policy" in line for line in page.complaints)


def test_dark_and_light(page: Tab) -> None:
    colors = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.call("Emulation.setEmulatedMedia", features=[feature])
        colors.append(page.run("getComputedStyle(document.body).backgroundColor"))
    page.call("Emulation.setEmulatedMedia", features=[])
    assert colors == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_a_narrow_screen_shows_all_of_it(page: Tab, photo: Path) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=2,
              mobile=True)  # fmt: skip
    page.choose("#file", photo)
    page.until("!document.getElementById('canvas').hidden")
    width = page.run("document.documentElement.scrollWidth")
    page.call("Emulation.clearDeviceMetricsOverride")
    assert width <= 360


def test_a_token_is_asked_for(browser: Tab, photo: Path) -> None:
    with running(token="sesame") as locked:
        browser.open(locked.url)
        browser.until("!document.getElementById('key').hidden")
        browser.run("document.getElementById('token').focus()")
        browser.press(*"sesame", "Enter")
        browser.until("document.getElementById('model').textContent")
        assert browser.run("document.getElementById('key').hidden")
        browser.choose("#file", photo)
        browser.until("!document.getElementById('canvas').hidden")
        assert browser.run(LABELS) == "cat1,猫1,dog1"
        assert not any("sesame" in url for url in browser.urls)

"""The Explorer as a person meets it: a fresh clone in a real JupyterLab, driven by mouse and keyboard."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from browser import chromium, complaints_of, needs_browser

from gradcam_gan.studies import paths

pytestmark = needs_browser

PATIENCE = 120  # seconds, of a busy machine; an idle one needs a few
NOTEBOOK = "00_explore.ipynb"
NAMED_ROLES = ("button", "slider", "combobox", "tab", "img", "checkbox", "textbox", "spinbutton", "group")


def fresh_clone(folder):
    """What the notebook needs of the repository, without runs and figures."""
    for name in ("gradcam_gan", "params"):
        shutil.copytree(paths.REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (f"notebooks/{NOTEBOOK}", "data/mnist-5k.npz"):
        (folder / name).parent.mkdir()
        shutil.copy(paths.REPOSITORY / name, folder / name)
    return folder


@contextmanager
def jupyter_lab(folder, home):
    """A server on the notebooks of a folder that knows nothing of the user's own Jupyter; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    own = {
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": folder,
        "GRADCAM_GAN_PROFILE": "smoke",
    }
    token = secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with (home / "server.log").open("w") as log:
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for_server(f"{address}/api/status?token={token}", server, Path(log.name))
            yield f"{address}/lab/tree/{NOTEBOOK}?token={token}"
        finally:
            server.terminate()
            server.wait(PATIENCE)


def wait_for_server(address, server, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "clone").mkdir()
    return fresh_clone(tmp_path / "clone")


@pytest.fixture
def page(clone, tmp_path):
    """The notebook in JupyterLab; afterwards nothing may have complained in the browser's console."""
    home = tmp_path / "home"
    home.mkdir()
    with jupyter_lab(clone, home) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        complaints = complaints_of(page)
        page.goto(address)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        yield page
    assert complaints == []


def run_all_cells(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("#jp-mainmenu-run").get_by_text("Run All Cells", exact=True).click()


def verdict(page):
    return page.locator(".explore-verdict").first.inner_text()


def pictures(page):
    return [
        image.get_attribute("src") for image in page.locator(".explore-pictures").first.locator("img").all()
    ]


def until_changed(read, page, act):
    """Do something, and wait until what is read is no longer what it was."""
    before = read(page)
    act()
    deadline = time.monotonic() + PATIENCE
    while read(page) == before:
        assert time.monotonic() < deadline, before
        page.wait_for_timeout(20)


def draw_a_stroke(page):
    canvas = page.locator(".explore-pad canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 120, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 200, steps=5)
    page.mouse.up()


def nameless(page):
    """Lines of the accessibility tree of the first Explorer that have a role but no name."""
    tree = page.locator(".explore").first.aria_snapshot()
    roles = re.findall(rf"^\s*- '?({'|'.join(NAMED_ROLES)})\b(?: \"(.*?)\")?", tree, re.MULTILINE)
    assert {role for role, _ in roles} >= {"button", "slider", "combobox", "tab", "img"}
    return [role for role, name in roles if not name.strip()]


def not_reached_by_tab(page):
    """Press Tab from the first control to the last; the visible controls that never had the focus."""
    first = page.locator(".explore").first
    controls = first.locator(":is(button, select, input, canvas, [role=tab][tabindex='0']):visible").all()
    page.get_by_label("Network").focus()
    for _ in range(len(controls) + 5):
        page.evaluate("document.activeElement.dataset.reached = true")
        page.keyboard.press("Tab")
    missed = [
        control for control in controls if control.is_enabled() and not control.get_attribute("data-reached")
    ]
    return [control.evaluate("element => element.outerHTML") for control in missed]


def saved_cells(page, path):
    """The code cells with their outputs, from the notebook as JupyterLab saves it."""
    page.get_by_role("menuitem", name="File", exact=True).click()
    with page.expect_response(lambda answer: answer.request.method == "PUT" and NOTEBOOK in answer.url):
        page.locator("#jp-mainmenu-file").get_by_text("Save Notebook", exact=True).click()
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_a_person_trains_explores_draws_and_saves(page, clone):
    run_all_cells(page)
    page.get_by_role("button", name="Train a small network").click()
    page.get_by_label("Network").wait_for()

    epoch = page.get_by_role("slider", name="Epoch")
    assert epoch.get_attribute("aria-valuetext") == "3"
    epoch.focus()
    until_changed(pictures, page, lambda: page.keyboard.press("ArrowLeft"))
    assert epoch.get_attribute("aria-valuetext") == "2"
    until_changed(pictures, page, lambda: page.get_by_role("button", name="held-out 3").first.click())
    method = page.get_by_label("Method").first
    method.focus()
    until_changed(pictures, page, lambda: page.keyboard.press("ArrowDown"))
    assert method.locator("option:checked").inner_text() == "HiResCAM"
    assert nameless(page) == []
    assert not_reached_by_tab(page) == []

    page.get_by_role("tab", name="Generated").click()
    page.get_by_role("img", name="generated image 1").first.wait_for()
    page.get_by_role("tab", name="Yours").first.click()
    page.get_by_text("there is no image of your own yet").wait_for()
    draw_a_stroke(page)
    page.get_by_role("img", name="The image: your image").wait_for()
    drawn = verdict(page)
    assert re.fullmatch(r"D says “(real|generated)”: logit [+−]\d+\.\d\d", drawn)
    page.locator(".explore-pad canvas").first.focus()
    until_changed(pictures, page, lambda: [page.keyboard.press(key) for key in (" ", *9 * ["ArrowRight"])])
    assert nameless(page) == []
    assert not_reached_by_tab(page) == []

    page.get_by_role("button", name="Save this view").first.click()
    page.get_by_text(re.compile("saved: .*view-001.png")).wait_for()
    saved = pd.read_csv(clone / "figures" / "smoke" / "explore" / "view-001.csv")
    assert (saved["source"][0], saved["epoch"][0], saved["method"][0]) == ("yours", 2, "hirescam")
    assert f"{abs(saved['logit'][0]):.2f}" in verdict(page)

    cells = saved_cells(page, clone / "notebooks" / NOTEBOOK)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ] == []

"""The changelog, and the pages for contributors and about bench."""

import re
from pathlib import Path

import pytest

from numpy_gpt2 import __version__

from .conftest import ROOT


def test_newest_entry_of_the_changelog_is_this_version():
    versions = re.findall(r"^## \[(.*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert versions[0] == __version__
    assert versions == sorted(versions, reverse=True)


@pytest.mark.parametrize("name", [".github/CONTRIBUTING.md", "bench/README.md", "bench/RESULTS.md"])
def test_links_and_paths_of_a_page_exist(name):
    page = ROOT / name
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\((?!http)(.*?)\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"^pytest ((?:tests|numpy_gpt2)/\S+)", text, re.MULTILINE):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"^python -m (tests\.\S+)", text, re.MULTILINE):
        assert Path(ROOT, *module.split(".")).with_suffix(".py").exists(), module


def test_pages_of_folders_are_short():
    for name in (".github/CONTRIBUTING.md", "bench/README.md"):
        assert len((ROOT / name).read_text("utf-8").splitlines()) < 150

"""The documents exist, their links and paths lead somewhere, and their generated parts are current."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from domain.rules import diagram
from domain.rules.table import TABLE
from domain.settings import Settings
from tests.meta.files import ROOT, UNFINISHED, all_files, repo_path

DOCUMENTS = [path for path in all_files() if path.suffix == ".md"]
LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
MACHINES = re.compile(r"(?<![\w.$}-])/(?:root|home|work|Users)/")
HOSTS = re.compile(r"pypi\.org|pythonhoste[d]|--(?:extra-)?index-url[ =]\S*//")
# A path of a Python module, such as domain/rules/table.py; `local.py` and `worker.py` stand in the root.
MODULE = re.compile(r"(?<![\w./<{-])(?:[\w-]+/)*[\w-]+\.py\b")
REQUIRED = ["README.md", "LICENSE", "CHANGELOG.md", "docs/architecture.md", "docs/api.md", "docs/states.md"]
MOST_WORDS_OF_README = 1_200
README = ROOT / "README.md"


def heading_anchors(text: str) -> set[str]:
    """The anchors that Git hosting sites give to the headings of a document."""
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", CODE.sub(lambda code: code[0].strip("`"), text), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.strip().replace(" ", "-") for word in words} | set(re.findall(r"(?:id|name)=\"([^\"]+)\"", text))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_document_exists(name: str) -> None:
    assert (ROOT / name).read_text().strip()


@pytest.mark.parametrize("number", ["001", "002", "003"])
def test_the_first_decisions_are_recorded(number: str) -> None:
    assert len(list((ROOT / "docs" / "adr").glob(f"{number}-*.md"))) == 1


def test_every_decision_has_its_own_number() -> None:
    names = [path.name for path in (ROOT / "docs" / "adr").glob("*.md") if path.name != "README.md"]
    assert [name for name in names if not re.fullmatch(r"\d{3}(-[a-z0-9]+)+\.md", name)] == []
    assert len({name[:3] for name in names}) == len(names)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS_OF_README


def test_every_python_module_that_a_document_names_exists() -> None:
    named = {(repo_path(path), name) for path in DOCUMENTS for name in MODULE.findall(path.read_text())}
    assert [(document, name) for document, name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_relative_link_leads_to_a_file_and_heading_that_exist() -> None:
    broken = []
    for path in DOCUMENTS:
        for link in ("".join(groups) for groups in LINK.findall(CODE.sub("", path.read_text()))):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target) if target else path
            if not file.exists() or (
                anchor and file.suffix == ".md" and anchor not in heading_anchors(file.read_text())
            ):
                broken.append(f"{repo_path(path)}: {link}")
    assert not broken, "\n".join(broken)


def test_the_generated_parts_of_the_states_page_are_current() -> None:
    states = diagram.DOCUMENT.read_text()
    assert diagram.state_diagram() in states
    assert diagram.action_table() in states
    assert diagram.change_table() in states
    assert diagram.rendered(states) == states


def test_a_stale_states_page_is_made_current() -> None:
    states = diagram.DOCUMENT.read_text()
    stale = states.replace("`powering_on`", "`powered`").replace("SHUTOFF --> ACTIVE", "SHUTOFF --> SHUTOFF")
    assert stale != states
    assert diagram.rendered(stale) == states


def test_the_diagram_and_the_tables_show_every_status_and_action() -> None:
    for rule in TABLE.values():
        for word in [*rule.sources, rule.during, rule.target]:
            assert not isinstance(word, str) or word in diagram.state_diagram()
    for action, rule in TABLE.items():
        assert f"`{action}`" in (diagram.action_table() if rule.is_on_vm else diagram.change_table())
        for change in rule.changes:
            rows = [row for row in diagram.change_table().splitlines() if f"| {change.kind} | `{action}`" in row]
            assert any(f"| {change.during} |" in row for row in rows)


def test_some_document_explains_every_setting() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert [name.upper() for name in Settings.model_fields if f"`{name.upper()}`" not in text] == []


def test_the_readme_says_how_to_start_and_test_the_service() -> None:
    readme = README.read_text()
    for words in ("make up", "make test", "docker compose", "/api/v1/docs", "curl", "MIT"):
        assert words in readme


def _text(path: Path) -> str:
    """The text of a file; empty for a binary file."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def test_no_file_has_a_path_of_the_machine_it_was_written_on() -> None:
    found = {repo_path(path): MACHINES.findall(_text(path)) for path in all_files()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_no_file_names_a_package_registry() -> None:
    found = {repo_path(path): HOSTS.findall(_text(path)) for path in all_files()}
    assert {name: hosts for name, hosts in found.items() if hosts} == {}


def test_no_document_has_a_note_of_unfinished_work() -> None:
    found = {repo_path(path): UNFINISHED.findall(path.read_text()) for path in DOCUMENTS}
    assert {name: notes for name, notes in found.items() if notes} == {}

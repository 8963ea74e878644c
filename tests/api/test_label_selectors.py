"""Label selectors: what they select in each list, which are refused, and values with any characters."""

import re
import secrets
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import label_selectors
from api.web.label_selectors import MOST_REQUIREMENTS, LabelSelector, LabelSelectors, Requirement, has_labels
from domain.data.models import VM
from tests.api.conftest import Person, pointers
from tests.api.test_pages import links, names
from tests.support.rows import add_snapshot, add_vm, add_volume

LABELS: dict[str, dict[str, str]] = {
    "none": {},
    "prod-a": {"env": "prod", "tier": "a"},
    "prod-b": {"env": "prod", "tier": "b", "x": ""},
    "prod": {"env": "prod"},
    "test-c": {"env": "test", "tier": "c"},
    "equals": {"note": "=="},
    "in": {"in": "notin", "tier": "a,b", "note": "(é)"},
}
EVERYTHING = set(LABELS)
SELECTED: list[tuple[str, set[str]]] = [
    ("env=prod", {"prod-a", "prod-b", "prod"}),
    ("env==prod", {"prod-a", "prod-b", "prod"}),
    ("env == prod , tier==a", {"prod-a"}),
    ("env!=prod", {"none", "test-c", "equals", "in"}),
    ("tier in (a,b)", {"prod-a", "prod-b"}),
    ("tier in (c)", {"test-c"}),
    ("tier notin (a,b)", {"none", "prod", "test-c", "equals", "in"}),
    ("tier", {"prod-a", "prod-b", "test-c", "in"}),
    ("!tier", {"none", "prod", "equals"}),
    ("env=prod,tier in (a,b),!x", {"prod-a"}),
    ("  env = prod , tier  in ( a , c ) , ! x ", {"prod-a"}),
    ("x=", {"prod-b"}),
    ("x==", {"prod-b"}),
    (r"note=\==", {"equals"}),
    (r"note==\=\=", {"equals"}),
    ("note in (==)", {"equals"}),
    ("x!=", EVERYTHING - {"prod-b"}),
    ("x in (,y)", {"prod-b"}),
    ("env=prod,env=test", set()),
    ("env in (prod,test),env!=test", {"prod-a", "prod-b", "prod"}),
    ("tier in (a,b),tier in (b,c)", {"prod-b"}),
    ("tier,!tier", set()),
    ("in in (notin)", {"in"}),
    ("in", {"in"}),
    (r"tier=a\,b", {"in"}),
    (r"tier in (a\,b,c)", {"test-c", "in"}),
    ("note=(é)", {"in"}),
    ("note=\\(e\u0301\\)", {"in"}),
    (r"note in (\(é\))", {"in"}),
    (r"note notin (\(é\))", EVERYTHING - {"in"}),
    ("Env=prod", set()),
    ("env=Prod", set()),
]
WRONG = [
    *("", ",", "a,", ",a", "=x", "!=x", "!", "!a=b", "!a in (b)", "-a", "a b", "a,,b"),
    *("a in", "a in b", "a in ()", "a in ( )", "a in (b", "a in b)", "a in (b))", "a in (b)c", "a in ((b))", "ain (b)"),
    *("a IN (b)", "a not in (b)", "a > 1", "a\t=b", "a=\0", "a in (\n)", "a" * 64, f"a={'b' * 256}"),
    *("a===b", "a!==b", "a= =b", "a!= = b", "a== =b", "a====", "!a==b"),
    *("a=\\", "a=b\\c", "a=\\,\\", "a\\,b", "a=b,", "a=\\\\,", "a in (\\)"),
]


@pytest.mark.parametrize("path", ["/vms", "/volumes", "/snapshots", "/vms/{}/snapshots"])
async def test_a_selector_selects_what_meets_all_requirements(ada: Person, engine: AsyncEngine, path: str) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, name="other", labels={"another": "one"})
        for name, labels in LABELS.items():
            await add_vm(tx, ada.user, name=name, labels=labels)
            await add_volume(tx, ada.user, name=name, labels=labels)
            await add_snapshot(tx, vm, name=name, labels=labels)
    for selector, expected in SELECTED:
        answer = await ada.http.get(path.format(vm.id), params={"labels": selector, "page_size": 50})
        assert answer.status_code == 200, answer.text
        found = {item["name"] for item in answer.json()["items"]} - {"other"}
        assert found == expected, selector


async def test_selectors_in_repeated_parameters_must_all_be_met(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        for name, labels in LABELS.items():
            await add_vm(tx, ada.user, name=name, labels=labels)
    assert await names(ada, labels=["env=prod", "tier in (a,b)", "!x"]) == ["prod-a"]


@pytest.mark.parametrize("selector", WRONG, ids=ascii)
async def test_what_is_no_selector_is_refused_with_the_place_and_the_form(visitor: Person, selector: str) -> None:
    for path in ("/vms", "/volumes", "/snapshots"):
        answer = await visitor.http.get(path, params={"labels": selector})
        assert (answer.status_code, pointers(answer.json())) == (422, {"labels"}), answer.text
    [error] = answer.json()["errors"]
    if selector:
        assert error["code"] == "wrong_format"
        assert "key in (a,b)" in error["detail"]
        assert "backslash" in error["detail"]


async def test_a_refusal_quotes_the_first_part_that_is_wrong(visitor: Person) -> None:
    answer = await visitor.http.get("/vms", params={"labels": "env=prod,tier is (a,b)"})
    [error] = answer.json()["errors"]
    assert error["detail"].startswith("There is no label selector at 'tier is (a,b)'. Write key, ")


async def test_a_request_has_only_so_many_requirements(visitor: Person) -> None:
    most = ",".join(f"k{n}" for n in range(MOST_REQUIREMENTS))
    assert (await visitor.http.get("/vms", params={"labels": [most, most]})).status_code == 200
    answer = await visitor.http.get("/vms", params={"labels": [most, "one-more"]})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["parameter"], error["code"]) == (422, "labels", "too_long")


async def test_the_selector_does_not_change_the_statement() -> None:
    few = str(has_labels(VM.labels, [LabelSelector.parse("a")]))
    many = ",".join(f"k{n}=v,!l{n},m{n} in (a,b)" for n in range(20))
    assert str(has_labels(VM.labels, [LabelSelector.parse(many)])) == few


def escaped(value: str) -> str:
    """The value as it stands in a selector."""
    return "".join(f"\\{character}" if character in "\\,()=" else character for character in value)


legal_keys = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?", fullmatch=True)
legal_values = st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from(',\\()=!";&+% \N{PERSONAL COMPUTER}'), max_size=255
)
requirements = st.one_of(
    st.builds(Requirement, legal_keys, st.none(), st.booleans()),
    st.builds(Requirement, legal_keys, st.frozensets(legal_values, min_size=1, max_size=4), st.booleans()),
)


def written(requirement: Requirement) -> str:
    """The requirement as a client writes it."""
    key, values, negated = requirement.key, requirement.values, requirement.negated
    if values is None:
        return f"!{key}" if negated else key
    if len(values) == 1:
        return f"{key}{'!=' if negated else '='}{escaped(*values)}"
    return f"{key} {'notin' if negated else 'in'} ({','.join(map(escaped, values))})"


@limits(deadline=None)
@given(st.lists(requirements, min_size=1, max_size=8))
def test_every_requirement_can_be_written(wanted: list[Requirement]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(LabelSelectors)
    [selector] = adapter.validate_python([",".join(map(written, wanted))])
    assert selector.requirements == set(wanted)


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256])
@pytest.mark.parametrize("end", ["", "  ", 300 * " ", " ,b", "x ", " x", "\\,", "\\x"])
def test_a_value_ends_where_the_documented_pattern_says(length: int, end: str) -> None:
    """The pattern that is used does not go back into a value: spaces after it would be tried again and again."""
    selector = f"a={length * 'v'}{end}"
    is_documented = re.fullmatch(label_selectors._PATTERN.strip("^$"), selector) is not None
    assert "}+" not in label_selectors._PATTERN
    found = label_selectors._NEXT.match(selector)
    assert (found is not None) == is_documented


async def test_a_label_is_found_whatever_its_value_and_also_on_the_next_page(ada: Person, engine: AsyncEngine) -> None:
    printable = "".join(map(chr, range(32, 127)))
    values = [printable, ",", "\\", "\\,", ",\\", "a,b=c", "\\\\", "\N{PERSONAL COMPUTER},é", '"', "%2C", "a\\b", ")("]
    async with engine.begin() as tx:
        for n, value in enumerate(values):
            for copy in "xy":
                await add_vm(tx, ada.user, name=f"{n}{copy}", labels={"note": value})
    for n, value in enumerate(values):
        for wanted in (f"note={escaped(value)}", f"note in ({escaped(value)},other)"):
            assert await names(ada, labels=wanted, sort="name") == [f"{n}x", f"{n}y"]
            assert await names(ada, labels=f"note,{wanted}", sort="-name") == [f"{n}y", f"{n}x"]
            first = await ada.http.get("/vms", params={"labels": wanted, "page_size": 1, "sort": "name"})
            following = await ada.http.get(f"http://api{links(first)['next']}")
            assert [vm["name"] for vm in following.json()["items"]] == [f"{n}y"]


async def test_a_backslash_is_needed_before_a_comma_only(ada: Person, engine: AsyncEngine) -> None:
    """As in the first version, parentheses need none after `=`."""
    async with engine.begin() as tx:
        await add_vm(tx, ada.user, name="v", labels={"note": "a (b) = !c"})
    assert await names(ada, labels="note=a (b) = !c") == ["v"]
    assert await names(ada, labels="note!=a (b) = !c") == []


async def test_the_labels_of_a_row_are_fetched_once_however_many_requirements_there_are(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    """Labels that are too long for the row are kept in a table of their own, and each fetch reads pages of it."""
    rows = 50
    async with engine.begin() as tx:
        for _ in range(rows):
            await add_vm(tx, ada.user, labels={f"k{n}": secrets.token_hex(100) for n in range(64)})
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "labels" in statement:  # the process itself sends others
            statements.append((statement, parameters))

    event.listen(app.state.vmapi.engine.sync_engine, "before_cursor_execute", note)
    read = []
    for count in (1, 30):
        for form in ("!a{0}", "k{0}!=a", "k{0} notin (a,b),!a{0}"):
            statements.clear()
            selector = ",".join(form.format(n) for n in range(count))
            answer = await ada.http.get("/vms", params={"labels": selector, "page_size": 1})
            assert answer.json()["total"] == rows
            read.append(await pages_read(engine, *statements[-1]))
    assert read[0] >= rows
    assert max(read) < read[0] + rows


async def pages_read(engine: AsyncEngine, statement: str, parameters: Any) -> int:
    """How many pages of tables PostgreSQL reads for the statement; the second time, when it knows the tables."""
    async with engine.connect() as connection:
        for _ in range(2):
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            [found] = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
    return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])

"""What a request says twice."""

from tests.api.conftest import Person


async def test_an_unknown_parameter_is_named_once_however_often_it_is_given(ada: Person) -> None:
    answer = await ada.http.get("/vms?stat=1&stat=2&stat=3")
    assert answer.json()["code"] == "unknown_parameter"
    assert [error["parameter"] for error in answer.json()["errors"]] == ["stat"]


async def test_a_list_of_encodings_that_change_nothing_is_accepted(ada: Person) -> None:
    headers = {"Content-Encoding": "identity, identity"}
    answer = await ada.http.post("/volumes", json={"name": "data", "size_gb": 1}, headers=headers)
    assert answer.status_code == 202, answer.text

"""The generated parts of the client are those that the generator writes today."""

from tests.meta.files import repo_path
from tests.vmctl.generated import CLIENT, generated


def test_the_generated_files_are_current() -> None:
    """If not, run `python -m tests.vmctl.generated`."""
    written = generated()
    assert [repo_path(path) for path, text in written.items() if path.read_text() != text] == []
    assert {path.name for path in (CLIENT / "sync").glob("*.py")} == {
        path.name for path in (CLIENT / "aio").glob("*.py")
    }

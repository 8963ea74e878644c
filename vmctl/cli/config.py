"""Where logins are kept: one private file in the user's configuration folder."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_config_path
from pydantic import ValidationError

from vmctl.cli.stops import Delay
from vmctl.client.errors import ClientError
from vmctl.client.models import TokenPair

DEFAULT_URL = "http://127.0.0.1:8000"
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_OTHERS = 0o077
_LARGEST = 2**20  # bytes of the file; a login has a few thousand
_ROOM_FOR_MORE = 4096  # bytes, if new tokens are longer than the old ones


class ConfigError(ClientError):
    """The configuration cannot be used."""


def path() -> Path:
    """The file of the configuration; ConfigError if the user has no folder for it."""
    try:
        return user_config_path("vmctl") / "config.json"
    except RuntimeError:
        raise ConfigError("There is no folder for the configuration. Set HOME or XDG_CONFIG_HOME.") from None


def read() -> dict[str, Any]:
    """Return the configuration; empty if there is none. It is refused if others could have read or written it."""
    try:
        file = path()
    except ConfigError:
        return {}
    try:
        with file.open("rb") as opened:
            state = os.fstat(opened.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & _OTHERS:
                message = f"{file} holds tokens and must be yours alone. If you trust it: chmod 600 {file}"
                raise ConfigError(message)
            text = opened.read(_LARGEST + 1)
        config = json.loads(text) if len(text) <= _LARGEST else None
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unusable(error) from error
    except (ValueError, RecursionError):
        raise _damaged() from None
    if not isinstance(config, dict) or not isinstance(config.get("url", ""), str):
        raise _damaged()
    logins = config.get("logins", {})
    if not isinstance(logins, dict) or not all(isinstance(login, dict) for login in logins.values()):
        raise _damaged()
    return config


def _damaged() -> ConfigError:
    return ConfigError(f"{path()} is damaged. Delete it, then log in again.")


def _unusable(error: OSError) -> ConfigError:
    return ConfigError(f"Cannot use {path()}: {error.strerror or error}")


@contextmanager
def _in_words() -> Iterator[None]:
    """ConfigError in place of an error of the file system."""
    try:
        yield
    except OSError as error:
        raise _unusable(error) from error


def draft() -> Path:
    """Return a new file, to become the configuration."""
    file = path()
    with _in_words():
        file.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=file.name)  # nobody else can read it
        os.close(descriptor)
    return Path(new)


def write(config: dict[str, Any], new: Path | None = None) -> None:
    """Replace the configuration, so that a reader finds the old one or the new one. `new` is a draft to write to."""
    text = json.dumps(config, indent=2)
    if len(text) > _LARGEST:
        raise ConfigError(f"{path()} would be too large: the service has answered with very long tokens.")
    new = new or draft()
    try:
        with _in_words():
            with new.open("r+") as opened:  # it keeps the room that it has
                opened.write(text)
                opened.truncate()
            new.replace(path())
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def change(url: str, login: dict[str, Any] | None, *, current: bool = False, new: Path | None = None) -> None:
    """Replace the login at one service, or remove it; `current` makes it the service that commands use."""
    with _alone():
        config = read()
        logins = {**config.get("logins", {}), url: login}
        config["logins"] = {at: kept for at, kept in logins.items() if kept}
        if current:
            config["url"] = url
        write(config, new)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other commands from changing the file. They change it at once, so this waits."""
    with _in_words():
        path().parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folder = os.open(path().parent, os.O_RDONLY)
    try:
        with _in_words():
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


class FileTokens:
    """The tokens of the login at one service. They are never sent to another one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock: int | None = None
        self._draft: Path | None = None
        self._delay = Delay()  # of signals, while the tokens are locked

    def read(self) -> TokenPair | None:
        """Return the tokens, if there are any."""
        login = read().get("logins", {}).get(self._url)
        try:
            return TokenPair.model_validate(login["tokens"]) if login else None
        except (KeyError, ValidationError):
            raise _damaged() from None

    def write(self, tokens: TokenPair) -> None:
        """Replace the tokens."""
        login = read().get("logins", {}).get(self._url, {})
        change(self._url, {**login, "tokens": tokens.model_dump(mode="json")}, new=self._draft)

    def try_lock(self) -> bool:
        """Keep other commands from renewing the same tokens; False if one does so now.

        Also take room for the new ones. A refresh token works once: on a full disk its successor would be lost.
        """
        with _in_words():
            path().parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            lock = os.open(path().with_name("lock"), os.O_RDWR | os.O_CREAT, _FILE_MODE)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
        self._lock = lock
        try:
            self._make_room()
        except BaseException:
            self.unlock()
            raise
        self._delay.begin()
        return True

    def _make_room(self) -> None:
        # The file always has this name, so that a command that is killed leaves one at most.
        self._draft = path().with_name("config.json.new")
        with _in_words():
            self._draft.unlink(missing_ok=True)  # somebody else may have made it, to read what comes into it
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(b" " * (len(json.dumps(read(), indent=2)) + _ROOM_FOR_MORE))

    def unlock(self) -> None:
        """Let other commands in."""
        draft, self._draft = self._draft, None
        lock, self._lock = self._lock, None
        try:
            if draft is not None:
                with _in_words():
                    draft.unlink(missing_ok=True)
        finally:
            if lock is not None:
                os.close(lock)
            self._delay.end()

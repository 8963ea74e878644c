"""The phases of a connection, and how long each may last."""

from enum import Enum, auto

HEAD_TIME = 20.0  # seconds from the connect, or from the first byte of a further request
BODY_TIME = 30.0  # seconds from the end of the head
WRITE_TIME = 30.0  # seconds in which a client takes the part of an answer that exceeds the write buffer
LINGER_TIME = 30.0  # seconds in which a client may finish sending what nobody reads
MOST_LINGERING = 64 * 1024 * 1024  # bytes that are thrown away in that time
SIZE_OF_LEFT = 16 * 1024  # bytes of a request, about, beside its body, whose client has left


class Phase(Enum):
    """What a connection does."""

    IDLE = auto()  # waits for a further request
    HEAD = auto()  # receives a head; begins with the connect
    BODY = auto()  # receives the body; the application may read it already
    SERVING = auto()  # has received the whole request
    LINGERING = auto()  # has answered, and throws away what still comes
    CLOSING = auto()  # sends the last bytes
    LEFT = auto()  # is closed, but the application still works on its request

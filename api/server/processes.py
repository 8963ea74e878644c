"""Several API processes on one port, so that the API can use several processor cores.

Each process listens on a socket of its own, and the kernel divides new connections among them. This process opens the
sockets and serves nothing itself. So what waits in the socket of a process that dies is served by the next one.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from domain.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that wait to be accepted, in each socket; as uvicorn's
PAUSE = 0.5  # seconds between the death of a process and the start of its successor
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl.h
Serve = Callable[[socket.socket], None]


def run(settings: Settings, serve: Serve) -> NoReturn:
    """Run as many processes as the settings say until SIGINT or SIGTERM; `serve` serves until it gets such a signal.

    A process that is killed gets a successor. One that ends by itself could not start, so this ends them all.
    """
    sockets = _sockets(settings)
    logger.info("%d processes serve %s, port %d", len(sockets), settings.api_host, settings.api_port)
    Processes(sockets, serve).run()


def _sockets(settings: Settings) -> list[socket.socket]:
    address = settings.api_host, settings.api_port
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    try:
        # The kernel lets other programs of this user share the port. Without the option, it says whether one has it.
        socket.create_server(address, family=family).close()
        return [
            socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)
            for _ in range(settings.api_processes)
        ]
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        sys.exit(f"Port {address[1]} on {address[0]} cannot be used: {why}")


class Processes:
    """The processes that serve, each with its socket."""

    def __init__(self, sockets: list[socket.socket], serve: Serve) -> None:
        self._sockets = sockets
        self._serve = serve
        self._children: dict[int, socket.socket] = {}
        self._is_stopping = False
        # Nobody writes into the pipe. Reading ends when this process, the only one with the other end, has ended.
        self._alive, self._end = os.pipe()

    def run(self) -> NoReturn:
        """Start the processes, and replace those that are killed, until they have to stop."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        # If who starts us ignores it, the kernel does not tell us how a process has ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in self._sockets:
            self._start(each)
        code = 0
        while self._children:
            pid, status = os.wait()
            its_socket = self._children.pop(pid)
            ended = os.waitstatus_to_exitcode(status)
            if ended < 0 and not self._is_stopping:
                logger.error("an API process was killed by signal %d, another one takes its place", -ended)
                time.sleep(PAUSE)
            if self._is_stopping:
                continue
            if ended < 0:
                self._start(its_socket)
            else:
                code = ended
                self._stop(signal.SIGTERM, None)
        sys.exit(code)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _start(self, its_socket: socket.socket) -> None:
        # A signal that came between the fork and the entry would not reach the new process.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        pid = os.fork()
        if pid:
            self._children[pid] = its_socket
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
            return
        self._be_child(its_socket)

    def _be_child(self, its_socket: socket.socket) -> NoReturn:
        """Serve in the new process, which ends with the first one, however that ends."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        os.close(self._end)
        for each in self._sockets:
            if each is not its_socket:
                each.close()
        _have_kernel_end_it()
        threading.Thread(target=self._end_with_parent, daemon=True).start()
        code: object = 1
        try:
            self._serve(its_socket)
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def _end_with_parent(self) -> None:
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def _have_kernel_end_it() -> None:
    """Have Linux kill this process when the first one ends.

    The thread that waits for that end cannot do it while the process is stopped or hangs, and the process would keep
    the port. Other systems have only the thread.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))

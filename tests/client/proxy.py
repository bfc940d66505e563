"""A wire between client and store that can be cut at the worst moment."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Proxy:
    """Forwards one request at a time per connection, and counts them.

    `lose(n)`: the next n requests are done by the store, and their answers never arrive.
    `freeze`/`thaw`: nothing arrives any more, and no connection is closed.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(None)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen: list[str] = []
        self._lose = 0
        self._thawed = threading.Event()
        self._thawed.set()
        self._sockets: list[socket.socket] = [self._listener]
        self._changing = threading.Lock()
        self._closed = False
        self._start(self._accept)

    def lose(self, answers: int) -> None:
        with self._changing:
            self._lose = answers

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def cut(self) -> None:
        """Break every connection there is."""
        for each in self._sockets[1:]:
            _break(each)

    def close(self) -> None:
        self._thawed.set()
        with self._changing:
            self._closed = True
        for each in self._sockets:
            _break(each)
            each.close()

    def _start(self, work: object, *args: object) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(self._target, timeout=None)
            client.settimeout(None)  # whatever the process's default is
            with self._changing:
                if self._closed:  # it came as the listener went
                    client.close()
                    server.close()
                    return
                self._sockets += [client, server]
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        losing = threading.Event()
        self._start(self._answers, client, server, losing)
        try:
            while request := client.recv(65536):
                self._thawed.wait()
                if request.startswith(b"POST "):
                    self.seen.append(request.split(b" ")[1].decode())
                    with self._changing:
                        if self._lose:
                            self._lose -= 1
                            losing.set()
                server.sendall(request)
        except OSError:
            pass
        finally:
            _break(server)

    def _answers(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        try:
            while answer := server.recv(65536):
                self._thawed.wait()
                if losing.is_set():
                    break
                client.sendall(answer)
        except OSError:
            pass
        finally:
            _break(client)
            _break(server)


def _break(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()

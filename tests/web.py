"""A web server on this machine: what it answers is a dict, what it was asked a list."""

import contextlib
import http.server
import threading


class Web:
    """Serves ``files`` by path: bytes, a status, a path to go to instead, or a cut-off body."""

    def __init__(self, port):
        self.home = f"http://127.0.0.1:{port}"
        self.files = {}
        self.asked = []

    def serve(self, path, content):
        self.files[path] = content
        return self.home + path


class Cut(bytes):
    """A body of which the last byte never comes."""


class Gzip(bytes):
    """A body packed on the way."""


@contextlib.contextmanager
def serving():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            web.asked.append(self.path)
            content = web.files.get(self.path, 404)
            if isinstance(content, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                if isinstance(content, Gzip):
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(content[:-1] if isinstance(content, Cut) else content)
                self.close_connection = isinstance(content, Cut)
            else:
                self.send_response(302 if isinstance(content, str) else content)
                if isinstance(content, str):
                    self.send_header("Location", content)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web = Web(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield web
        server.shutdown()


@contextlib.contextmanager
def offline_but_for_this_machine(patch, home):
    """A server, whatever proxies there are, and a cache of its own."""
    patch.setenv("PYTERRIER_HOME", str(home))
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        yield web

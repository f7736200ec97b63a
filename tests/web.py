"""A web server on this machine, which also stands in for the Hugging Face hub."""

import contextlib
import hashlib
import http.server
import threading

import huggingface_hub.constants


class Web:
    """Serves ``files`` by path: bytes, a status, a path to redirect to, or a truncated body.

    ``asked`` lists the requests in order: the path of a GET, ``HEAD`` and the path of a HEAD.
    """

    def __init__(self, port):
        self.home = f"http://127.0.0.1:{port}"
        self.files = {}
        self.asked = []

    def serve(self, path, content):
        self.files[path] = content
        return self.home + path


class Cut(bytes):
    """A body whose last byte is never sent."""


@contextlib.contextmanager
def serving():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            web.asked.append(f"HEAD {self.path}")
            self.answer(body=False)

        def do_GET(self):
            if not self.path.startswith("/api/"):  # where huggingface_hub asks about itself
                web.asked.append(self.path)
            self.answer(body=True)

        def answer(self, body):
            content = web.files.get(self.path, 404)
            if isinstance(content, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.end_headers()
                if body:
                    self.wfile.write(content[:-1] if isinstance(content, Cut) else content)
                self.close_connection = isinstance(content, Cut)
            else:
                self.send_response(302 if isinstance(content, str) else content)
                if isinstance(content, str):
                    self.send_header("Location", content)
                elif content == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
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
    """A server in place of the hub, without proxies, and an empty PyTerrier home."""
    patch.setenv("PYTERRIER_HOME", str(home))
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        # What HF_ENDPOINT sets; the library reads the variable once, when it is imported.
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        patch.setattr(constants, "ENDPOINT", web.home)
        patch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            template.replace("https://huggingface.co", web.home),
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield web

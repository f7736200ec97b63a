"""A Hugging Face hub on this machine that takes uploads: what ``to_hf`` talks to."""

import base64
import contextlib
import http.server
import json
import re
import threading

import huggingface_hub.constants
import huggingface_hub.hf_api


class Hub:
    """Keeps the files of repositories by name: ``files["owner/name@branch"]["README.md"]``."""

    def __init__(self, port):
        self.home = f"http://127.0.0.1:{port}"
        self.files = {}
        self.created = []

    def answer(self, method, path, body):
        """Returns status and JSON of a request of huggingface_hub, and keeps what it uploads."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.created.append((asked.get("type", "model"), name))
            return 200, {"url": f"{self.home}/datasets/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/api/datasets/(.+?)/(branch|preupload|commit)/(\w+)", path):
            name, action, branch = match.groups()
            if action == "branch":
                return 409, {"error": "the branch already exists"}
            if action == "preupload":
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                return 200, {"files": files}
            kept = self.files.setdefault(f"{name}@{branch}", {})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.home}/datasets/{name}/commit/{'0' * 40}"
            return 200, {"success": True, "commitOid": "0" * 40, "commitUrl": url}
        return 404, {"error": f"{method} {path} is not known"}

    def file(self, path):
        """Returns a file by ``/datasets/owner/name/resolve/branch/file``; ``None`` without it."""
        match = re.fullmatch(r"/datasets/(.+?)/resolve/(\w+)/(.+)", path)
        return match and self.files.get(f"{match[1]}@{match[2]}", {}).get(match[3])


@contextlib.contextmanager
def uploading(patch):
    """Runs a hub, to which ``to_hf`` and ``from_hf`` of ``pt.Artifact`` go."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, found = hub.answer("POST", self.path, body)
            self.respond(status, json.dumps(found).encode())

        def do_GET(self):
            found = hub.file(self.path)
            self.respond(404 if found is None else 200, found or b"")

        def respond(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("HF_TOKEN", "token-of-the-test")
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.home)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.home)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr("pyterrier._artifact._hf_url_resolver", lambda url: resolved(hub.home, url))
        yield hub
        server.shutdown()


def resolved(home, url):
    """Returns the address of a package, as PyTerrier's resolver does on the real hub."""
    name, _, branch = url.path.partition("@")
    return f"{home}/datasets/{name}/resolve/{branch or 'main'}/artifact.tar.lz4"

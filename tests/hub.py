"""A Hugging Face hub and a Zenodo on this machine, for ``to_hf`` and ``to_zenodo``."""

import base64
import contextlib
import http.server
import json
import re
import threading

import huggingface_hub.constants
import huggingface_hub.hf_api
import requests

ZENODO = "https://zenodo.org"


class Hub:
    """Keeps the files of repositories by name: ``files["owner/name@branch"]["README.md"]``.

    Those of Zenodo are in ``files["17"]``, and their description in ``described``.
    """

    def __init__(self, port):
        self.home = f"http://127.0.0.1:{port}"
        self.files = {}
        self.created = []
        self.described = {}

    def answer(self, method, path, body):
        """Returns status and JSON of a request of huggingface_hub, and keeps what it uploads."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.created.append((asked.get("type", "model"), name))
            return 200, {"url": f"{self.home}/datasets/{name}"}
        if path.startswith("/api/deposit/depositions"):
            links = ("html", "latest_draft", "bucket", "discard")
            return 201, {"id": 17, "links": {n: f"{self.home}/zenodo/{n}" for n in links}}
        if path.startswith("/zenodo/latest_draft"):
            self.described = json.loads(body)["metadata"]
            return 200, {}
        if match := re.match(r"/zenodo/bucket/([^?]+)", path):
            self.files.setdefault("17", {})[match[1]] = body
            return 201, {}
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
        if match := re.fullmatch(r"/records/17/files/(.+)", path):
            return self.files["17"].get(match[1])
        match = re.fullmatch(r"/datasets/(.+?)/resolve/(\w+)/(.+)", path)
        return match and self.files.get(f"{match[1]}@{match[2]}", {}).get(match[3])


@contextlib.contextmanager
def uploading(patch):
    """Runs a hub, to which ``to_hf``, ``from_zenodo`` and so on of ``pt.Artifact`` go."""
    post = requests.post

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            status, found = hub.answer(self.command, self.path, self.body())
            self.respond(status, json.dumps(found).encode())

        do_PUT = do_POST

        def body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

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
        # PyTerrier has the addresses of the hub and of Zenodo in its code.
        patch.setattr(requests, "post", lambda url, **o: post(url.replace(ZENODO, hub.home), **o))
        resolve = "pyterrier._artifact._zenodo_url_resolver"
        address = f"{hub.home}/records/{{}}/files/artifact.tar.lz4"
        patch.setattr(resolve, lambda url: address.format(url.path))
        yield hub
        server.shutdown()


def resolved(home, url):
    """Returns the address of a package, as PyTerrier's resolver does on the real hub."""
    name, _, branch = url.path.partition("@")
    return f"{home}/datasets/{name}/resolve/{branch or 'main'}/artifact.tar.lz4"

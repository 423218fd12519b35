"""What goes to the hub, and how, against a server on this machine that speaks the hub's protocol."""

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from epmq_export.errors import InputError, OutputError, RecipeError, VerificationFailed
from epmq_export.publishing import hub
from epmq_export.publishing.hub import push, require_name, uploads
from epmq_export.publishing.report import Report, read_report
from tests.publishing.page_reports import report as a_report


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("# A card\n", encoding="utf-8")
    (tmp_path / "report.html").write_text("<!doctype html>", encoding="utf-8")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "packed.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def report(output: Path) -> Report:
    """Return the report of an output with a GGUF and an ONNX file, as it was written elsewhere."""
    content = a_report()
    for file, path in zip(content["files"], ("gguf/model-Q4_0.gguf", "onnx/onnx/model_q4.onnx"), strict=True):
        place = output / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.encode())
        digest = hashlib.sha256(path.encode()).hexdigest()
        file |= {"path": f"/home/someone/out/{path}", "sha256": digest, "bytes": len(path)}
    (output / "report.json").write_text(json.dumps(content), encoding="utf-8")
    return read_report(output / "report.json")


class Hub(ThreadingHTTPServer):
    """A stand-in for the hub: it makes repositories and keeps the files of commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, bytes] = {}
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "id": "me/model"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.server.refuses:
            self.answer({"error": "no"}, 403)
        elif self.path.endswith("/repos/create"):
            self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/me/model", "id": "me/model"})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{**file, **mode} for file in json.loads(content)["files"]]})
        else:
            for line in content.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.server.kept[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            url = f"http://127.0.0.1:{self.server.server_port}/me/model/commit/{'0' * 40}"
            self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})

    def answer(self, content: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint, made = f"http://127.0.0.1:{server.server_port}", hub.HfApi
    monkeypatch.setattr(hub, "HfApi", lambda: made(endpoint=endpoint, token="hf_x"))
    yield server
    server.shutdown()
    server.server_close()


PLACES = [
    ".gitattributes",
    "README.md",
    "config.json",
    "model-Q4_0.gguf",
    "onnx/model_q4.onnx",
    "report.html",
    "report.json",
]


def test_clients_find_what_they_look_for(output: Path, report: Report) -> None:
    found = uploads(output, report)
    assert [each.place for each in found] == PLACES
    assert all(each.bytes > 0 for each in found)


def test_no_place_of_this_machine_goes(output: Path, report: Report) -> None:
    (sent,) = [each.source for each in uploads(output, report) if each.place == "report.json"]
    assert isinstance(sent, bytes) and str(output) not in sent.decode() and "/home" not in sent.decode()
    files = json.loads(sent)["files"]
    assert [file["path"] for file in files] == ["model-Q4_0.gguf", "onnx/model_q4.onnx"]


def test_what_was_not_verified_does_not_go(output: Path, report: Report) -> None:
    with pytest.raises(VerificationFailed, match="its verdict is fail, expected pass: gone wrong"):
        uploads(output, report.model_copy(update={"verdict": "fail", "broken": ["gone wrong"]}))
    (output / "onnx" / "onnx" / "model_q4.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match=r"model_q4\.onnx: it has changed since it was verified"):
        uploads(output, report)
    (output / "onnx" / "onnx" / "model_q4.onnx").unlink()
    with pytest.raises(InputError, match=r"model_q4\.onnx: it is gone"):
        uploads(output, report)


def test_all_of_it_arrives_in_one_commit(output: Path, report: Report, stand_in: Hub) -> None:
    url = push(uploads(output, report), "me/model", "Add it", private=True)
    assert url.endswith("/me/model/commit/" + "0" * 40)
    assert sorted(stand_in.kept) == PLACES
    written = output / "gguf" / "model-Q4_0.gguf"
    assert stand_in.kept[written.name] == written.read_bytes()


def test_what_the_hub_refuses_is_one_sentence(output: Path, report: Report, stand_in: Hub) -> None:
    stand_in.refuses = True
    with pytest.raises(OutputError, match="me/model: the Hugging Face hub does not take it") as raised:
        push(uploads(output, report), "me/model", "Add it", private=False)
    assert "\n" not in str(raised.value)
    stand_in.server_close()
    with pytest.raises(OutputError, match="me/model: the Hugging Face hub does not take it"):
        push(uploads(output, report), "me/model", "Add it", private=False)


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "-x", ""])
def test_a_name_that_no_repository_has_is_refused(name: str) -> None:
    require_name("me/model.v1")
    with pytest.raises(RecipeError, match=r"^REPO: [^\n]+$"):
        require_name(name)

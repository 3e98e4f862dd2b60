"""Published weights by name: fetched from a server on the loopback, used only whole, and recorded."""

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from s4m_pipeline.config import weight_files
from s4m_pipeline.config.weight_files import HUGGING_FACE, find_weights, is_weights, weights_here, zoo
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.changes import changes
from s4m_pipeline.models.checkpoint import read_weights
from s4m_stages.pretrain_teacher import pretrain_teacher

R50 = "mask2former_r50_8xb2-lsj-50e_coco"
SWIN = HUGGING_FACE[0]


class Server(ThreadingHTTPServer):
    """Serves `files` by path; of those in `halved` only the first half arrives."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.halved: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._headers()

    def do_GET(self) -> None:
        content = self._headers()
        self.wfile.write(content[: len(content) // 2] if self.path in self.server.halved else content)

    def _headers(self) -> bytes:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        return content or b""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The only server that names lead to; nothing is fetched yet."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()


def publish(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch, checksum: str = "") -> str:
    """Offer a file as mmdet's R50 network; returns its path on the server."""
    name = zoo()[R50].rpartition("/")[2].rpartition("-")[0]
    path = f"/{R50}/{name}-{checksum or hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[path] = content
    monkeypatch.setattr(weight_files, "zoo", lambda: {R50: server.address + path})
    return path


def pth(checkpoint: Path, classes: tuple[str, ...]) -> bytes:
    """A checkpoint as mmdet publishes it."""
    buffer = io.BytesIO()
    torch.save({"state_dict": load_file(checkpoint), "meta": {"CLASSES": classes, "epoch": 50}}, buffer)
    return buffer.getvalue()


def test_zoo__of_the_installed_mmdet__has_the_networks_of_its_list():
    address = zoo()[R50]
    assert address.endswith("/mask2former_r50_8xb2-lsj-50e_coco_20220506_191028-41b088b6.pth")
    assert "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco" in zoo()


def test_mmdet_name__is_fetched_once_and_read(server, tiny_checkpoint, monkeypatch):
    path = publish(server, pth(tiny_checkpoint, ("bright", "dark")), monkeypatch)
    assert weights_here(f"mmdet://{R50}") is None
    for source in (f"mmdet://{R50}", Path(f"mmdet://{R50}")):  # a Path keeps one slash
        assert is_weights(Path(source))
        weights = read_weights(source)
        server.files.clear()
    assert weights.classes == ("bright", "dark")
    assert weights.published
    assert (
        weights.file.digest()
        == f"sha256:{hashlib.sha256(pth(tiny_checkpoint, weights.classes)).hexdigest()[:16]} (mmdet://{R50})"
    )
    assert weights_here(f"mmdet://{R50}") == weights.file
    assert weights.path.name == path.rpartition("/")[2]


@pytest.mark.parametrize("fault", ["cut off", "other content", "absent"])
def test_mmdet_name__bad_download__is_never_used(server, monkeypatch, fault):
    path = publish(
        server, b"weights" * 1000, monkeypatch, checksum="" if fault != "other content" else "01234567"
    )
    if fault == "cut off":
        server.halved.add(path)
    if fault == "absent":
        server.files.clear()
    message = rf"(?s)mmdet://{R50} is no file here, and fetching it failed.*curl .*{path}.*same place here"
    with pytest.raises(UserError, match=message):
        find_weights(f"mmdet://{R50}")
    assert [file for file in weight_files.zoo_file(R50).parent.iterdir() if file.is_file()] == []


def test_mmdet_name__damaged_file_of_earlier__is_refused(server, monkeypatch):
    publish(server, b"weights", monkeypatch)
    find_weights(f"mmdet://{R50}").path.write_bytes(b"weight")
    with pytest.raises(
        UserError, match=r"is damaged: its SHA-256 begins with \w{8}, \w{8} expected.\nDelete it"
    ):
        find_weights(f"mmdet://{R50}")


def test_unknown_names__are_answered_with_the_nearest(server):
    with pytest.raises(UserError, match=rf"nearest are: mmdet://{R50},"):
        find_weights("mmdet://mask2former_r50_coco")
    with pytest.raises(UserError, match=rf"(?s)The hub has {SWIN}.*hf download"):
        find_weights("facebook/mask2former-swin-tiny-coco")


def test_hub_name__is_fetched_with_its_classes(server):
    tensors = {"model.pixel_level_module.decoder.level_embed": torch.ones(3, 2)}
    server.files[f"/{SWIN}/resolve/main/model.safetensors"] = save(tensors)
    labels = {"id2label": {"0": "person", "1": "car"}}
    server.files[f"/{SWIN}/resolve/main/config.json"] = json.dumps(labels).encode()
    for _ in range(2):
        weights = read_weights(SWIN)
        server.files.clear()
    assert weights.classes == ("person", "car")
    assert list(weights.tensors) == ["panoptic_head.pixel_decoder.level_encoding.weight"]
    weights.path.resolve().write_bytes(b"other")
    with pytest.raises(UserError, match="is damaged: its SHA-256 begins with"):
        find_weights(SWIN)


@pytest.mark.parametrize("fault", ["cut off", "no safetensors"])
def test_hub_name__bad_download__is_never_used(server, monkeypatch, fault):
    path = f"/{SWIN}/resolve/main/model.safetensors"
    server.files[f"/{SWIN}/resolve/main/config.json"] = b"{}"
    if fault == "cut off":
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
        server.files[path] = bytes(2000)
        server.halved.add(path)
    with pytest.raises(UserError, match=rf"(?s){SWIN} is no file here.*hf download.*only safetensors"):
        find_weights(SWIN)
    assert weights_here(SWIN) is None


def test_pretrain_teacher__from_a_published_network_of_other_classes__records_which(
    server, monkeypatch, tiny_config, tiny_checkpoint, tmp_path, capsys
):
    publish(server, pth(tiny_checkpoint, ("dark", "person")), monkeypatch)
    settings = ["teacher.iterations=1", "teacher.validate_every=1", f"teacher.init_from=mmdet://{R50}"]
    pretrain_teacher(tiny_config, settings, tmp_path)
    said = capsys.readouterr().err
    assert f"initialized from mmdet://{R50}; its class layer for dark and no object; 1 classes start" in said
    record = json.loads((tmp_path / "teacher/run.json").read_text())
    digest = find_weights(f"mmdet://{R50}").digest()
    assert record["sessions"][0]["initial_weights"] == digest
    assert changes(record, record["config"], {**record["data"], "initial weights": digest}) == []

"""What others publish: a server on the loopback in their place, and networks of ours under their names."""

import hashlib
import io
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from s4m_pipeline.models.conversion import detectron2, huggingface
from s4m_pipeline.models.conversion.tables import Table, renamed


class WeightsServer(ThreadingHTTPServer):
    """Serves `files` by path; of those in `halved` only the first half arrives, those in `altered` backwards.

    Attributes:
        zoo: addresses of mmdet's networks by name, all on this server.
    """

    def __init__(self, zoo: dict[str, str]) -> None:
        self.files: dict[str, bytes] = {}
        self.halved: set[str] = set()
        self.altered: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.zoo = {name: self.address + urlsplit(address).path for name, address in zoo.items()}

    def publish(self, name: str, content: bytes) -> str:
        """Offer a file as mmdet's network of this name; returns its path on the server."""
        checksum = hashlib.sha256(content).hexdigest()[:8]
        self.zoo[name] = f"{self.zoo[name].rpartition('-')[0]}-{checksum}.pth"
        path = urlsplit(self.zoo[name]).path
        self.files[path] = content
        return path

    def publish_on_hub(self, name: str, files: dict[str, bytes]) -> None:
        """Offer files as those of a network of Hugging Face's hub."""
        self.files |= {f"/{name}/resolve/main/{file}": content for file, content in files.items()}


class _Handler(BaseHTTPRequestHandler):
    server: WeightsServer

    def do_HEAD(self) -> None:
        self._headers()

    def do_GET(self) -> None:
        content = self._headers()
        if self.path in self.server.halved:
            content = content[: len(content) // 2]
        self.wfile.write(content[::-1] if self.path in self.server.altered else content)

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


def pth(content: Any) -> bytes:
    """A file as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_detectron2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours under Detectron2's names."""
    return renamed(tensors, _backwards(detectron2.TABLE))


def as_huggingface(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of ours, with ResNet, under the names of `transformers`, which packs no attention."""
    parts = {
        f"{name}#{part}" if "self_attn.attn.in_proj" in name else name: value.contiguous()
        for name, whole in tensors.items()
        for part, value in enumerate(whole.chunk(3) if "self_attn.attn.in_proj" in name else [whole])
    }
    return renamed(parts, _backwards(huggingface.TABLE))


def _backwards(table: Table) -> Table:
    return [(here, there) for there, here in table if here is not None]

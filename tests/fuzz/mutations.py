"""Damages files: values of JSON and YAML, bytes, lengths, members of archives; by a seed."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import yaml

__all__ = ["Mutator"]

# Stand in for text that Python's JSON writes of no value.
_AS_TEXT = {
    "@huge@": "9" * 5000,
    "@deep@": "[" * 20_000 + "]" * 20_000,
    "@infinite@": "1e999",
    "@bare@": "nul",
}
_STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    -(2**63),
    10**18,
    10**12,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "a",
    "x" * 1000,
    "../../etc/passwd",
    "\0",
    "line\nline\x1b[31m",
    "\ud800",
    "{0:999999999}",
    "-1",
    [],
    {},
    [[]],
    {"a": None},
    *_AS_TEXT,
)
_MOST_EDITS = 3
_LARGEST_BLOCK = 64  # bytes that one edit moves


class Mutator:
    """Draws damage from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def file(self, name: str, content: bytes) -> bytes:
        """Damage a file: mostly what is in it, by its ending, now and then any of its bytes."""
        damage = self._by_ending(name)
        if damage is None or self.rng.random() < 0.3:
            return self.raw(content)
        return damage(content)

    def _by_ending(self, name: str) -> Callable[[bytes], bytes] | None:
        endings = {
            ".json": self.json,
            ".yaml": self.yaml,
            ".safetensors": self.safetensors,
            ".gz": self.packed,
            ".npz": self.zipped,
            ".pt": self.zipped,
            ".pt2": self.zipped,
        }
        return next((damage for ending, damage in endings.items() if name.endswith(ending)), None)

    def raw(self, content: bytes) -> bytes:
        """Turn bits, change, cut, repeat or leave out bytes; or cut the end off."""
        damaged = bytearray(content)
        for _ in range(self.rng.randint(1, _MOST_EDITS)):
            self._edit_bytes(damaged)
        return bytes(damaged)

    def _edit_bytes(self, content: bytearray) -> None:
        at = self.rng.randrange(len(content) + 1)
        length = self.rng.randint(1, _LARGEST_BLOCK)
        kind = self.rng.choice(("bit", "byte", "cut", "insert", "leave out", "repeat", "zero"))
        if kind == "bit" and at < len(content):
            content[at] ^= 1 << self.rng.randrange(8)
        elif kind == "byte" and at < len(content):
            content[at] = self.rng.randrange(256)
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = self.rng.randbytes(length)
        elif kind == "leave out":
            del content[at : at + length]
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
        else:
            content[at : at + length] = bytes(len(content[at : at + length]))

    def json(self, content: bytes) -> bytes:
        """Change values of a JSON file."""
        text = json.dumps(self.value(json.loads(content)))
        for word, written in _AS_TEXT.items():
            text = text.replace(f'"{word}"', written)
        return text.encode()

    def yaml(self, content: bytes) -> bytes:
        """Change values of a YAML file, or give them tags and aliases."""
        value = self.value(yaml.safe_load(content))
        text = yaml.safe_dump(value, sort_keys=False)
        lines = text.splitlines()
        at = self.rng.randrange(len(lines))
        strange = (
            "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
            "? {a: b}\n: c",
            "d: !!timestamp x",
            "e: !!int x",
            "f: !!python/object/apply:os.system ['true']",
            "g: 2001-99-99",
            "h: " + "[" * 2000,
            "i: " + "9" * 5000,
        )
        if self.rng.random() < 0.2:
            lines[at:at] = self.rng.choice(strange).splitlines()
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """Change a JSON value in one to three places."""
        changed = [copy.deepcopy(value)]
        for _ in range(self.rng.randint(1, _MOST_EDITS)):
            self._edit_value(changed)
        return changed[0]

    def _edit_value(self, root: list[Any]) -> None:
        container, key = self._place(root)
        kind = self.rng.choice(("strange", "strange", "number", "delete", "swap", "rename", "add"))
        if kind == "strange" or container is root:
            container[key] = copy.deepcopy(self.rng.choice(_STRANGE))
        elif kind == "number":
            container[key] = self._other(container[key])
        elif kind == "delete":
            del container[key]
        elif kind == "swap":
            other, at = self._place(root)
            container[key] = copy.deepcopy(other[at])
        elif isinstance(container, dict):
            name = self.rng.choice(("", "a", "line\nline", "\ud800", str(key) + "x"))
            container[name] = container.pop(key) if kind == "rename" else 1
        else:
            container.insert(key, copy.deepcopy(container[key]))

    def _place(self, root: list[Any]) -> tuple[Any, Any]:
        """Find a container and a key in it, at any depth."""
        container: Any = root
        key: Any = 0
        while isinstance(container[key], (dict, list)) and container[key]:
            if container is not root and self.rng.random() < 0.2:
                break
            container = container[key]
            is_object = isinstance(container, dict)
            key = self.rng.choice(list(container) if is_object else range(len(container)))
        return container, key

    def _other(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return str(value)[: self.rng.randrange(9)]
        return self.rng.choice((-value, value * 1000, value + 1, value - 1, float(value), -1e9))

    def safetensors(self, content: bytes) -> bytes:
        """Change the header of tensors, with the length that fits it."""
        (length,) = struct.unpack("<Q", content[:8])
        header = self.json(content[8 : 8 + length])
        return struct.pack("<Q", len(header)) + header + content[8 + length :]

    def packed(self, content: bytes) -> bytes:
        """Change what a gzipped file unpacks to."""
        unpacked = gzip.decompress(content)
        is_json = unpacked[:1] == b"{" and b"\n{" not in unpacked and self.rng.random() < 0.7
        return gzip.compress(self.json(unpacked) if is_json else self.raw(unpacked), 1)

    def zipped(self, content: bytes) -> bytes:
        """Change, leave out or rename a member of a zip file, with the checksum that fits it."""
        if not content.startswith(b"PK"):  # as old versions of torch wrote weights
            return self.raw(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        at = self.rng.randrange(len(members))
        name, inner = members[at]
        kind = self.rng.choice(("change", "change", "change", "leave out", "rename", "bomb"))
        members[at : at + 1] = {
            "change": [(name, self._member(name, inner))],
            "leave out": [],
            "rename": [(f"{name}x", inner)],
            "bomb": [(name, inner + bytes(1 << 20))],
        }[kind]
        out = io.BytesIO()
        how = zipfile.ZIP_DEFLATED if self.rng.random() < 0.2 else zipfile.ZIP_STORED
        with zipfile.ZipFile(out, "w", how, compresslevel=1) as archive:
            for member, data in members:
                archive.writestr(member, data)
        return out.getvalue()

    def _member(self, name: str, inner: bytes) -> bytes:
        if name.endswith(".json"):
            return self.json(inner)
        if name.endswith(".npy") and self.rng.random() < 0.5:
            return self._npy(inner)
        return self.raw(inner)

    def _npy(self, inner: bytes) -> bytes:
        """Change the header of an array in its own length."""
        (length,) = struct.unpack("<H", inner[8:10])
        header = inner[10 : 10 + length].decode()
        changes = (
            ("'shape': (", "'shape': (999999999999, "),
            ("'shape': (", "'shape': (-"),
            ("|u1", "<f8"),
            ("|u1", "|O"),
            ("False", "True"),
            ("{", "__import__('os').system('true') or {"),
            ("'shape': (", "'shape': (40000000000000000000L, "),
        )
        old, new = self.rng.choice(changes)
        changed = header.replace(old, new).rstrip() + "\n"
        return inner[:8] + struct.pack("<H", len(changed)) + changed.encode() + inner[10 + length :]

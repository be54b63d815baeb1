"""Folders of pictures: decoded once and kept, whatever their modes; what is said of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cprune_rl.accuracy.data import decoded_cache, load_data
from cprune_rl.accuracy.data.image_folder import decode_middle
from cprune_rl.core import cached_files
from cprune_rl.errors import DataError

N_TRAIN = 30  # pictures of each class


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, grey: int, size: tuple[int, int] = (12, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two classes of plain pictures; each picture has a grey value of its own."""
    folder = tmp_path / "album"
    for n in range(N_TRAIN):
        picture(folder / "train" / "dark" / f"{n:03}.png", n)
        picture(folder / "train" / "light" / f"{n:03}.png", 200 + n)
    for n in range(5):
        picture(folder / "val" / "dark" / f"{n}.png", 100 + n)
        picture(folder / "val" / "light" / f"{n}.png", 150 + n)
    return folder


def decoded(folder: Path, options: str = "size=8") -> list[int]:
    """How many pictures were decoded when the data were opened."""
    seen: list[int] = []
    load_data(f"imagefolder:{folder}?{options}", advance=seen.append)
    return seen


def greys(folder: Path, options: str = "size=8") -> list[int]:
    """The grey value of every picture, ascending."""
    data = load_data(f"imagefolder:{folder}?{options}")
    return sorted(int(v) for s in data.splits.values() for v in s.images[:, 0, 4, 4])


def test_pictures_are_decoded_once(album: Path) -> None:
    assert decoded(album) == [*range(1, 71)]
    first = load_data(f"imagefolder:{album}?size=8")
    assert decoded(album) == []
    assert load_data(f"imagefolder:{album}?size=8").fingerprint == first.fingerprint
    assert decoded(album, "size=10") == [*range(1, 71)], "another size is another set"
    assert decoded(album) == [], "which the first one survives"


@pytest.mark.parametrize("change", ["replaced", "added", "removed"])
def test_a_folder_that_changed_is_decoded_again(album: Path, change: str) -> None:
    before = load_data(f"imagefolder:{album}?size=8")
    path = album / "train" / "dark" / "007.png"
    expected = greys(album)
    if change == "replaced":
        stamps = path.stat()
        picture(path, 99)
        os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        expected[expected.index(7)] = 99
    elif change == "added":
        picture(path.with_name("999.png"), 99)
        expected.append(99)
    else:
        path.unlink()
        expected.remove(7)
    assert greys(album) == sorted(expected)
    assert load_data(f"imagefolder:{album}?size=8").fingerprint != before.fingerprint
    assert len(cached_files.cached_files(("images",))) == 1, "the old pictures are gone"


def test_decoding_that_was_stopped_goes_on_where_it_stopped(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_cache, "_MAX_BLOCK", 16)

    def stop(n_done: int) -> None:
        if n_done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(f"imagefolder:{album}?size=8", advance=stop)
    assert decoded(album) == [*range(33, 71)], "two blocks of 16 were whole"
    assert greys(album) == sorted(
        [*range(30), *range(200, 230), *range(100, 105), *range(150, 155)]
    )


def test_a_stopped_decoding_whose_bytes_were_lost_begins_again(
    album: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(decoded_cache, "_MAX_BLOCK", 16)

    def stop(n_done: int) -> None:
        if n_done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(f"imagefolder:{album}?size=8", advance=stop)
    (array,) = (cache / "images").glob("*.part/x.npy")
    content = bytearray(array.read_bytes())
    content[200 + 20 * 192] ^= 1
    array.write_bytes(content)
    assert decoded(album) == [*range(17, 71)]


def test_a_damaged_cache_is_made_again(album: Path, cache: Path) -> None:
    load_data(f"imagefolder:{album}?size=8")
    (array,) = (cache / "images").glob("*/x.npy")
    array.write_bytes(array.read_bytes()[:-1])
    assert decoded(album) == [*range(1, 71)]
    (source,) = (cache / "images").glob("*/source.json")
    source.write_text("{")
    assert decoded(album) == [*range(1, 71)]


def test_old_pictures_make_room_for_new_ones(
    album: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    load_data(f"imagefolder:{album}?size=8")
    load_data(f"imagefolder:{album}?size=9")
    for size, age_s in ((8, 100), (9, 200)):
        for source in (cache / "images").glob("*/source.json"):
            if json.loads(source.read_text())["size_px"] == size:
                for file in source.parent.iterdir():
                    os.utime(file, (time.time() - age_s,) * 2)
    two = sum(file.size_bytes for file in cached_files.cached_files(("images",)))
    monkeypatch.setenv("CPRUNE_RL_IMAGES_GB", str((two + 10) / 1e9))
    assert decoded(album, "size=10") != []
    assert decoded(album, "size=8") == [], "the one used last stays"
    assert decoded(album, "size=9") != [], "the one not used for longest went"


def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    album: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(decoded_cache, "_SPARE_BYTES", 2**60)
    with pytest.raises(DataError, match=r"70 pictures at 8 px take .*--cache, or take fewer"):
        decoded(album)
    assert list((cache / "images").glob("*.part")) == []


def test_a_sample_has_every_class_in_proportion_and_decodes_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for name, n_pictures in (("often", 180), ("seldom", 20)):
        for n in range(n_pictures):
            picture(folder / "train" / name / f"{n}.png", n)
        picture(folder / "val" / name / "0.png", 0)
    assert len(decoded(folder, "size=8&train=100")) == 102
    data = load_data(f"imagefolder:{folder}?size=8&train=100")
    labels = np.concatenate([s.labels for name, s in data.splits.items() if name != "test"])
    assert np.bincount(labels).tolist() == [90, 10]
    other = load_data(f"imagefolder:{folder}?size=8&train=100&seed=1")
    assert other.fingerprint != data.fingerprint


# --- pictures of every kind


def middle(path: Path) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [int(v) for v in decode_middle(path, 8)[:, 4, 4]]


@pytest.mark.parametrize("name", ["grey.png", "grey.pgm"])
def test_16_bits_of_grey_are_scaled(name: str, tmp_path: Path) -> None:
    for value, expected in ((0, 0), (257, 1), (32896, 128), (65535, 255)):
        pixels = np.full((9, 9), value, np.uint16)
        if name.endswith("pgm"):
            header = b"P5 9 9 65535\n"
            (tmp_path / name).write_bytes(header + pixels.astype(">u2").tobytes())
        else:
            Image.fromarray(pixels).save(tmp_path / name)
        assert middle(tmp_path / name) == [expected] * 3


def test_palettes_transparency_and_cmyk_are_the_colours_that_they_stand_for(
    tmp_path: Path,
) -> None:
    colour = (200, 40, 90)
    rgb = Image.new("RGB", (9, 9), colour)
    rgb.quantize(4).save(tmp_path / "palette.png")
    rgb.quantize(4).save(tmp_path / "clear.png", transparency=b"\x00\xff\xff\xff")
    Image.new("RGBA", (9, 9), (*colour, 0)).save(tmp_path / "alpha.png")
    Image.new("LA", (9, 9), (77, 10)).save(tmp_path / "grey_alpha.png")
    Image.new("1", (9, 9), 1).save(tmp_path / "bits.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    for name in ("palette", "clear", "alpha"):
        assert middle(tmp_path / f"{name}.png") == list(colour), name
    assert middle(tmp_path / "grey_alpha.png") == [77] * 3
    assert middle(tmp_path / "bits.png") == [255] * 3
    np.testing.assert_allclose(middle(tmp_path / "cmyk.jpg"), colour, atol=4)


# --- folders that are not as they should be


def test_hidden_folders_and_files_are_no_classes_and_no_pictures(album: Path) -> None:
    before = load_data(f"imagefolder:{album}?size=8")
    for part in ("train", "val"):
        picture(album / part / ".ipynb_checkpoints" / "0.png", 0)
    (album / "train" / "dark" / "._000.png").write_bytes(b"of another system")
    after = load_data(f"imagefolder:{album}?size=8")
    assert after.class_names == ("dark", "light")
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_folder_of_a_class_is_named(album: Path, part: str) -> None:
    (album / "train" / "medium").mkdir()
    picture(album / "val" / "medium" / "0.png", 3)
    if part == "val":
        picture(album / "train" / "medium" / "0.png", 3)
        (album / "val" / "medium" / "0.png").unlink()
    with pytest.raises(DataError, match=rf"{part}/medium has no pictures .* or remove it"):
        load_data(f"imagefolder:{album}?size=8")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_picture_is_named_and_nothing_is_left(album: Path, suffix: str, cache: Path) -> None:
    path = album / "train" / "light" / f"zz.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"light/zz\.{suffix} cannot be read as a picture"):
        load_data(f"imagefolder:{album}?size=8")
    assert cached_files.cached_files() == []


def test_one_class_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    for n in range(60):
        picture(tmp_path / "a" / "train" / "cat" / f"{n}.png", n)
    picture(tmp_path / "a" / "val" / "cat" / "0.png", 0)
    seen: list[int] = []
    with pytest.raises(DataError, match="has the one class 'cat'"):
        load_data(f"imagefolder:{tmp_path / 'a'}?size=8", advance=seen.append)
    assert seen == []


def test_pictures_without_folders_of_classes_say_what_to_do(tmp_path: Path) -> None:
    for n in range(60):
        picture(tmp_path / "a" / f"{n}.png", n)
    with pytest.raises(DataError, match=r"needs train/<class>/.*--labels teacher"):
        load_data(f"imagefolder:{tmp_path / 'a'}?size=8")


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
import torch
from torch import nn
from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.training import TrainSettings, evaluate, train
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load_data(sys.argv[1])
model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(4, 2))
data.fingerprint
train(model, data, TrainSettings(n_steps=20, batch_size=16, bf16=False))
for split in data.splits.values():
    evaluate(model, split)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_bytes = sum(int(np.prod(s.images.shape)) for s in data.splits.values())
print((after - before) * 1024, n_bytes)
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """Pictures of one file under many names: 1.2 GB once they are decoded."""
    folder = tmp_path / "large"
    for name, grey in (("a", 10), ("b", 200)):
        (folder / "train" / name).mkdir(parents=True)
        picture(folder / "val" / name / "0.png", grey)
        for n in range(750):
            os.link(folder / "val" / name / "0.png", folder / "train" / name / f"{n}.png")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, f"imagefolder:{folder}?size=512"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    grown, n_bytes = map(int, done.stdout.split())
    assert n_bytes > 1.1e9
    assert grown < 0.5e9, "blocks of pictures, batches and activations"

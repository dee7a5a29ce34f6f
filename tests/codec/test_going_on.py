"""Going on with a file: only with the video and the settings that made it; else it stays as it is."""

from dataclasses import replace

import pytest
from clips import moving

from plisse.codec import files
from plisse.codec.encoder import Encoder
from plisse.codec.rate import Rate
from plisse.codec.video import Settings, encode_file, open_clip
from plisse.data.video import open_video
from plisse.data.video_out import write_video
from plisse.errors import InputError

TINY = Settings("warp", "fast", Rate(crf=30), key_interval=4)


def video(folder, name="a", n_frames=7, seed=0):
    path = folder / f"{name}.y4m"
    write_video(path, moving(n_frames, seed=seed), 25)
    return open_video(path)


@pytest.fixture(params=[1, 2], ids=["one job", "two jobs"])
def jobs(request, monkeypatch):
    monkeypatch.setattr(files, "fanned", lambda tasks, jobs, backend: (task() for task in tasks))
    return request.param


def cut(path, n_frames: int) -> bytes:
    """What is left of a file after `n_frames`."""
    path.write_bytes(path.read_bytes()[: open_clip(path).chunks()[n_frames].offset])
    return path.read_bytes()


@pytest.mark.parametrize("n_frames", [1, 3, 5, 6])
@pytest.mark.parametrize(
    "other",
    [
        {"rate": Rate(crf=40)},
        {"rate": Rate(psnr=28)},
        {"rate": Rate(bpp=0.7)},
        {"preset": "medium"},
        {"key_interval": 2},
        {"stepping": False},
    ],
    ids=["crf", "psnr", "bpp", "preset", "interval", "steps"],
)
def test_other_settings_are_refused(tmp_path, jobs, n_frames, other):
    source, path = video(tmp_path), tmp_path / "c.plv"
    encode_file(source, path, TINY)
    whole = path.read_bytes()
    before = cut(path, n_frames)
    settings = replace(TINY, **other)
    encode_file(source, tmp_path / "other.plv", settings)
    if (tmp_path / "other.plv").read_bytes().startswith(before):
        pytest.skip("the same bytes so far")
    with pytest.raises(InputError, match="options of the first run"):
        encode_file(source, path, settings, resume=True, jobs=jobs)
    assert path.read_bytes() == before
    encode_file(source, path, TINY, resume=True, jobs=jobs)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("rate", [Rate(crf=30), Rate(psnr=33), Rate(bpp=0.7)], ids=["crf", "psnr", "bpp"])
@pytest.mark.parametrize("complete", [True, False])
def test_other_videos_are_refused(tmp_path, jobs, rate, complete):
    path, settings = tmp_path / "c.plv", replace(TINY, rate=rate)
    encode_file(video(tmp_path), path, settings)
    before = path.read_bytes() if complete else cut(path, 6)
    with pytest.raises(InputError, match="coded otherwise"):
        encode_file(video(tmp_path, "b", seed=1), path, settings, resume=True, jobs=jobs)
    with pytest.raises(InputError, match="more frames"):
        encode_file(video(tmp_path, "short", 3), path, settings, resume=True, jobs=jobs)
    assert path.read_bytes() == before


def test_a_complete_file_of_a_shorter_video_is_refused(tmp_path, jobs):
    path = tmp_path / "c.plv"
    encode_file(video(tmp_path), path, TINY)
    with pytest.raises(InputError, match="complete file of 7 frames"):
        encode_file(video(tmp_path, "long", 8), path, TINY, resume=True, jobs=jobs)


def test_two_frames_of_the_last_group_are_coded_again(tmp_path, monkeypatch):
    source, path = video(tmp_path, n_frames=9), tmp_path / "c.plv"
    encode_file(source, path, TINY)
    whole, seen = path.read_bytes(), []
    cut(path, 7)
    for name in ("replay", "chunk"):
        real = getattr(Encoder, name)
        monkeypatch.setattr(
            Encoder, name, lambda self, *a, n=name, r=real: seen.append((n, self.index)) or r(self, *a)
        )
    encode_file(source, path, TINY, resume=True)
    assert seen == [("chunk", 4), ("replay", 5), ("chunk", 6), ("chunk", 7), ("chunk", 8)]
    assert path.read_bytes() == whole

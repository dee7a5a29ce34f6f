"""What stands below the help of each command: what for, and what to type."""

from __future__ import annotations

Examples = tuple[tuple[str, str], ...]

START: Examples = (
    ("train a small network, shrink it, look at the report", "plisse demo"),
    (
        "a trained network, ten times smaller, with a report",
        "plisse compress resnet20 --weights W.safetensors -o small.plisse \\\n"
        "  --task cifar10:DIR --budget bytes=0.1x --report report.html",
    ),
    ("what is in the file", "plisse inspect small.plisse"),
    ("help for one command", "plisse compress --help"),
)
COMPRESS: Examples = (
    (
        "post-training: no labels are used",
        "plisse compress resnet20 --weights W.safetensors -o r20.plisse \\\n"
        "  --task cifar10:DIR --budget bytes=0.125x",
    ),
    (
        "smaller and faster, fine-tuned, with a report",
        "plisse compress resnet20 --weights W.safetensors -o r20.plisse \\\n"
        "  --task cifar10:DIR --budget 'bytes=0.05x, latency=0.6x' \\\n"
        "  --finetune 800 --report r20.html",
    ),
    (
        "4-bit weights and 8-bit activations, rounded block by block",
        "plisse compress resnet20 --weights W.safetensors -o r20.plisse \\\n"
        "  --task cifar10:DIR --bits 4 --activations 8 --rounding qdrop",
    ),
    ("a sentence encoder", "plisse compress minilm --task stsb:DIR --budget bytes=12MB -o m.plisse"),
    (
        "without any data: images are made from what the network remembers",
        "plisse compress resnet20 --weights W.safetensors -o r20.plisse \\\n"
        "  --data none --bits 4 --rounding brecq --report r20.html",
    ),
    ("a file again, smaller", "plisse compress a.plisse --budget bytes=0.05x -o b.plisse"),
    ("the steps of a recipe", "plisse compress hf:DIR --task sst2:DIR --recipe R.yaml -o out.plisse"),
)
VIDEO_ENCODE: Examples = (
    ("a clip", "plisse video encode in.mp4 -o clip.plv"),
    ("several clips, two processes", "plisse video encode a.mp4 b.mp4 -o clips --jobs 2"),
    ("to a quality, searching longer", "plisse video encode in.mp4 -o clip.plv --psnr 34 --preset slow"),
    ("as a coordinate network and its weight steps", "plisse video encode in.y4m -o clip.plv --scheme siren"),
)
VIDEO_DECODE: Examples = (
    ("for players", "plisse video decode clip.plv -o out.mp4"),
    ("a coordinate network, four times as large", "plisse video decode clip.plv -o out.mkv --size 704x576"),
)
VIDEO_INSPECT: Examples = (("frames and bytes", "plisse video inspect clip.plv"),)
VIDEO_COMPARE: Examples = (
    ("the first 8 frames", "plisse video compare in.mp4 --frames 8"),
    ("as a page", "plisse video compare in.mp4 --report compare.html"),
)
DEMO: Examples = (("into ./plisse-demo", "plisse demo"), ("somewhere else", "plisse demo --out DIR"))
INSPECT: Examples = (
    ("sizes and codings of the largest tensors", "plisse inspect small.plisse"),
    ("all of it, for a machine", "plisse inspect small.plisse --json"),
)
EVALUATE: Examples = (
    ("a file, on the digits", "plisse evaluate small.plisse"),
    ("a file, on CIFAR-10", "plisse evaluate r20.plisse --task cifar10:DIR"),
    ("a network and its weights", "plisse evaluate resnet20 --weights W.safetensors --task cifar10:DIR"),
)
PROFILE: Examples = (
    ("several files side by side", "plisse profile a.plisse b.plisse --task cifar10:DIR"),
    ("the frontier of time and score", "plisse profile *.plisse --task cifar10:DIR --by latency"),
    ("the points of a file, kept for select and serve", "plisse profile nets.plisse -o nets.json --batch 1"),
)
SELECT: Examples = (
    (
        "the best point that takes at most 5 ms",
        "plisse select nets.plisse --budget latency=5ms --profile nets.json -o one.plisse",
    ),
    (
        "the best of three files within half the bytes",
        "plisse select a.plisse b.plisse c.plisse --task cifar10:DIR --budget bytes=0.5x -o best.plisse",
    ),
)
SERVE: Examples = (
    ("on this machine, with a dashboard", "plisse serve nets.plisse --profile nets.json --deadline 20"),
    (
        "three files of growing width, measured first",
        "plisse serve a.plisse b.plisse c.plisse --task cifar10:DIR --policy deadline --policy load",
    ),
    (
        "ask it",
        "curl -s localhost:8000/example | curl -s localhost:8000/predict \\\n"
        "  -H 'content-type: application/json' -d @-",
    ),
)
SIMILARITY: Examples = (
    (
        "how far a data set is from what a network was trained on",
        "plisse similarity resnet20 --weights W.safetensors --data cifar10:DIR",
    ),
    (
        "which of two public sets may stand in for data that may not leave the hospital",
        "plisse similarity mine.plisse --data public/a --data public/b",
    ),
)
EXPORT: Examples = (
    ("float32", "plisse export small.plisse --onnx small.onnx"),
    (
        "8-bit integers, calibrated on the task",
        "plisse export r20.plisse --onnx r20.onnx --integer --task cifar10:DIR",
    ),
)


def shown(examples: Examples) -> str:
    """The examples as help text, one below the other."""
    lines = ["[bold]Examples[/bold]"]
    lines += [f"[dim]# {words}[/dim]\n[cyan]{command}[/cyan]" for words, command in examples]
    return "\n\n".join(lines)

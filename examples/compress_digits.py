"""Train a small network on the digits, compress it to a tenth, save it, load it, score it again."""

from pathlib import Path

import plisse
from plisse.train.optimizers import AdamW


def main() -> None:
    task = plisse.open_task("digits")
    model = plisse.open_model("digits_cnn")
    plisse.fit(model, task.objective, task.train, steps=200, optimizer=AdamW(lr=3e-3))

    result = plisse.compress(model, task, budget="bytes=0.1x", finetune_steps=100)
    path = Path("digits.plisse")
    plisse.write(path, result.data)
    again = plisse.evaluate(plisse.load(path), task)

    print(f"{result.before.bytes} -> {result.after.bytes} bytes ({result.ratio:.1f}x smaller)")
    print(f"accuracy {result.score_before.score:.4f} -> {again.score:.4f}, the same from the file")
    assert again.score == result.score_after.score


if __name__ == "__main__":
    main()

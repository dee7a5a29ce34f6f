"""Compress with no data: images from the network itself, and a network of half the channels trained on them.

The digits stand for data that nobody may use: they train the network in the beginning and score it in the
end, and nothing between sees them.
"""

from pathlib import Path
from tempfile import mkdtemp

import plisse
from plisse.compress.datafree.schemes import SCHEMES
from plisse.compress.datafree.synthesize import Effort, synthesize
from plisse.compress.datafree.task import data_free
from plisse.compress.finetune import FineTune
from plisse.compress.prune.patterns import Channels
from plisse.compress.prune.prune import Prune
from plisse.compress.step import chain
from plisse.train.optimizers import AdamW

SMALLER = chain(Prune(0.5, Channels()), FineTune(60))


def main() -> None:
    digits = plisse.open_task("digits")
    model = plisse.open_model("digits_cnn")
    plisse.fit(model, digits.objective, digits.train, steps=100, optimizer=AdamW(lr=3e-3))
    print(f"original: {plisse.evaluate(model, digits).score:.3f} of the digits are right")

    for name in ("gaussian", "bns"):
        made = synthesize(model, shape=(1, 8, 8), n=256, scheme=SCHEMES[name], effort=Effort(steps=40))
        task = data_free(model, made)
        small = SMALLER(model, task)
        agreement, accuracy = plisse.evaluate(small, task).score, plisse.evaluate(small, digits).score
        print(f"{name} images, {made.report.mean_bns:.3f} from the statistics of the training data:")
        print(f"  {agreement:.3f} of held-apart images as before, {accuracy:.3f} of the digits are right")

    folder = Path(mkdtemp(prefix="images-"))
    made.save_folders(folder)
    print(f"{len(made)} images in {folder}/CLASS/*.png, a data set like any other")


if __name__ == "__main__":
    main()

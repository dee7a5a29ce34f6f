"""The one training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from plisse.core import modules
from plisse.core.batch import Batch, Batches, on_device
from plisse.errors import InputError, PlisseError
from plisse.train import checkpoint as files
from plisse.train.hardware import as_it_was, choose_device, choose_precision
from plisse.train.history import History, Recorder
from plisse.train.optimizers import SGD, Optimizer
from plisse.train.processes import launch, quiet, share
from plisse.train.progress import progress_bar
from plisse.train.run import Hook, Run, State, check_counts, identity_of
from plisse.train.schedules import Cosine, Schedule
from plisse.train.task import Loss, Objective


def fit(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    *,
    steps: int,
    optimizer: Optimizer = SGD(),
    schedule: Schedule = Cosine(),
    clip: float | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    devices: int = 1,
    accelerator: str = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    hooks: tuple[Hook, ...] = (),
    until: Callable[[State], bool] | None = None,
    progress: str | None = None,
    log_every: int = 10,
) -> History:
    """Train `model` in place: step i minimises `objective` on `batches[i]`.

    clip: bound on the norm of all gradients. precision: "bf16-mixed" (autocast over the whole objective;
    weights stay float32), "32-true", or "auto": bf16 for convolutional networks where the machine computes
    in it. channels_last: keep 4-D weights in that memory order while training. accelerator: auto, cpu, cuda
    or mps. devices: processes; each takes its slice of the same batch and gradients are averaged, so the
    result is that of one process up to rounding, except for batch norm, which sees one slice per process
    (the first one's running statistics are kept). Processes are spawned: objective, batches and hooks must
    pickle, a script needs its main guard, what a hook changes besides the network stays in its process, and
    every parameter must take part in every loss. seed: what torch draws in step i depends on (seed, i) only;
    the caller's generators stay as they were. checkpoint: a file, written every `checkpoint_every` steps and
    at the end; the same call then continues from it, or returns at once when it had finished. State that
    hooks keep elsewhere is not saved. hooks: called with a `State` after every step. until: asked after them;
    true ends the training early, in one process only. progress: label of a progress bar on standard error.
    log_every: steps per row of the history.

    The network comes back on its device, in default memory order, with its training flags.

    Raises InputError for a checkpoint of another run and for arguments out of range, WeightsError where the
    loss is not finite, OutputError where a checkpoint cannot be written.

    >>> from plisse.core.batch import BatchList
    >>> from plisse.train.task import cross_entropy
    >>> batches = BatchList((Batch(torch.eye(2), torch.tensor([0, 1])),))
    >>> history = fit(nn.Linear(2, 2), cross_entropy, batches, steps=50, optimizer=SGD(lr=1.0))
    >>> history.loss < 0.1, history.precision
    (True, '32-true')
    """
    device = choose_device(accelerator, devices)
    run = Run(
        model=model,
        objective=objective,
        batches=batches,
        steps=steps,
        optimizer=optimizer,
        schedule=schedule,
        clip=clip,
        precision=choose_precision(precision, model, device),
        channels_last=channels_last,
        devices=devices,
        device=device,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        hooks=tuple(hooks),
        until=until,
        progress=progress,
        log_every=log_every,
    )
    check_counts(run)
    if checkpoint is not None:
        run = dataclasses.replace(run, identity=identity_of(run))
        saved = files.read(checkpoint, run.identity)
        if saved is not None and saved.finished:
            files.restore(saved, model)
            return History.from_data(saved.history)
    with quiet():
        strategy = "auto" if devices == 1 else "ddp_spawn"
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            strategy=strategy,
            precision=run.precision,  # type: ignore[arg-type]
        )
        return _train(fabric, run) if devices == 1 else _train_in_processes(fabric, run)


class Minimised(nn.Module):
    """Objective and network as one module, so that autocast and gradient averaging see the whole of both,
    however often the objective calls the network."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.minimised = (objective,)  # in a tuple, so that a module among objectives is no part of this one

    def forward(self, batch: Callable[[], Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """batch: behind a function, since Fabric would round its tensors to bf16."""
        loss = self.minimised[0](self.model, batch())
        return loss.total, dict(loss.parts)


def _train(fabric: Fabric, run: Run) -> History:
    with as_it_was(run.model, run.channels_last), torch.random.fork_rng(_cuda_devices(run)):
        history = _loop(fabric, run)
        modules.check_finite(run.model)
    return history


def _loop(fabric: Fabric, run: Run) -> History:
    optimizer = run.optimizer.build(run.model)
    module, _ = fabric.setup(Minimised(run.model, run.objective), optimizer)
    recorder = Recorder(partial(_mean, fabric))
    done, seconds = _resume(run, optimizer, recorder)
    began = time.perf_counter() - seconds

    def history() -> History:
        seconds = time.perf_counter() - began
        return History(tuple(recorder.rows), seconds, run.precision, run.devices, run.device)

    label = run.progress if fabric.is_global_zero else None
    with progress_bar(label, run.steps, done) as advance:
        for step in range(done, run.steps):
            ended = _step(fabric, run, module, optimizer, recorder, step)
            last, saving = ended or step + 1 == run.steps, (step + 1) % run.checkpoint_every == 0
            row = last or saving or (step + 1) % run.log_every == 0
            if row:
                recorder.flush()
            if saving and not last:
                _save(fabric, run, step + 1, history(), optimizer)
            advance(recorder.rows[-1].loss if row else None)
            if ended:
                break
    finished = history()
    _save(fabric, run, run.steps, finished, None)
    return finished


def _mean(fabric: Fabric, values: Tensor) -> Tensor:
    averaged = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(averaged, Tensor)
    return averaged


def _step(
    fabric: Fabric,
    run: Run,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    recorder: Recorder,
    step: int,
) -> bool:
    """Whether it was the last one by `until`."""
    torch.manual_seed(_step_seed(run.seed, step))
    piece, weight = share(run.batches[step], fabric.global_rank, fabric.world_size)
    batch = on_device(piece, fabric.device, run.channels_last)
    lr = run.optimizer.lr * run.schedule.factor(step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)
    total, parts = module(lambda: batch)
    if weight != 1.0:
        total, parts = total * weight, {name: part * weight for name, part in parts.items()}
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    if run.clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.clip)
    optimizer.step()
    recorder.add(step, lr, Loss(total, parts))
    state = State(step, run.steps, run.model, total.detach(), lr)
    for hook in run.hooks:
        hook(state)
    return run.until is not None and run.until(state)


def _resume(run: Run, optimizer: torch.optim.Optimizer, recorder: Recorder) -> tuple[int, float]:
    """Steps and seconds that an earlier call did."""
    saved = files.read(run.checkpoint, run.identity) if run.checkpoint is not None else None
    if saved is None:
        return 0, 0.0
    files.restore(saved, run.model, optimizer)
    history = History.from_data(saved.history)
    recorder.rows.extend(history.rows)
    return saved.step, history.seconds


def _save(
    fabric: Fabric, run: Run, step: int, history: History, optimizer: torch.optim.Optimizer | None
) -> None:
    """Write the checkpoint in the first process; all learn whether it worked."""
    if run.checkpoint is None:
        return
    failure: PlisseError | None = None
    if fabric.is_global_zero:
        tensors = files.snapshot(run.model, optimizer)
        saved = files.Checkpoint(step, step == run.steps, history.to_data(), tensors)
        try:
            modules.check_finite(run.model)
            files.write(run.checkpoint, saved, run.identity)
        except PlisseError as error:
            failure = error
    failure = fabric.broadcast(failure)
    if failure is not None:
        raise failure


def _train_in_processes(fabric: Fabric, run: Run) -> History:
    """The trained tensors and the history come back through the checkpoint, or a temporary one."""
    run.model.cpu()
    with tempfile.TemporaryDirectory() as folder:
        if run.checkpoint is None:
            path, every = Path(folder) / "trained.safetensors", run.steps
            run = dataclasses.replace(run, checkpoint=path, checkpoint_every=every)
        launch(fabric, partial(_work, run))
        assert run.checkpoint is not None
        saved = files.read(run.checkpoint, run.identity)
        if saved is None or not saved.finished:
            raise InputError("processes that ended without a result", expected="a finished checkpoint")
        files.restore(saved, run.model)
        return History.from_data(saved.history)


def _work(run: Run, fabric: Fabric) -> None:
    """One process. Tensors arrive in shared memory, so the network is copied before it is trained."""
    with quiet():
        _train(fabric, dataclasses.replace(run, model=modules.clone(run.model)))


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=4).digest())


def _cuda_devices(run: Run) -> list[int]:
    return [torch.cuda.current_device()] if run.device == "cuda" else []

"""One training run in a workdir, from plain arguments: what main and a notebook both call."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from pdae_jax import data as data_lib
from pdae_jax import images as pictures
from pdae_jax.data.dataset import Data
from pdae_jax.model import Model, load
from pdae_jax.networks.architecture import GROUP_FIELDS, Architecture
from pdae_jax.networks.groups import DTYPES, Networks
from pdae_jax.runtime import processes, sharding
from pdae_jax.runtime.choices import nearest
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training import memory
from pdae_jax.training.log import Watch
from pdae_jax.training.loop import Loop, restore
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.state import Settings, TrainState
from pdae_jax.workdir import checkpoints as checkpoint
from pdae_jax.workdir import code_table as codes_lib
from pdae_jax.workdir.checkpoints import Checkpoints


def train(
    workdir: str | os.PathLike,
    objective: str = "pdae",
    *,
    arch: Architecture,
    data: Data,
    settings: Settings = Settings(),
    pretrained: str | os.PathLike | None = None,
    precision: str = "float32",
    fsdp: int = 1,
    seed: int = 0,
) -> bool:
    """Trains one objective in workdir/OBJECTIVE, from where it stopped; True when it is done.

    pretrained: where the frozen groups come from that workdir does not hold: a run or a converted
    checkpoint. precision: "float32" or "bfloat16" compute. fsdp: devices that share one copy of
    the parameters. False: a signal stopped it, after a save. Raises ValueError at the door, and
    processes.Stopped where the signal comes while several processes encode the pictures.
    """
    row = OBJECTIVES[nearest(objective, OBJECTIVES, "objective")]
    dtype = DTYPES[nearest(precision, DTYPES, "precision")]
    schedule = SCHEDULES[nearest(arch.schedule, SCHEDULES, "schedule")](arch.T)
    workdir, net = make_workdir(workdir), Networks(arch, dtype, settings.remat)
    mesh = sharding.make_mesh(fsdp)
    if settings.batch_size % (settings.accumulate * mesh.size):
        raise ValueError(
            f"batch_size = {settings.batch_size} must be a multiple of the "
            f"{mesh.size} devices times accumulate = {settings.accumulate}"
        )
    source = data.open("train")
    first_pictures(source, arch, 1, data.max_broken)  # refuses a wrong channel count at once
    check_same_split(workdir, data)
    if "dpm" in row.trains and arch.learned_variance:
        raise ValueError(
            "learned_variance = True is for diffusion models that are brought in, "
            "whose variance was trained: the loss here trains eps alone; set it False"
        )
    whence = bring_in(workdir, row.rests_on, net, objective, pretrained)
    checkpoint.write_architecture(workdir, arch)
    codes = None if "image" in row.reads else training_codes(workdir, data, source, precision)
    frozen = net.frozen(checkpoint.read_weights(workdir, row.needs)) if row.needs else {}
    labels = 0
    if "label" in row.reads:
        codes = binary_attributes(codes, data)
        labels = len(codes.attributes)

    loop = Loop(
        row,
        net,
        row.schedule() if row.schedule else schedule,
        settings,
        mesh,
        seed=seed,
        dropout=arch.dropout > 0,
    )
    with Checkpoints(workdir / objective, settings.keep) as checkpoints:
        step = first_step(checkpoints, row)
        if step >= settings.steps:
            return True
        check_nothing_rests_on(row.trains, step, workdir)
        remember_data(workdir / objective, data)
        if labels:
            checkpoint.write_attributes(workdir, codes.attributes)
        order = {
            "batch_size": settings.batch_size,
            "seed": data.seed,
            "start_step": step,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
        watch = Watch(workdir / objective, objective, step, settings.steps, settings.batch_size)
        what = (
            f"codes of {codes.z.shape[1]} numbers"
            if codes
            else f"pictures of {' x '.join(map(str, arch.image_shape))}"
        )
        fresh = functools.partial(fresh_state, net, row, settings, seed, labels)
        shapes = sharding.shapes(mesh, jax.eval_shape(fresh))
        watch.say(
            f"{objective} in {workdir / objective}: {len(codes.z if codes else source):,} "
            f"{what}, {mesh.size} {jax.devices()[0].platform} device(s), {precision}{whence}\n"
            + memory.table(shapes, sharding.shapes(mesh, frozen))
        )
        untrained = settings.ema**settings.steps
        if untrained > 0.05:  # such a model's samples are noise, whatever its loss
            watch.say(
                f"ema = {settings.ema} over {settings.steps} steps leaves {untrained:.0%} of "
                f"the untrained weights in the average that is used; for a run this short "
                f"set --config.{objective}.ema={0.01 ** (1 / settings.steps):.4g} or less"
            )
        if step:
            watch.say(f"going on from step {step}")
        enough = memory.shortage(memory.advice(objective, settings, mesh, precision))
        if codes:
            batches = data_lib.code_batches(codes.z, codes.labels, **order)
        else:
            batches = data_lib.train_batches(
                source,
                size=arch.image_shape[:2],
                channels=arch.image_shape[2],
                flip=data.flip,
                workers=data.workers,
                max_broken=data.max_broken,
                **order,
            )
        if settings.pictures_every and not codes:
            watched = first_pictures(
                source if data.test_fraction == 0 else data.open("test"), arch, 8, data.max_broken
            )
            loop.pictures = Pictures(arch, precision, watched)
        began = time.perf_counter()
        try:
            with enough:
                frozen = jax.device_put(frozen, sharding.over_fsdp(mesh, frozen))
                state = start(fresh, shapes, checkpoints, step)
                state, done = loop.run(state, frozen, batches, checkpoints, watch)
        finally:
            watch.close()
            batches.close()
        watch.add_time(time.perf_counter() - began)
        watch.say(
            f"{objective} {'done' if done else 'stopped'} at step {int(state.step)} after "
            f"{time.perf_counter() - began:.0f} s"
            + ("" if done else "; the same command goes on from here")
        )
    return done


def training_codes(workdir: Path, data: Data, source, precision: str) -> codes_lib.Codes:
    """z of the training pictures, encoded once into workdir/codes/train; their statistics stored."""
    made_from = codes_lib.made_from(workdir, dataclasses.asdict(data))
    codes = codes_lib.encode(
        load(workdir, precision=precision, batch_size=64),
        source,
        workdir / "codes" / "train",
        made_from=made_from,
        workers=data.workers,
        max_broken=data.max_broken,
    )
    codes_lib.store_statistics(workdir, codes, made_from)
    return codes.whole()


def binary_attributes(codes: codes_lib.Codes, data: Data) -> codes_lib.Codes:
    """The codes with those labels that are yes or no; ValueError where there are none."""
    binary = [
        k
        for k in range(codes.labels.shape[1])
        if set(np.unique(codes.labels[:, k][np.isfinite(codes.labels[:, k])])) == {0, 1}
    ]
    if not binary:
        raise ValueError(
            f"{data.name} has no attributes that are 0 or 1 to train a classifier on; "
            f"give a table of them with --config.data.attributes=FILE.csv"
        )
    return codes._replace(
        labels=codes.labels[:, binary], attributes=tuple(codes.attributes[k] for k in binary)
    )


def first_step(checkpoints: Checkpoints, row) -> int:
    """The step that training goes on from; ValueError where the weights were brought in."""
    step = checkpoints.latest()
    if step is not None and not checkpoints.resumable(step):
        raise ValueError(
            f"{' and '.join(row.trains)} in this workdir was brought in, not trained "
            f"here: there is no training to go on with; choose another --workdir"
        )
    return step or 0


def fresh_state(net: Networks, row, settings: Settings, seed: int, labels: int) -> TrainState:
    return TrainState.create(
        net.init(jax.random.key(seed), row.trains, labels), settings.optimizer()
    )


def start(fresh: Callable, shapes: TrainState, checkpoints: Checkpoints, step: int) -> TrainState:
    """The state saved at `step`, or a fresh one, where the shapes' shardings say."""
    if checkpoints.latest() is not None:
        return restore(checkpoints, step, shapes)
    return jax.jit(fresh, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))()


def bring_in(workdir: Path, needs, net: Networks, objective: str, pretrained) -> str:
    """Sees to it that workdir holds the groups that an objective rests on; words on where from.

    What is missing is brought in from `pretrained` and saved in workdir, which so stays complete by
    itself. Raises ValueError where a group is nowhere, or of another model.
    """
    here = {group: save for save in checkpoint.saved(workdir) for group in save.groups}
    missing = [group for group in needs if group not in here]
    processes.wait("workdir read")
    if missing and not pretrained:
        variant = next(name for name, row in OBJECTIVES.items() if missing[0] in row.trains)
        raise ValueError(
            f"{objective} needs a trained {' and '.join(missing)}, which {workdir} does not hold: "
            f"give one with --config.pretrained=DIR (a run's workdir or a converted checkpoint), "
            f"or train it first with the config's :{variant} variant in the same workdir"
        )
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), needs))
    if missing:
        pretrained = Path(pretrained).expanduser()
        if not pretrained.is_dir():
            raise ValueError(f"no pre-trained model at {pretrained}: no such folder")
        check_same_model(checkpoint.read_architecture(pretrained), net.arch, missing, pretrained)
        for group, tree in checkpoint.read_weights(pretrained, missing).items():
            check_shapes(group, shapes[group], tree, pretrained)
            with Checkpoints(workdir / group) as checkpoints:
                checkpoints.save(0, {group: tree})
    weights = checkpoint.read_weights(workdir, needs) if needs else {}
    for group in needs:
        check_shapes(group, shapes[group], weights[group], workdir)
        if pretrained and group in here:
            check_same_weights(group, weights[group], here[group].trained_here, pretrained)
    words = [
        f"the {group} of step {here[group].step}"
        if group in here and here[group].trained_here
        else f"a {group} brought in"
        for group in needs
    ]
    return "; over " + " and ".join(words) if words else ""


def check_same_weights(group: str, ours, trained_here: bool, pretrained) -> None:
    """Raises ValueError where the workdir holds other weights than `pretrained` would bring.

    A folder that is gone does not matter once its weights are here.
    """
    if trained_here:
        raise ValueError(
            f"the workdir has a {group} trained in it, so --config.pretrained="
            f"{pretrained} would be unused; leave it out, or choose another "
            f"--workdir"
        )
    if Path(pretrained).expanduser().is_dir():
        theirs = checkpoint.read_weights(Path(pretrained).expanduser(), (group,))[group]
        if not jax.tree.all(jax.tree.map(np.array_equal, ours, theirs)):
            raise ValueError(
                f"the workdir was begun with another {group} than that of "
                f"--config.pretrained={pretrained}; choose another --workdir"
            )


def check_nothing_rests_on(groups, step: int, workdir: Path) -> None:
    """Raises ValueError where something in workdir was trained over these groups as they are."""
    for save in checkpoint.saved(workdir) if step else ():
        row = OBJECTIVES.get(save.folder.name)
        if row and set(row.rests_on) & set(groups):
            raise ValueError(
                f"{save.folder.name} in {workdir} was trained over {' and '.join(groups)} as it is "
                f"at step {step}, and would not fit it after more steps; train it on in a copy of "
                f"the workdir without {save.folder.name}/"
            )


def check_same_model(theirs: Architecture, ours: Architecture, groups, where) -> None:
    """Raises ValueError where groups of a pre-trained model are not the config's."""
    fields = dict.fromkeys(name for group in groups for name in GROUP_FIELDS[group])
    differs = [
        f"{name} is {getattr(theirs, name)} there and {getattr(ours, name)} here"
        for name in fields
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if differs:
        raise ValueError(
            f"the model at {where} is not this config's: {'; '.join(differs)}; set "
            f"--config.model to its values"
        )


def check_shapes(group: str, ours, theirs, where) -> None:
    """Raises ValueError with the first array that one side lacks or shapes otherwise."""
    ours, theirs = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (ours, theirs)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{group} at {where} is of another architecture: {name} is "
                f"{theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} "
                f"in this config; set config.model to the model's own sizes"
            )


def make_workdir(workdir: str | os.PathLike) -> Path:
    """Creates workdir and proves that it can be written; ValueError otherwise."""
    path = Path(workdir).expanduser().absolute()
    probe = path / f".write-probe-{processes.index()}-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"workdir {path} cannot be written: {error.strerror}; choose another --workdir"
        ) from error
    return path


def first_pictures(source, arch: Architecture, n: int, max_broken: float) -> np.ndarray:
    """The first n pictures of a source (fewer where it has fewer), uint8 [n, H, W, C]."""
    with data_lib.batches(
        source,
        size=arch.image_shape[:2],
        channels=arch.image_shape[2],
        batch_size=min(n, len(source)),
        max_broken=max_broken,
    ) as batches:
        batch = next(batches)
    return batch["image"][batch["mask"]]


def check_same_split(workdir: Path, data: Data) -> None:
    """Raises ValueError where pictures that were trained on would now be held out, or the reverse."""
    for record in trained_data(workdir):
        for field in ("seed", "test_fraction"):
            there, here = getattr(record, field), getattr(data, field)
            if record.name == data.name and there != here:
                raise ValueError(
                    f"this workdir was begun with data.{field} = {there}, now {here}: "
                    f"other pictures would be held out; choose another --workdir"
                )


DATA_FILE = "data.json"


def remember_data(folder: Path, data: Data) -> None:
    """Adds to the record of what an objective was trained on."""
    if not processes.writes():
        return
    path = folder / DATA_FILE
    records = json.loads(path.read_text()) if path.exists() else []
    if dataclasses.asdict(data) not in records:
        path.write_text(json.dumps([*records, dataclasses.asdict(data)], indent=1) + "\n")


def trained_data(workdir: Path) -> list[Data]:
    """All that objectives in workdir were trained on."""
    return [
        Data(**record)
        for path in sorted(Path(workdir).glob(f"*/{DATA_FILE}"))
        for record in json.loads(path.read_text())
    ]


class Pictures:
    """What one looks at while training; one Model for the run, so that nothing recompiles."""

    def __init__(self, arch: Architecture, precision: str, images: np.ndarray):
        self.model, self.images = Model(arch, {}, precision=precision), images

    def __call__(self, params: dict) -> dict[str, np.ndarray]:
        self.model.params = self.model.net.frozen(params)
        return watched_pictures(self.model, self.images)


def watched_pictures(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Samples of a diffusion model, or reconstructions of PDAE, as grids; few steps, to be quick."""
    steps = min(20, model.arch.T)
    if "encoder" not in model.params:
        x_T = jax.random.normal(jax.random.key(0), images.shape)
        return {"samples": pictures.grid([pictures.to_uint8(model.decode(None, x_T, steps))])}
    z = model.encode(images)
    rows = [images] + [model.decode(z, steps=steps, rng=rng) for rng in range(2)]
    rows.append(model.decode(z, model.invert(images, z, steps), steps))
    return {
        "original_fromz_fromz_inferred": pictures.grid(
            [row if row.dtype == np.uint8 else pictures.to_uint8(row) for row in rows]
        )
    }

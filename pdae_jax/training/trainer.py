"""Training one objective in a workdir, from plain arguments: for the command and for notebooks."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax

from pdae_jax.data.code_batches import code_batches
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import first_pictures, train_batches
from pdae_jax.data.source import binary
from pdae_jax.model import Model
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import DTYPES, Networks, Params
from pdae_jax.runtime import processes, sharding
from pdae_jax.runtime.choices import nearest
from pdae_jax.schedule import named
from pdae_jax.tasks import encoding, familiarity
from pdae_jax.training import memory, prerequisites
from pdae_jax.training.log import Log
from pdae_jax.training.loop import Loop, restore
from pdae_jax.training.objectives import OBJECTIVES, Objective
from pdae_jax.training.preview import Preview
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.workdir.checkpoints import Checkpoints
from pdae_jax.workdir.code_table import Codes
from pdae_jax.workdir.records import Records
from pdae_jax.workdir.workdir import Workdir

# Settings that do not decide what is trained, but how far, and what is shown and kept of it.
WITHOUT_EFFECT = {"steps", "accumulate", "remat", "max_skipped", "keep"} | {
    f"{what}_every" for what in ("log", "health", "pictures", "save")
}
TOO_UNTRAINED = 0.05  # share of the untrained weights in an average that makes its samples noise


def train(
    workdir: Workdir | str | os.PathLike[str],
    objective: str = "pdae",
    *,
    arch: Architecture,
    data: Data,
    settings: Settings | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    precision: str = "float32",
    fsdp: int = 1,
    seed: int = 0,
) -> bool:
    """Trains one objective in workdir/OBJECTIVE, from where it stopped; True when it is done.

    settings: None for the objective's own. pretrained: where the prerequisites come from that the
    workdir does not hold: a run or a converted checkpoint. precision: "float32" or "bfloat16"
    compute. fsdp: devices that share one copy of the parameters. False: a signal stopped it, after
    a save. Raises ValueError at the door, and processes.Stopped where the signal comes while
    several processes encode the pictures.
    """
    row = OBJECTIVES[nearest(objective, OBJECTIVES, "objective")]
    settings, mesh = settings or row.settings, sharding.make_mesh(fsdp)
    nearest(precision, DTYPES, "precision")
    named(arch.schedule, arch.T, arch.betas)  # refuses one that is none
    check_arguments(row, arch, settings, mesh)
    if not isinstance(workdir, Workdir):
        workdir = Workdir.create(workdir)
    with workdir.lock():
        return _train(workdir, row, arch, data, settings, pretrained, precision, mesh, seed)


def _train(
    workdir: Workdir,
    row: Objective,
    arch: Architecture,
    data: Data,
    settings: Settings,
    pretrained: str | os.PathLike[str] | None,
    precision: str,
    mesh: jax.sharding.Mesh,
    seed: int,
) -> bool:
    """`train` in a workdir that is this run's alone."""
    objective = row.name
    net = Networks(arch, DTYPES[precision], settings.remat)
    prerequisites.check_same_split(workdir, data)
    value_range, words = prerequisites.settle_range(workdir, data, arch, pretrained)
    source = data.open("train", value_range)
    first_pictures(source, arch.image_shape, 1, data.max_broken)  # refuses wrong channels at once
    prerequisites.discard_stale(workdir, row)
    step = prerequisites.check_can_train(workdir, row)
    weights, origin = prerequisites.gather(workdir, row, net, pretrained)
    workdir.write_architecture(arch)
    workdir.write_value_range(value_range)
    records = workdir.records(objective)
    how = dataclasses.asdict(settings) | {"seed": seed, "precision": precision}
    how["dropout"] = arch.dropout
    if step >= settings.steps:
        say_what_has_no_effect(records, row, how, data)
        return True
    if step:
        prerequisites.say_what_becomes_stale(workdir, row)
    model = Model(arch, weights, value_range=value_range)
    codes = None if row.sees_pictures else training_codes(workdir, model, data)
    if codes:
        weights |= workdir.weights(["statistics"])
    attributes = ()
    if codes and "label" in row.reads:
        codes = binary_attributes(codes, data)
        attributes = codes.attributes
    needed = {group: weights[group] for group in row.needs}

    order: dict[str, int] = {
        "batch_size": settings.batch_size,
        "seed": data.seed,
        "start_step": step,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if codes:
        n, what = len(codes.z), f"codes of {codes.z.shape[1]} numbers"
    else:
        n, what = len(source), f"pictures of {' x '.join(map(str, arch.image_shape))}"
    given = row.init(net, weights) if row.init and not step else None
    fresh = functools.partial(fresh_state, net, row, settings, seed, len(attributes))
    shapes = sharding.shapes(mesh, jax.eval_shape(fresh, given), net.dtype)
    with workdir.checkpoints(objective, settings.keep) as checkpoints:
        log = Log(records, objective, step, settings.steps, settings.batch_size)
        log.begin(data, how)
        if row.derived:
            workdir.write_origin(objective)
        if attributes:
            workdir.write_attributes(attributes)
        log.say(
            f"{objective} in {records.folder}: {n:,} {what}, {mesh.size} "
            f"{jax.devices()[0].platform} device(s), {precision}{origin}\n"
            + memory.table(shapes, sharding.shapes(mesh, jax.eval_shape(net.frozen, needed)))
        )
        for line in (*words, *source.words):
            log.say(line)
        warn_of_average(log, objective, settings)
        if step:
            log.say(f"resuming from step {step}")
        if codes:
            batches = code_batches(codes.z, codes.labels, **order)
        else:
            batches = train_batches(
                source,
                **order,
                size=arch.image_shape[:2],
                channels=arch.image_shape[2],
                crop=None,
                augmentation=data.augmentation,
                workers=data.workers,
                max_broken=data.max_broken,
            )
        loop = Loop(
            row,
            net,
            row.schedule() if row.schedule else net.schedule,
            settings,
            mesh,
            seed=seed,
            dropout=arch.dropout > 0,
        )
        if settings.pictures_every and row.sees_pictures:
            loop.preview = Preview(arch, precision, data, value_range)
        began = time.perf_counter()
        try:
            with memory.shortage(memory.advice(objective, settings, mesh, precision)):
                frozen = net.frozen(needed)
                frozen = jax.device_put(frozen, sharding.placed(mesh, frozen, net.dtype))
                state = start(fresh, given, shapes, checkpoints, step)
                state, done = loop.run(state, frozen, batches, checkpoints, log)
        finally:
            log.close()
            batches.close()
        seconds = time.perf_counter() - began
        log.add_seconds(seconds)
        log.say(
            f"{objective} {'done' if done else 'stopped'} at step {int(state.step)} after "
            f"{seconds:.0f} s" + ("" if done else "; re-run the command to resume")
        )
    return done


def check_arguments(
    row: Objective, arch: Architecture, settings: Settings, mesh: jax.sharding.Mesh
) -> None:
    """Raises ValueError where arguments do not go together."""
    if settings.batch_size % (settings.accumulate * mesh.size):
        raise ValueError(
            f"batch_size = {settings.batch_size} must be a multiple of the {mesh.size} devices "
            f"times accumulate = {settings.accumulate}"
        )
    absent = [size for size in arch.attention if size not in arch.map_sizes]
    if absent:
        processes.say(
            f"attention = {arch.attention}, and no level has maps of {absent[0]} pixels: they have "
            f"{', '.join(map(str, arch.map_sizes))}, and the others no attention"
        )
    for name in ("weighting", "gamma"):  # of PDAE's loss alone
        if "gradient" not in row.trains and getattr(settings, name) != getattr(row.settings, name):
            raise ValueError(
                f"{name} = {getattr(settings, name)} would have no effect on {row.name}: it is of "
                f"the loss of pdae; set --config.pdae.{name}"
            )
    if "dpm" in row.trains and arch.learned_variance:
        raise ValueError(
            "learned_variance = True is for imported diffusion models, whose variance was trained: "
            "the loss here trains eps alone; set it False"
        )


def say_what_has_no_effect(
    records: Records, row: Objective, how: dict[str, Any], data: Data
) -> None:
    """Says which settings and data a finished objective was not trained with."""
    before = records.settings()
    if before:  # a field that came later: its default is what there was
        before = dataclasses.asdict(row.settings) | before
    differs = [
        f"{name} = {how[name]} (it was {before[name]})"
        for name in sorted(before.keys() & how.keys() - WITHOUT_EFFECT)
        if before[name] != how[name]
    ]
    trained_on = records.data()
    if trained_on and data not in trained_on:
        there, here = dataclasses.asdict(trained_on[-1]), dataclasses.asdict(data)
        differs += [
            f"data.{name} = {here[name]!r} (it was {there[name]!r})"
            for name in here
            if here[name] != there[name] and name not in ("workers", "max_broken")
        ]
    if differs:
        processes.say(
            f"{row.name} is done; this has no effect on it: {', '.join(differs)}. To train it "
            f"further with that, raise --config.{row.name}.steps; to train it anew, choose another "
            f"--workdir"
        )


def warn_of_average(log: Log, objective: str, settings: Settings) -> None:
    """Says where the average would still hold much of the untrained weights at the end."""
    untrained = settings.average**settings.steps
    if untrained > TOO_UNTRAINED:
        log.say(
            f"ema = {settings.ema} over {settings.steps} steps leaves {untrained:.0%} of the "
            f"untrained weights in the average that is used; for a run this short set "
            f"--config.{objective}.ema={0.01 ** (1 / settings.steps):.4g} or less, or leave it out"
        )


def training_codes(workdir: Workdir, model: Model, data: Data) -> Codes:
    """z of the training pictures, encoded once into the workdir; their statistics stored.

    The model is float32 whatever the training's precision: all commands share these codes.
    """
    table, key = workdir.code_table("train"), workdir.cache_key(data)
    codes = encoding.encode(model, data, "train", table, key)
    familiarity.keep_statistics(workdir, codes, data)
    return codes.without_broken()


def binary_attributes(codes: Codes, data: Data) -> Codes:
    """The codes with those labels that are yes or no; ValueError where there are none."""
    columns = binary(codes.labels)
    if not columns:
        raise ValueError(
            f"{data.name} has no attributes that are 0 or 1 to train a classifier on; give a table "
            f"of them with --config.data.attributes=FILE.csv"
        )
    return codes._replace(
        labels=codes.labels[:, columns], attributes=tuple(codes.attributes[k] for k in columns)
    )


def fresh_state(
    net: Networks, row: Objective, settings: Settings, seed: int, labels: int, given: Params | None
) -> TrainState:
    """The state of step 0: of the parameters given, or of random ones."""
    params = given or net.init(jax.random.key(seed), row.trains, labels)
    return TrainState.create(params, settings.optimizer())


def start(
    fresh: Callable[[Params | None], TrainState],
    given: Params | None,
    shapes: TrainState,
    checkpoints: Checkpoints,
    step: int,
) -> TrainState:
    """The state saved at `step`, or a fresh one, where and how the shapes say."""
    places = jax.tree.map(lambda shape: shape.format, shapes)
    if checkpoints.latest() is not None:
        restored = restore(checkpoints, step, shapes)  # where they say; Orbax knows no layouts
        if not any(place.layout for place in jax.tree.leaves(places)):
            return restored
        return jax.jit(lambda state: state, out_shardings=places, donate_argnums=0)(restored)
    return jax.jit(fresh, out_shardings=places)(given)

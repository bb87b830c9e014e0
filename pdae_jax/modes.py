"""What the command does with a model, one mode each: pictures and numbers that a person can look at.

A mode takes a model's directory (a run's or a converted one) and pictures, and gives the parts of a
page, numbers and files; `run` puts them into a folder as index.html, numbers.json and its own.
"""
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from pdae_jax import checkpoint, latent, report
from pdae_jax import codes as codes_lib
from pdae_jax import data as data_lib
from pdae_jax.model import Model, load
from pdae_jax.names import nearest
from pdae_jax.report import Curves, Pictures, Section, Table
from pdae_jax.run_report import interpolation_section, reconstruction_section, save_grid
from pdae_jax.tasks import fewshot, generate, manipulate, one_step, probe
from pdae_jax.tasks.pictures import to_uint8, visible
from pdae_jax.tasks.reconstruct import reconstruct, scores
from pdae_jax.training.run import Data, first_pictures, trained_data

MARK = "numbers.json"  # says that a folder is ours, and which mode's


@dataclasses.dataclass(frozen=True)
class Options:
    """How a mode works; the command's flags of the same names.

    images: a picture, a folder or a glob; "" for the run's own held-out pictures. n: pictures, or
    how many to generate. steps, invert_steps, latent_steps: of DDIM. attribute, keep: the one to
    change and those to hold still, by name. direction: a .npy of [d] in normalised z instead.
    strengths: of edits. positives, negatives, unlabelled: few-shot labels. stop: the share of
    generation's last steps without z.
    """

    images: str = ""
    n: int = 8
    steps: int = 100
    invert_steps: int = 100
    latent_steps: int = 100
    seed: int = 0
    attribute: str = ""
    keep: tuple[str, ...] = ()
    direction: str = ""
    strengths: tuple[float, ...] = manipulate.STRENGTHS
    positives: int = 50
    negatives: int = 50
    unlabelled: int = 0
    stop: float = 0.3

    def __post_init__(self):
        for name in ("n", "steps", "invert_steps", "latent_steps", "positives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Context:
    """A model at work: what a mode reads. Everything is opened when it is first asked for."""

    def __init__(self, workdir: Path, options: Options, out: Path):
        self.workdir, self.options, self.out = workdir, options, out
        self.model: Model = load(workdir, batch_size=64)
        for name in ("steps", "invert_steps"):
            if getattr(options, name) > self.model.arch.T:
                raise ValueError(f"{name} = {getattr(options, name)} is more than the model's T = "
                                 f"{self.model.arch.T}")

    def data(self) -> Data:
        """The given pictures, or what the run was trained on."""
        if self.options.images:
            return Data(f"folder:{self.options.images}")
        records = trained_data(self.workdir)
        if not records:
            raise ValueError(f"{self.workdir} was brought in, and knows no pictures: give some "
                             f"with --images=PATH (a picture, a folder or a glob)")
        return records[-1]

    def source(self, split: str = "test"):
        """The given pictures, all of them, or a split of the run's."""
        return self.data().open("all" if self.options.images else split)

    def pictures(self, n: int | None = None) -> np.ndarray:
        """The first n pictures, uint8 [n, H, W, C]."""
        return first_pictures(self.source(), self.model.arch, n or self.options.n,
                              self.data().max_broken)

    def codes(self, split: str) -> codes_lib.Codes:
        """z of a split of the run's own data, encoded once, normalised."""
        data = self.data() if not self.options.images else trained_data(self.workdir)[-1]
        table = codes_lib.encode(
            self.model, data.open(split), self.workdir / "codes" / split,
            made_from=codes_lib.made_from(self.workdir, dataclasses.asdict(data)),
            workers=data.workers, max_broken=data.max_broken).whole()
        return table._replace(z=np.asarray(latent.normalise(self.statistics(), table.z)))

    def statistics(self) -> dict:
        self.model._need("statistics")
        return self.model.params["statistics"]

    def attribute(self, name: str) -> int:
        """The place of an attribute in the classifier; ValueError with the nearest names."""
        self.model._need("classifier")
        names = checkpoint.read_attributes(self.workdir)
        return names.index(nearest(name, names, "attribute"))


@dataclasses.dataclass
class Result:
    """sections: of the page. numbers: of the JSON file. grids: NAME -> rows of uint8 pictures."""

    sections: list[Section]
    numbers: dict[str, Any]
    grids: dict[str, list] = dataclasses.field(default_factory=dict)


def encode(context: Context) -> Result:
    """The table of z: codes.npz and, where pyarrow is installed, codes.parquet."""
    source, data = context.source("all"), context.data()
    table = codes_lib.encode(context.model, source, context.out,
                             made_from=codes_lib.made_from(context.workdir,
                                                           dataclasses.asdict(data)),
                             workers=data.workers, max_broken=data.max_broken)
    codes_lib.write_parquet(table, context.out / "codes.parquet")
    broken = int(np.isnan(table.z).any(1).sum())
    rows = [["pictures", str(len(table.z))], ["broken", str(broken)],
            ["numbers in z", str(table.z.shape[1])],
            ["attributes", ", ".join(table.attributes) or "none"]]
    return Result([Section("Codes", [Table(["", ""], rows, caption="codes.npz has z, labels, "
                                           "attributes and where each picture is; codes.parquet "
                                           "the same as columns.")])],
                  {"pictures": len(table.z), "broken": broken, "z": table.z.shape[1]})


def reconstruct_mode(context: Context) -> Result:
    options, images = context.options, context.pictures()
    parts = reconstruct(context.model, images, steps=options.steps,
                        invert_steps=options.invert_steps, seed=options.seed)
    measured = {"z alone": scores(images, parts.from_z[0]),
                "z, inferred x_T": scores(images, parts.inferred),
                "z alone, DDPM": scores(images, parts.ddpm)}
    rows = [images, *map(to_uint8, parts.from_z), to_uint8(parts.inferred), to_uint8(parts.ddpm)]
    return Result([reconstruction_section(images, parts, measured, options)], measured,
                  {"reconstruct": rows})


def interpolate_mode(context: Context) -> Result:
    images = context.pictures(max(2, context.options.n))
    section, rows = interpolation_section(context.model, images, context.options)
    return Result([section], {"pairs": len(rows) // 2}, {"interpolate": rows})


def manipulate_mode(context: Context) -> Result:
    options, images = context.options, context.pictures()
    if options.direction:
        direction = _direction(options.direction, context.model.arch.z_size)
        words = f"the direction in {options.direction}"
    else:
        if not options.attribute:
            names = checkpoint.read_attributes(context.workdir)
            raise ValueError(f"which attribute? give --attribute=NAME, one of "
                             f"{', '.join(names) or 'a classifier (train :classifier first)'}, or "
                             f"--direction=FILE.npy")
        fixed = [context.attribute(name) for name in options.keep]
        direction = latent.direction(context.model.params["classifier"],
                                     context.attribute(options.attribute), fixed)
        words = options.attribute + (f", with {', '.join(options.keep)} held" if fixed else "")
    context.statistics()
    edited = manipulate.manipulate(context.model, images, direction, options.strengths,
                                   steps=options.steps, invert_steps=options.invert_steps)
    rows = [np.concatenate([images[i:i + 1], to_uint8(edited[i])]) for i in range(len(images))]
    numbers = {"attribute": words, "strengths": list(options.strengths)}
    if "classifier" in context.model.params and not options.direction:
        numbers |= _moved(context, images, edited)
    return Result([Section("Manipulation", [Pictures(
        [("", visible(row)) for row in rows],
        columns=["original", *(f"{s:+.1f}" for s in options.strengths)],
        caption=f"Towards and away from {words}: z moved along its direction, decoded from each "
                f"picture's own x_T.")])], numbers, {"manipulate": rows})


def _moved(context: Context, images, edited) -> dict:
    """How far the edited pictures' own codes moved: the attribute's logit, and the others'."""
    def logits(x):
        z = latent.normalise(context.statistics(), context.model.encode(x))
        return np.asarray(latent.logits(context.model.params["classifier"], z))

    before = logits(images)
    after = logits(np.asarray(edited[:, -1]))  # the strongest edit, encoded again
    k = context.attribute(context.options.attribute)
    change = after - before
    return {"logit_change": float(change[:, k].mean()),
            "others_mean_absolute_change": float(np.abs(np.delete(change, k, 1)).mean())}


def _direction(path: str, d: int) -> np.ndarray:
    try:
        direction = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no .npy of a direction: {str(error).splitlines()[0]}") from error
    if direction.shape != (d,) or not np.linalg.norm(direction) > 0:
        raise ValueError(f"{path} must hold {d} numbers, not all 0; its shape is "
                         f"{list(direction.shape)}")
    return direction / np.linalg.norm(direction)


def generate_mode(context: Context) -> Result:
    options = context.options
    made = generate.generate(context.model, options.n, steps=options.steps, seed=options.seed,
                             latent_steps=options.latent_steps, stop=options.stop)
    images = to_uint8(made.images)
    np.savez(context.out / "samples.npz", arr_0=images)  # as ADM's evaluation reads it
    rows = _lines(images)
    return Result([Section("Generation", [Pictures(
        [("", visible(row)) for row in rows],
        caption=f"z from the latent diffusion model ({options.latent_steps} steps), x_T at random, "
                f"{options.steps} DDIM steps, the last {options.stop:.0%} of them without z.")])],
        {"n": len(images), "stop": options.stop, "seed": options.seed}, {"generate": rows})


def fewshot_mode(context: Context) -> Result:
    """Class-conditional generation from few labels, by rejection."""
    options, table = context.options, context.codes("train")
    name = nearest(options.attribute, table.attributes, "attribute")
    y = table.labels[:, table.attributes.index(name)]
    labelled, unlabelled = fewshot.choose_shots(
        y, options.positives, 0 if options.unlabelled else options.negatives, options.unlabelled,
        seed=options.seed)
    classifier = fewshot.few_shot_classifier(
        table.z[labelled], y[labelled],
        unlabelled=table.z[unlabelled] if options.unlabelled else None)
    full = fewshot.few_shot_classifier(table.z[np.isfinite(y)], y[np.isfinite(y)])
    accepted = generate.generate_codes_of_class(context.model, classifier, options.n,
                                                latent_steps=options.latent_steps,
                                                seed=options.seed)
    numbers = {"attribute": name, "labels": len(labelled), "unlabelled": len(unlabelled),
               "wanted": options.n, "made": len(accepted.z), "drawn": accepted.drawn,
               "acceptance": accepted.rate}
    if not len(accepted.z):
        print(f"fewshot: the classifier refused all {accepted.drawn} codes: give more labels, or "
              f"train the latent model longer", file=sys.stderr)
        return Result([Section("Few-shot generation", [Table(["", ""], _pairs(numbers))])], numbers)
    z = np.asarray(latent.normalise(context.statistics(), accepted.z))
    numbers["agreement"] = float((z @ full["kernel"] + full["bias"] > 0).mean())
    images = to_uint8(context.model.decode(accepted.z, steps=options.steps, rng=options.seed,
                                           stop=options.stop))
    rows = _lines(images)
    return Result([Section("Few-shot generation", [
        Pictures([("", visible(row)) for row in rows],
                 caption=f"{name}, from {len(labelled)} labelled and {len(unlabelled)} unlabelled "
                         f"pictures: {accepted.rate:.1%} of the latent model's codes were taken, "
                         f"and a classifier of all labels agrees with {numbers['agreement']:.0%} "
                         f"of them."),
        Table(["", ""], _pairs(numbers))])], numbers, {"fewshot": rows})


TIMES = 40


def gap_mode(context: Context) -> Result:
    """Figure 4: how far mu_theta is from the true posterior mean, and what G makes up."""
    times = np.unique(np.linspace(0, context.model.arch.T - 1, TIMES).astype(int))
    found = one_step.gap(context.model, context.pictures(), times, seed=context.options.seed)
    lines = "\n".join(f"{t},{a:.8g},{b:.8g}" for t, a, b in zip(*found))
    (context.out / "gap.csv").write_text("t,without_G,with_G\n" + lines + "\n")
    return Result([Section("Posterior-mean gap", [Curves(
        {"without G": (times, found.bare), "with G": (times, found.shifted)}, x_label="t",
        y_label="squared distance", log_y=True,
        caption=f"Mean of |mu~(x_t, x_0) - mu(x_t)|^2 over {context.options.n} held-out pictures; "
                f"G closes {found.closed:.0%} of it, summed over t.")])],
        {"closed": found.closed, "pictures": context.options.n})


def denoise_mode(context: Context) -> Result:
    """Figures 1 to 3: one-step x_0, without and with G."""
    images, times = context.pictures(), _some_times(context)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows = [("original", images)]
    for k, t in enumerate(times):
        rows += [(f"x_t, t = {t}", to_uint8(found.x_t[k])), ("x_0 without G", to_uint8(found.bare[k])),
                 ("x_0 with G", to_uint8(found.shifted[k]))]
    errors = [{"t": int(t), **{name: scores(images, np.asarray(x[k]))["mse"] for name, x in
                               (("without_G", found.bare), ("with_G", found.shifted))}}
              for k, t in enumerate(times)]
    return Result([Section("One step", [
        Pictures([(label, visible(row)) for label, row in rows],
                 caption="What a single step takes x_0 to be, at several t."),
        Table(["t", "MSE without G", "MSE with G"],
              [[e["t"], e["without_G"], e["with_G"]] for e in errors])])],
        {"mse": errors}, {"denoise": [row for _, row in rows]})


def shift_mode(context: Context) -> Result:
    """Figure 13: x_t, and G as a picture, over t."""
    images, times = context.pictures(), _some_times(context)
    found = one_step.denoise(context.model, images, times, seed=context.options.seed)
    rows = []
    for k, t in enumerate(times):
        scale = np.abs(found.gradient[k]).max() or 1.0
        rows += [(f"x_t, t = {t}", to_uint8(found.x_t[k])),
                 (f"G, of +-{scale:.2g}", to_uint8(found.gradient[k] / scale))]
    return Result([Section("The shift", [Pictures(
        [(label, visible(row)) for label, row in rows],
        caption="The gradient estimator's output, each row scaled to its largest value.")])],
        {"times": times.tolist()}, {"shift": [row for _, row in rows]})


def probe_mode(context: Context) -> Result:
    """What a linear model reads out of z, of the pixels and of as many principal components."""
    train, test = context.codes("train"), context.codes("test")
    if not train.attributes:
        raise ValueError("the data has no attributes to probe: give a table of them when training, "
                         "--config.data.attributes=FILE.csv")
    data = trained_data(context.workdir)[-1]
    features = {"z": (train.z, test.z)}
    pixels = [_pixels(context, data, split, len(table.z)) for split, table in
              (("train", train), ("test", test))]
    if pixels[0] is not None:
        pca = PCA(min(train.z.shape[1], *pixels[0].shape), random_state=0).fit(pixels[0])
        features |= {"pixels": tuple(pixels), "principal components": tuple(map(pca.transform, pixels))}
    found = {name: probe.probe(a, train.labels, b, test.labels, train.attributes,
                               seed=context.options.seed) for name, (a, b) in features.items()}
    means = {name: probe.mean_scores(one) for name, one in found.items()}
    names = list(dict.fromkeys(key for mean in means.values() for key in mean))
    rows = [[one.attribute, f"{one.positives:.3g}"] + [
        f"{one.scores[n].value:.3f} [{one.scores[n].low:.3f}, {one.scores[n].high:.3f}]"
        if n in one.scores else "" for n in names] for one in found["z"]]
    return Result([Section("Probes", [
        Table(["features", *names], [[name, *(mean.get(n, float("nan")) for n in names)]
                                     for name, mean in means.items()],
              caption=f"Linear models fitted on {len(train.z):,} training pictures, scored on "
                      f"{len(test.z):,} held-out ones; means over attributes."),
        Table(["attribute", "share", *names], rows,
              caption="From z, with 95 % bootstrap intervals.")])],
        {"means": means, "attributes": {one.attribute: {n: s._asdict() for n, s in one.scores.items()}
                                        for one in found["z"]}})


def _pixels(context: Context, data: Data, split: str, n: int, most: int = 2 * 10**8):
    """The pictures of a split as rows of pixels, [N, H W C]; None where that is too much memory."""
    if n * int(np.prod(context.model.arch.image_shape)) > most:
        return None
    source, arch = data.open(split), context.model.arch
    batches = data_lib.batches(source, size=arch.image_shape[:2], channels=arch.image_shape[2],
                               batch_size=256, max_broken=data.max_broken)
    try:
        return np.concatenate([batch["image"][batch["mask"]].reshape(int(batch["mask"].sum()), -1)
                               for batch in batches]).astype(np.float32) / 255
    finally:
        batches.close()


MODES: dict[str, Callable[[Context], Result]] = {
    "encode": encode, "reconstruct": reconstruct_mode, "interpolate": interpolate_mode,
    "manipulate": manipulate_mode, "generate": generate_mode, "fewshot": fewshot_mode,
    "gap": gap_mode, "denoise": denoise_mode, "shift": shift_mode, "probe": probe_mode,
}


def run(mode: str, workdir: str | Path, options: Options, *, out: str | Path | None = None,
        command: str = "") -> Path:
    """Does one mode and writes its folder (default workdir/MODE); returns the page's path.

    Raises ValueError where the folder holds something that this mode did not write.
    """
    workdir = Path(workdir).expanduser()
    out = Path(out).expanduser() if out else workdir / mode
    claim(out, mode)
    context = Context(workdir, options, out)
    result = MODES[nearest(mode, MODES, "mode")](context)
    (out / MARK).write_text(json.dumps({"mode": mode, "command": command,
                                        "options": dataclasses.asdict(options),
                                        "checkpoints": checkpoint.latest_steps(workdir),
                                        "numbers": result.numbers}, indent=1) + "\n")
    for name, rows in result.grids.items():
        save_grid(out / f"{name}.png", rows)
    summary = {name: value for name, value in result.numbers.items()
               if isinstance(value, (int, float))}
    page = out / "index.html"
    report.write(page, f"{mode}: {workdir.name}", summary, result.sections, lead=command)
    print(f"{mode}: {page}" + "".join(f"  {k} {v:.4g}" for k, v in summary.items()))
    return page


def claim(out: Path, mode: str) -> None:
    """Makes the folder `out` ours for `mode`, or raises ValueError."""
    mark = out / MARK
    if mark.exists():
        theirs = json.loads(mark.read_text()).get("mode")
        if theirs != mode:
            raise ValueError(f"{out} holds what --mode={theirs} wrote; choose another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds what this command did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"mode": mode}) + "\n")


def _lines(images: np.ndarray, width: int = 8) -> list[np.ndarray]:
    return [images[k:k + width] for k in range(0, len(images), width)]


def _some_times(context: Context) -> np.ndarray:
    return (np.array([0.1, 0.3, 0.5, 0.7, 0.9]) * (context.model.arch.T - 1)).astype(int)


def _pairs(numbers: dict) -> list[list[str]]:
    return [[name, f"{value:.4g}" if isinstance(value, float) else str(value)]
            for name, value in numbers.items()]

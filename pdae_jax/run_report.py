"""The report of a run: its model on held-out pictures, and the records of its training."""
import dataclasses
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from pdae_jax import report
from pdae_jax.checkpoint import latest_steps
from pdae_jax.model import Model, load
from pdae_jax.models import Architecture
from pdae_jax.report import Curves, Pictures, Section, Table, Text
from pdae_jax.tasks.interpolate import interpolate
from pdae_jax.tasks.pictures import grid, to_uint8, visible
from pdae_jax.tasks.reconstruct import reconstruct, scores
from pdae_jax.training.run import Data, first_pictures, trained_data

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """pictures: shown; scored: held-out pictures that the numbers are means over; steps and
    invert_steps: of DDIM decoding and inversion; ddpm: whether to decode by DDPM too (T steps)."""

    pictures: int = 8
    scored: int = 180
    steps: int = 100
    invert_steps: int = 100
    ddpm: bool = True

    def __post_init__(self):
        for name in ("pictures", "scored", "steps", "invert_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"report.{name} must be at least 1, got {getattr(self, name)}")

    def check(self, arch: Architecture) -> None:
        """Raises ValueError where a model of `arch` has fewer times than the steps asked for."""
        for name in ("steps", "invert_steps"):
            if getattr(self, name) > arch.T:
                raise ValueError(f"report.{name} = {getattr(self, name)} is more than the model's "
                                 f"T = {arch.T}")


def write_run_report(workdir: Path, data: Data, settings: ReportSettings, *, title: str,
                     command: str) -> Path:
    """Writes report.html, reconstructions.png and scores.json to workdir/report; they stay
    where nothing has changed.

    Raises ValueError where workdir holds no trained PDAE.
    """
    folder = Path(workdir) / "report"
    page, record = folder / "report.html", folder / "scores.json"
    made_from = {"checkpoints": latest_steps(workdir), "settings": dataclasses.asdict(settings),
                 "data": dataclasses.asdict(data)}
    if page.exists() and record.exists():
        if json.loads(record.read_text())["made_from"] == made_from:
            print(f"report: {page} is up to date")
            return page

    began = time.perf_counter()
    model = load(workdir, batch_size=64)
    images = first_pictures(data.open("test"), model.arch, settings.scored, data.max_broken)
    shown = images[:settings.pictures]
    print(f"report: decoding {len(images)} held-out pictures", flush=True)
    measured = measure(model, images, settings)
    parts = reconstruct(model, shown, steps=settings.steps, invert_steps=settings.invert_steps,
                        ddpm=settings.ddpm)
    sections = [
        reconstruction_section(shown, parts, measured, settings),
        interpolation_section(model, shown, settings)[0],
        *curve_sections(Path(workdir)),
        made_section(model, workdir, command, time.perf_counter() - began, len(images)),
    ]
    best, alone = measured["z, inferred x_T"], measured["z alone"]
    folder.mkdir(parents=True, exist_ok=True)
    report.write(page, f"PDAE on {title}",
                 {"MSE, z alone": alone["mse"], "MSE, inferred x_T": best["mse"],
                  "SSIM, z alone": alone["ssim"], "SSIM, inferred x_T": best["ssim"],
                  "numbers in z": model.arch.z_size},
                 sections,
                 lead="A frozen diffusion model made an autoencoder: each picture becomes a code "
                      f"z of {model.arch.z_size} numbers, which holds its meaning, and noise x_T "
                      "of the picture's own shape, which holds its detail. "
                      + held_out(workdir, data))
    rows = [shown, *map(to_uint8, parts.from_z), to_uint8(parts.inferred)]
    save_grid(folder / "reconstructions.png", rows)
    record.write_text(json.dumps({"made_from": made_from, "scores": measured}, indent=1) + "\n")
    print(f"report: {page}  (MSE from z alone {alone['mse']:.4g}, with inferred x_T "
          f"{best['mse']:.4g})")
    return page


def held_out(workdir: Path, data: Data) -> str:
    """A sentence on what the pictures of the report are to the training."""
    trained_on = {record.name for record in trained_data(workdir)}
    if not trained_on:
        return "The model was brought in: whether it was trained on these pictures is not known."
    if trained_on == {data.name}:
        return "None of the pictures below was trained on."
    return f"The pictures are of {data.name}; it was trained on {', '.join(sorted(trained_on))}."


def save_grid(path: Path, rows) -> None:
    """Rows of uint8 [n, H, W, C] as a PNG, small pictures enlarged to about 48 pixels."""
    sheet = grid(rows, gap=1)
    zoom = max(1, 48 // rows[0].shape[2])
    sheet = sheet.repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(path)


def measure(model: Model, images: np.ndarray, settings: ReportSettings) -> dict[str, dict]:
    """Mean SSIM, MSE and PSNR of each way to decode, on held-out images."""
    parts = reconstruct(model, images, steps=settings.steps, draws=1,
                        invert_steps=settings.invert_steps, ddpm=False)
    mean = np.broadcast_to(images.mean(0, keepdims=True), images.shape).astype(np.uint8)
    return {"z alone": scores(images, parts.from_z[0]),
            "z, inferred x_T": scores(images, parts.inferred),
            "their mean picture": scores(images, mean)}


def reconstruction_section(shown, parts, measured, settings) -> Section:
    rows = [("original", shown)]
    rows += [("z alone, x_T random", to_uint8(decoded)) for decoded in parts.from_z]
    rows.append(("z and inferred x_T", to_uint8(parts.inferred)))
    if parts.ddpm is not None:
        rows.append(("z alone, DDPM", to_uint8(parts.ddpm)))
    table = [[name, s["mse"], s["ssim"], s["psnr"]] for name, s in measured.items()]
    return Section("Reconstruction", [
        Pictures([(label, visible(row)) for label, row in rows],
                 caption=f"Held-out pictures, decoded in {settings.steps} DDIM steps (the "
                 "last row: all DDPM steps). What the rows from z alone share is what z says; "
                 f"what differs is x_T's. x_T is inferred in {settings.invert_steps} steps."),
        Table(["decoded from", "MSE", "SSIM", "PSNR (dB)"], table,
              caption="Means over held-out pictures, pixels in [0, 1]; the last row is what one "
                      "gets without any code.")])


def interpolation_section(model: Model, shown, settings) -> tuple[Section, list[np.ndarray]]:
    """Both interpolations between the first and the second half of `shown`, three pairs at most."""
    half = max(1, min(3, len(shown) // 2))
    first, second = shown[:half], shown[half:2 * half]
    if not len(second):
        second = first
    codes, trajectories = interpolate(model, first, second, WEIGHTS, steps=settings.steps,
                                      invert_steps=settings.invert_steps)
    rows = []
    for i in range(half):
        ends = [first[i:i + 1], second[i:i + 1]]
        for label, kind in (("of codes", codes), ("of trajectories", trajectories)):
            rows.append((label, np.concatenate([ends[0], to_uint8(kind[i]), ends[1]])))
    section = Section("Interpolation", [Pictures(
        [(label, visible(row)) for label, row in rows],
        columns=["from", *(f"{w:.1f}" for w in WEIGHTS), "to"],
        caption="Between the two originals at the ends: z along a line, or the gradient "
                "estimator's output along a line at every step; x_T along a great circle.")])
    return section, [row for _, row in rows]


def curve_sections(workdir: Path) -> list[Section]:
    """Loss, loss by time range and health lines of every objective that left records."""
    sections = []
    for path in sorted(workdir.glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        series: dict[str, tuple[list, list]] = {}
        for line in lines:
            for name, value in line.items():
                if name != "step":
                    x, y = series.setdefault(name, ([], []))
                    x.append(line["step"])
                    y.append(value)
        series = {name: (np.array(x), np.array(y)) for name, (x, y) in series.items()}
        ranges = {name.removeprefix("loss_"): xy for name, xy in series.items()
                  if name.startswith("loss_t")}
        parts = []
        if "loss" in series:
            parts.append(Curves({"loss": series["loss"]}, x_label="step", y_label="loss",
                                log_y=True, smooth=5, caption="Training loss."))
        if ranges:
            parts.append(Curves(ranges, x_label="step", y_label="loss", log_y=True, ordered=True,
                                smooth=5, caption="Training loss by range of t."))
        if "loss_own_z" in series:
            parts.append(Curves({"its own z": series["loss_own_z"],
                                 "another picture's z": series["loss_shuffled_z"]},
                                x_label="step", y_label="loss", log_y=True,
                                caption="Is z used? The loss with each picture's own z, and with "
                                        "its neighbour's in the batch."))
            parts.append(Curves({"|dL/dz|": series["dloss_dz_norm"]}, x_label="step",
                                y_label="norm", log_y=True,
                                caption="How strongly the loss of a picture pulls at its z."))
        if parts:
            name = {"dpm": "Training: the diffusion model", "pdae": "Training: PDAE"}
            sections.append(Section(name.get(path.parent.name, path.parent.name), parts))
    return sections


def made_section(model: Model, workdir, command: str, seconds: float, scored: int) -> Section:
    import jax

    rows = [["checkpoints", ", ".join(f"{name} at step {step:,}" for name, step in
                                      latest_steps(workdir).items())],
            ["training time", training_time(Path(workdir))],
            ["pictures scored", str(scored)],
            ["report's own time", f"{seconds:.0f} s"],
            ["machine", f"{platform.system()} {platform.machine()}, "
                        f"{jax.device_count()} x {jax.devices()[0].device_kind}"],
            ["date", time.strftime("%Y-%m-%d")],
            ["versions", ", ".join(f"{p} {version(p)}" for p in ("jax", "flax", "optax"))]]
    return Section("How this was made", [Text("The command, which goes on where it stopped and "
                                              "repeats nothing that is done:", command),
                                         Table(["", ""], rows)])


def training_time(workdir: Path) -> str:
    seconds = {path.parent.name: json.loads(path.read_text().splitlines()[-1])["seconds"]
               for path in sorted(workdir.glob("*/time.jsonl"))}
    return ", ".join(f"{name} {s / 60:.1f} min" for name, s in seconds.items()) or "not recorded"

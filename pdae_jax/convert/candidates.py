"""Candidates for the facts that no tensor shows, compared by how well they denoise given pictures.

Heads, the order of the qkv channels, the schedule and what is predicted change what a network
computes and no shape of its tensors. Under the right ones a trained model predicts the noise best.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from scipy import special

from pdae_jax.arrays import Images, Params, Times
from pdae_jax.convert.architecture_facts import AGREED, FLAG, FROM, MEASURED, Told
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.images import to_float
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import sharding
from pdae_jax.runtime.progress import bar
from pdae_jax.schedule import Scalings

# What a candidate chooses -> the fields of `Architecture` that it sets.
FACTS = {
    "heads": ("heads", "head_channels"),
    "qkv_order": ("qkv_order",),
    "schedule": ("schedule",),
    "predicts": ("predicts",),
}
OF_PIXELS = ("eps", "x_0", "v")  # outputs of networks that read x_t as it is
LIKELY = ("linear", "cosine", "constant", "scaled_linear", "sigmoid")  # schedules
HEADS, HEAD_CHANNELS = (1, 2, 4, 8), (32, 64)  # of published models
PICTURES, LEVELS = 128, 4  # pictures at most, and noised ones made of each
ROUNDS = (32, 64, 128, 256, PICTURES * LEVELS)  # noised pictures seen by the end of each
# The loss of noise drawn afresh: above it an output is misread, and how far says nothing. (x_0 for
# eps is divided by a noise that tends to 0, and a few such pairs would outweigh all others.)
AFRESH = 2.0
# The chance of a wrong claim where all candidates are alike, shared by all that are compared.
CHANCE = 0.001


class Measurement(NamedTuple):
    """Errors of the noise that each candidate predicts, mean (eps - eps_theta(x_t, t))^2.

    candidates: the assumed one first. losses: at the same noised pictures; NaN at those that a
    candidate did not need to see, being beaten, and AFRESH at most. bare: of eps =
    sqrt(1 - alpha_bar) x_t, for which one needs no network.
    """

    candidates: list[Architecture]
    losses: Float[np.ndarray, "candidates pairs"]
    bare: Float[np.ndarray, " pairs"]

    def better(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether the first losses [pairs] are clearly lower: a paired t-test, where both are."""
        difference = (one - other)[~np.isnan(one - other)]
        n = len(difference)
        if n < 2 or not difference.any():
            return False
        error = difference.std(ddof=1) / np.sqrt(n) or np.finfo(np.float32).tiny
        p = special.stdtr(n - 1, difference.mean() / error)  # Student's distribution
        return bool(p < CHANCE / (len(self.candidates) * len(ROUNDS)))

    def winner(self, among: Collection[int]) -> int:
        """The candidate of the lowest loss, of those that saw most."""
        seen = {k: np.count_nonzero(~np.isnan(self.losses[k])) for k in among}
        most = [k for k in among if seen[k] == max(seen.values())]
        return min(most, key=lambda k: np.nanmean(self.losses[k]))

    def unbeaten(self, among: Collection[int]) -> list[int]:
        """The winner, and those that it is not clearly better than."""
        best = self.winner(among)
        return [k for k in among if not self.better(self.losses[best], self.losses[k])]

    def denoises(self, k: int) -> bool:
        """Whether a candidate is clearly better than no network, as of a trained model one is."""
        return self.better(self.losses[k], self.bare)

    def decides(self, fact: str, among: Collection[int]) -> bool:
        """Whether the winner denoises, and clearly better than all that differ in the fact."""
        best = self.winner(among)
        of_best = value(self.candidates[best], fact)
        return self.denoises(best) and all(
            self.better(self.losses[best], self.losses[k])
            for k in among
            if value(self.candidates[k], fact) != of_best
        )

    def mean(self, k: int) -> float:
        """A candidate's loss, on the scale of the winner's: that, and what it is above it."""
        best = self.losses[self.winner(range(len(self.candidates)))]
        return float(np.nanmean(best) + np.nanmean(self.losses[k] - best))

    def allowed(self, told: Collection[str]) -> list[int]:
        """The candidates that agree with the assumed one in the facts that were told."""
        return [
            k
            for k, one in enumerate(self.candidates)
            if all(value(one, fact) == value(self.candidates[0], fact) for fact in told)
        ]


class Verdict(NamedTuple):
    """What the pictures say.

    arch: with the facts that they decided. decided: those, which were assumed. confirmed: facts
    that were told and that they decide alike. undecided: facts that stay as they were assumed.
    kept, best: the places of `arch` and of the winner among the candidates; best is None where it
    is not clearly better.
    """

    arch: Architecture
    decided: list[str]
    confirmed: list[str]
    undecided: list[str]
    kept: int
    best: int | None


def candidates(arch: Architecture) -> list[Architecture]:
    """`arch`, then all others of its tensors by `FACTS`; each network and schedule once."""
    heads: list[dict[str, int]] = [{}]
    heads += [{"heads": n, "head_channels": 0} for n in HEADS]
    heads += [{"head_channels": n} for n in HEAD_CHANNELS]
    found: list[Architecture] = []
    outputs = OF_PIXELS if arch.predicts in OF_PIXELS else ()
    for more, order, name, output in itertools.product(
        heads,
        sorted(("legacy", "new"), key=arch.qkv_order.__ne__),  # the assumed one comes first, and
        # stays where two are the same network
        dict.fromkeys((arch.schedule, *LIKELY)),
        dict.fromkeys((arch.predicts, *outputs)),
    ):
        try:
            chosen: dict[str, Any] = {"qkv_order": order, "schedule": name, "predicts": output}
            chosen["betas"] = arch.betas if name == arch.schedule else ()
            one = dataclasses.replace(arch, **more, **chosen)
            Networks(one).schedule  # noqa: B018 - refuses too few times
        except ValueError:  # heads that do not divide the channels, too few times for a schedule
            continue
        if not any(same(one, other) for other in found):
            found.append(one)
    return found


def value(arch: Architecture, fact: str) -> Any:
    """A fact's value; of the heads their number at each width that has attention."""
    if fact != "heads":
        return getattr(arch, fact)
    apart = bool(arch.heads_up)  # whether the way up has others
    places = {(block.channels, False) for block in arch.down_path() if block.attention}
    places |= {(block.channels, apart) for block in arch.up_path() if block.attention}
    places |= set() if arch.middle == "plain" else {(arch.width(-1), False)}
    return tuple(arch.heads_of(*place) for place in sorted(places))


def same(one: Architecture, other: Architecture) -> bool:
    """Whether two candidates compute the same."""
    facts = facts_of(one)
    return facts == facts_of(other) and all(value(one, f) == value(other, f) for f in facts)


def facts_of(arch: Architecture) -> list[str]:
    """The facts that change what is computed: of one head the channels have no order."""
    alone = max(value(arch, "heads"), default=1) == 1
    return [fact for fact in FACTS if not (alone and fact == "qkv_order")]


def measure(
    arch: Architecture,
    params: Params,
    images: np.ndarray,
    told: Collection[str] = (),
    seed: int = 0,
) -> Measurement:
    """Measures every candidate for `arch` on the same noised pictures, while it is not beaten.

    params: with "dpm". images: uint8 [n, H, W, C]. told: facts that stay, under which the race is
    run a second time. The noise levels are those of the candidate schedules in turn, at t spread
    over [0, T); each candidate says by its schedule which t a level is. (Were t the same and x_t
    not, a schedule of more noise would have it easier.)
    """
    found = candidates(arch)
    alpha_bar = {one.schedule: Networks(one).schedule.alpha_bar for one in found}
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(len(images) * LEVELS)[: ROUNDS[-1]]
    picture, turn = np.divmod(pairs, LEVELS)
    t = ((turn + (picture + 0.5) / len(images)) / LEVELS * arch.T).astype(int)
    level = np.stack(list(alpha_bar.values()))[(picture + turn) % len(alpha_bar), t]
    times = {name: nearest_times(table, level) for name, table in alpha_bar.items()}
    level = level.astype(np.float32)[:, None, None, None]
    eps = rng.standard_normal((len(pairs), *arch.image_shape), np.float32)
    x_t = np.sqrt(level) * to_float(images)[picture] + np.sqrt(1 - level) * eps

    measured = Measurement(
        found,
        np.full((len(found), len(pairs)), np.nan, np.float32),
        ((eps - np.sqrt(1 - level) * x_t) ** 2).mean((1, 2, 3)),
    )
    mesh = sharding.make_mesh(devices=jax.local_devices())
    programs = {value(one, "heads"): _output(one) for one in found}
    races = [list(range(len(found))), measured.allowed(told)]
    for start, end in itertools.pairwise((0, *ROUNDS)):
        part = slice(start, end)
        alike: dict[Any, list[int]] = {}  # but for what the output means
        for k in sorted(set().union(*races)):
            one = found[k]
            alike.setdefault((value(one, "heads"), one.qkv_order, one.schedule), []).append(k)
        for (heads, _, name), members in bar("candidates", alike.items()):
            one, t = found[members[0]], times[name][part]
            scalings = {k: _scalings(found[k], t) for k in members}
            output = sharding.in_batches(
                programs[heads],
                {"dpm": legacy_order(one, params["dpm"])},
                scalings[members[0]].into * x_t[part],
                t,
                mesh=mesh,
                batch_size=ROUNDS[0],
            )
            for k, scaling in scalings.items():
                predicted = scaling.out * output + scaling.skip * x_t[part]
                loss = ((predicted - eps[part]) ** 2).mean((1, 2, 3))
                measured.losses[k, part] = np.minimum(loss, AFRESH)
        races = [measured.unbeaten(race) for race in races]
        best = measured.losses[measured.winner(races[0])]
        untrained = np.nanmean(best - measured.bare) >= 0  # more pictures would say the same
        if end >= len(pairs) or untrained or all(len(race) == 1 for race in races):
            break
    return measured


def _output(arch: Architecture) -> Callable[..., Any]:
    """The program of all candidates with these heads: what the network puts out, unscaled.

    Orders permute columns, schedules move t.
    """
    net = Networks(dataclasses.replace(arch, qkv_order="legacy", predicts="eps"))

    def output(params: Params, x: Images, t: Times) -> Images:
        return net.predict(params, x, net.time(params, t)).eps

    return jax.jit(output)


def _scalings(arch: Architecture, t: Int[np.ndarray, " n"]) -> Scalings:
    """What makes eps of a candidate's output: factors [n, 1, 1, 1], or numbers."""
    tables = Networks(arch).schedule.scalings(arch.predicts)
    if tables is None:
        return Scalings(np.float32(1), np.float32(1), np.float32(0))
    return Scalings(*(np.asarray(one, np.float32)[t][:, None, None, None] for one in tables))


def nearest_times(
    alpha_bar: Float[np.ndarray, " T"], level: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The t at which alpha_bar is nearest to each level, by the logarithm of the SNR."""

    def log_snr(a: np.ndarray) -> np.ndarray:
        return np.log(a) - np.log1p(-a)

    return np.abs(log_snr(alpha_bar) - log_snr(level)[:, None]).argmin(1).astype(np.int32)


def legacy_order(arch: Architecture, params: Any) -> Any:
    """A network's parameters with the columns of every qkv in the order "legacy"."""
    if arch.qkv_order == "legacy":
        return params

    def leaf(path: Sequence[Any], a: np.ndarray) -> np.ndarray:
        if "qkv" not in [key.key for key in path]:
            return a
        names = [key.key for key in path]
        heads = arch.heads_of(a.shape[-1] // 3, "up" in names and "middle_attention" not in names)
        return rearrange(a, "... (qkv head c) -> ... (head qkv c)", qkv=3, head=heads)

    return jax.tree_util.tree_map_with_path(leaf, params)


def judge(measured: Measurement, told: Collection[str]) -> Verdict:
    """What a measurement decides of the facts that were assumed; those told stay as they are."""
    everyone, allowed = range(len(measured.candidates)), measured.allowed(told)
    best, chosen = measured.winner(everyone), measured.winner(allowed)
    facts = facts_of(measured.candidates[chosen])
    of_told = [fact for fact in facts if best == chosen and measured.decides(fact, everyone)]
    of_rest = [fact for fact in facts if measured.decides(fact, allowed)]
    decided = [fact for fact in of_rest if fact not in told]
    fields = [field for fact in decided for field in FACTS[fact]]
    arch = dataclasses.replace(
        measured.candidates[0],
        **{field: getattr(measured.candidates[chosen], field) for field in fields},
    )
    kept = next(k for k in everyone if same(measured.candidates[k], arch))
    wrong = measured.denoises(best) and kept not in measured.unbeaten(everyone)
    return Verdict(
        arch,
        decided,
        [fact for fact in of_told if fact in told],
        [fact for fact in facts_of(arch) if fact not in (*told, *decided)],
        kept,
        best if wrong else None,
    )


def settle(
    arch: Architecture,
    told: list[Told],
    params: Params,
    path: str | os.PathLike,
    say: Callable[[str], object],
) -> tuple[Architecture, list[Told], dict[str, Any]]:
    """Lets pictures decide what of `FACTS` was assumed: the architecture, its facts, a record.

    path: of the pictures, one, a folder or a glob. say: takes the table and a line on each
    decision. What was told stays; a warning says where another value denoises better. Raises
    DataError where the pictures cannot be read, or have other channels.
    """
    source = Data(f"folder:{path}").open("all")
    images = first_pictures(source, arch.image_shape, PICTURES)
    facts = {one.field: one for one in told}
    given = [fact for fact in FACTS if not facts[shown_by(arch, fact)].assumed]
    measured = measure(arch, params, images, given)
    verdict = judge(measured, given)
    say(f"{path}: the denoising loss on {len(images)} pictures, best first")
    say(table(measured))

    fact_of = {field: fact for fact, fields in FACTS.items() for field in fields}
    now: list[Told] = []
    for one in told:
        if fact_of.get(one.field) in verdict.decided:
            one = Told(one.field, getattr(verdict.arch, one.field), MEASURED)
        elif fact_of.get(one.field) in verdict.confirmed:
            one = one._replace(origin=one.origin + AGREED)
        now.append(one)
    facts = {one.field: one for one in now}
    for fact in (*verdict.decided, *verdict.confirmed):
        say(str(facts[shown_by(verdict.arch, fact)]))
    if verdict.undecided:
        kept = [facts[shown_by(verdict.arch, fact)] for fact in verdict.undecided]
        winner = measured.winner(measured.allowed(given))
        why = (
            "another value is as good, within noise"
            if measured.denoises(winner)
            else "no loss is clearly below that of no network; is the model trained, on such "
            "pictures?"
        )
        say(f"these pictures do not decide ({why}): kept {'; '.join(map(str, kept))}")
    if verdict.best is not None:
        say(warning(measured, verdict, facts))
    record = {
        "path": str(path),
        "pictures": len(images),
        "no_network": float(measured.bare.mean()),
        "losses": [
            {field: getattr(one, field) for fields in FACTS.values() for field in fields}
            | {"loss": loss}
            for loss, one in ranked(measured)
        ],
    }
    return verdict.arch, now, record


def shown_by(arch: Architecture, fact: str) -> str:
    """The field of `Architecture` that a fact is given by."""
    return "head_channels" if fact == "heads" and arch.head_channels else fact


def settings(arch: Architecture) -> dict[str, Any]:
    """The facts of a candidate, as fields of `Architecture`."""
    return {field: getattr(arch, field) for field in (shown_by(arch, fact) for fact in FACTS)}


def ranked(measured: Measurement) -> list[tuple[float, Architecture]]:
    """Each candidate with its loss, best first."""
    losses = [measured.mean(k) for k in range(len(measured.candidates))]
    return sorted(zip(losses, measured.candidates), key=lambda pair: pair[0])


def table(measured: Measurement, most: int = 8) -> str:
    """The best candidates, the one that was assumed, and no network, as text, one a line."""
    rows, assumed = ranked(measured), measured.candidates[0]
    shown = [row for k, row in enumerate(rows) if k < most or row[1] is assumed]
    lines = [
        f"  {loss:.4f}  "
        + ", ".join(f"{name} = {setting}" for name, setting in settings(one).items())
        + ("  (so far)" if one is assumed else "")
        for loss, one in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown)} more, up to {rows[-1][0]:.4f}")
    lines.append(f"  {measured.bare.mean():.4f}  no network: eps = sqrt(1 - alpha_bar) x_t")
    return "\n".join(lines)


def warning(measured: Measurement, verdict: Verdict, facts: dict[str, Told]) -> str:
    """One line on a candidate that is better than what is kept: by how much, and its flags."""
    assert verdict.best is not None
    best, loss = measured.candidates[verdict.best], measured.mean(verdict.best)
    differ = [fact for fact in FACTS if value(best, fact) != value(verdict.arch, fact)]
    kept = [facts[shown_by(verdict.arch, fact)] for fact in differ]
    files = {
        one.origin.removeprefix(FROM)
        for one in kept
        if one.origin.startswith(FROM) and one.origin != FROM + FLAG
    }
    flags = " ".join(f"--{name}={setting}" for name, setting in settings(best).items())
    return (
        f"warning: kept {'; '.join(map(str, kept))}; but {flags} has a loss of {loss:.4f}, lower "
        f"by {measured.mean(verdict.kept) - loss:.4f}: convert with these flags"
        + (f", and mend or leave out {' and '.join(sorted(files))}" if files else "")
    )

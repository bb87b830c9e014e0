"""Several processes on loopback against one: training, recovery, and work in chunks."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import start_processes
from PIL import Image
from sklearn.datasets import load_digits

from pdae_jax.runtime import processes
from pdae_jax.workdir.workdir import Workdir


def finish(started: list[subprocess.Popen], code: int = 0) -> list[str]:
    """What each said, once all have ended."""
    said = []
    for process in started:
        out, errors = process.communicate(timeout=900)
        assert process.returncode == code, errors
        said.append(out + errors)
    return said


def wait_for(path: Path, started: list[subprocess.Popen]) -> None:
    deadline = time.time() + 600
    while not path.exists() and time.time() < deadline:
        assert all(process.poll() is None for process in started), started[0].stderr.read()
        time.sleep(0.1)
    assert path.exists()


def losses(workdir: Path, objective: str = "dpm") -> dict[int, float]:
    lines = (workdir / objective / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The losses of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("one")
    finish(start_processes("train_together", 1, workdir, "dpm", 8, 2))
    return losses(workdir)


@pytest.mark.slow
def test_two_processes_train_as_one_and_recover(one, tmp_path):
    """One is killed, the other ends too; the run resumes, at last on one process and 4 devices."""
    first = start_processes("train_together", 2, tmp_path, "dpm", 8, 2)
    wait_for(tmp_path / "dpm" / "2", first)  # early: it must not have ended when it is killed
    first[1].kill()
    _, errors = first[0].communicate(timeout=120)
    assert first[0].returncode, errors
    finish(start_processes("train_together", 2, tmp_path, "dpm", 6, 2, "as on a GPU"))
    finish(start_processes("train_together", 1, tmp_path, "dpm", 8, 1, devices=4))
    found = losses(tmp_path)
    assert found.keys() == one.keys() == set(range(1, 9))
    np.testing.assert_allclose(list(found.values()), list(one.values()), rtol=2e-4)
    assert len(list((tmp_path / "dpm" / "pictures").glob("*.png"))) == 2


@pytest.mark.slow
def test_all_stop_at_the_same_step_where_one_is_asked(tmp_path):
    """SIGTERM to the process that does not write: both save and end, and the run resumes."""
    both = start_processes("train_together", 2, tmp_path, "dpm", 3000, 1, devices=2)
    wait_for(tmp_path / "dpm" / "2", both)
    both[1].send_signal(signal.SIGTERM)
    said = finish(both, code=1)  # as the script has it, of a run that did not get to its end
    step = Workdir(tmp_path).latest_steps["dpm"]
    assert 2 <= step < 3000 and f"stopped at step {step}" in said[0]
    finish(start_processes("train_together", 2, tmp_path, "dpm", step + 1, 1, devices=2))
    assert list(losses(tmp_path)) == list(range(1, step + 2))


PDAE = [
    "--config=configs/digits.py:pdae",
    "--config.model.mult=(1,)",
    "--config.model.attention=()",
    "--config.model.heads=1",
    "--config.model.z_size=8",
    "--config.model.encoder_widths=(32,)",
    "--config.model.latent_layers=3",
    "--config.model.latent_hidden=32",
    "--config.model.latent_time=8",
    "--config.model.blocks=1",
    "--config.model.base=32",
    "--config.model.patch=1",
    "--config.pdae.steps=12",
    "--config.pdae.batch_size=16",
    "--config.pdae.log_every=1",
    "--config.pdae.health_every=0",
    "--config.pdae.pictures_every=0",
    "--config.mesh.fsdp=2",
]
REPORT = [
    "--config.report.n=2",
    "--config.report.steps=2",
    "--config.report.invert_steps=2",
    "--config.report.scored=4",
    "--config.report.ddpm=False",
    "--config.report.sections=('reconstruct','gap','evaluate')",
]


@pytest.fixture
def digits_folder(tmp_path):
    """Forty digits as files, four of them broken."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for i, digit in enumerate(load_digits().images[:40]):
        path = folder / f"{i:02d}.png"
        Image.fromarray((digit * 15).astype(np.uint8)).save(path)
        if i % 10 == 3:
            path.write_bytes(b"no picture")
    return folder


@pytest.mark.slow
def test_the_command_over_two_processes(workdir, digits_folder, tmp_path):
    """PDAE over a frozen diffusion model that is imported, sharded, and the report of it.

    Each process reads its own pictures; what is broken is named by all, and counted together.
    """
    found, counted, named = [], [], []
    for n, stages in ((1, ("pdae",)), (2, ("pdae", "report"))):
        home = tmp_path / str(n)
        said = finish(
            start_processes(
                "command_together",
                n,
                *PDAE,
                *(REPORT if "report" in stages else ()),
                f"--workdir={home}",
                f"--config.stages={stages}",
                f"--config.pretrained={workdir}",
                f"--config.data.name=folder:{digits_folder}",
                "--config.data.max_broken=0.5",
                devices=4,
            )
        )
        found.append(losses(home, "pdae"))
        counted.append(
            [
                json.loads(line).get("broken_pictures", 0)
                for line in (home / "pdae" / "metrics.jsonl").read_text().splitlines()
            ]
        )
        named.append(
            {
                line.partition("\t")[0]
                for path in (home / "pdae").glob("broken*.txt")
                for line in path.read_text().splitlines()
            }
        )
    assert found[0].keys() == found[1].keys() == set(range(1, 13))
    np.testing.assert_allclose(list(found[0].values()), list(found[1].values()), rtol=2e-4)
    assert named[0] == named[1] and len(named[0]) >= 3
    assert counted[0] == counted[1] and counted[1][-1] == len(named[1]), said
    page = (tmp_path / "2" / "report" / "index.html").read_text()
    assert "PDAE on 2" in page and page.count("<img") > 3


@pytest.mark.slow
def test_two_processes_encode_generate_and_evaluate_as_one(workdir, tmp_path):
    """And fit a few-shot classifier, which one of them records."""
    shots = []
    for n in (1, 2):
        home = tmp_path / f"run{n}"
        shutil.copytree(workdir, home)
        shutil.rmtree(home / "codes", ignore_errors=True)
        said = finish(start_processes("commands_together", n, home, tmp_path / str(n), devices=2))
        assert sum("fewshot: attribute 0" in words for words in said) == 1
        shots.append(Workdir(home).few_shot())
    assert shots[0][1] == shots[1][1]
    for name, value in shots[0][0].items():
        np.testing.assert_allclose(value, shots[1][0][name], rtol=1e-3, atol=1e-4)
    for name, key in (("encode/codes.npz", "z"), ("generate/samples.npz", "arr_0")):
        one, two = (np.load(tmp_path / n / name)[key].astype(float) for n in "12")
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two, atol=1 if name.startswith("gen") else 1e-5)
    one, two = (
        json.loads((tmp_path / n / "evaluate" / "numbers.json").read_text())["numbers"]
        for n in "12"
    )
    assert one.keys() == two.keys()
    np.testing.assert_allclose(
        *(np.array(list(leaves(numbers)), float) for numbers in (one, two)), rtol=1e-3
    )
    assert not list((tmp_path / "2").rglob("parts"))


def leaves(numbers):
    """The numbers within nested dicts."""
    for value in numbers.values():
        if isinstance(value, dict):
            yield from leaves(value)
        elif isinstance(value, (int, float)):
            yield value


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # a shell in an allocation
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a batch script without srun
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "a[1-2]"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True),
    ],
)
def test_clusters_are_known_by_what_they_set(environment, several):
    assert processes.in_cluster(environment) == several


@pytest.mark.parametrize(
    "environment, told",
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, []),  # one task a node: all its GPUs
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, None),  # one task a GPU: JAX gives each its own
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        # mpirun in an allocation: its own step has one task a node, whose children these are.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, None),
        ({}, None),
    ],
)
def test_one_process_a_node_has_all_of_its_devices(environment, told, monkeypatch):
    """What JAX is told, and what it makes of it in an allocation of two such nodes."""
    assert processes.local_devices(environment) == told
    for name in ("JAX_LOCAL_DEVICE_IDS", "SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    by_mpi = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:1",
    }
    started = by_mpi if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment else {}
    for name, value in {**step, **started, **environment}.items():
        monkeypatch.setenv(name, value)
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **how: given.update(how))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    processes.start()
    assert given["local_device_ids"] == told


@pytest.mark.parametrize(
    "environment, asked",
    [
        ({}, True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_a_tpus_metadata_are_asked_where_nothing_else_tells(environment, asked):
    assert processes.in_cluster(environment, tpu=True) == asked


def test_saves_do_not_make_a_stop_unheard(tmp_path):
    """Orbax asks JAX too, by steps: of a second stage they are lower, of a resumed run higher."""
    said = finish(start_processes("stop_after_saves", 2, tmp_path, devices=2))
    heeded = [line for words in said for line in words.splitlines() if line.startswith("heeded")]
    assert len(heeded) == 2 and heeded[0] == heeded[1]


def test_what_one_process_cannot_do_all_are_told(tmp_path):
    """The second's share has what cannot be made; both continue, with equal questions."""
    said = finish(start_processes("fail_in_a_chunk", 2, tmp_path, devices=2))
    assert all("rows from 3 cannot be made 2" in words.splitlines() for words in said)


def test_what_cannot_stop_halfway_ends_at_once():
    """Modes but training keep what is done by parts: SIGTERM is no request to them."""
    (process,) = start_processes("sleep_unstoppable", 1, devices=1)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM


def test_all_go_by_what_the_first_process_sees():
    """The second says otherwise and is overruled."""
    said = finish(start_processes("ask_first", 2, devices=2))
    assert [line for words in said for line in words.splitlines() if line in ("True", "False")] == [
        "True",
        "True",
    ]
    assert all({"3", "the first, 0"} <= set(words.splitlines()) for words in said)


@pytest.mark.parametrize("works", ["0", "01"])
def test_all_use_the_attention_that_works_on_each(works):
    said = finish(start_processes("one_attention_fails", 2, works, devices=2))
    assert [str(works == "01") in words.splitlines() for words in said] == [True, True]
    assert sum("fails (division by zero): XLA's is used" in words for words in said) == 2 - len(
        works
    )


def test_the_question_whether_to_stop_never_goes_back(monkeypatch, request):
    """Whatever step a stage begins at: JAX waits for a number after the highest asked."""
    asked = []
    before = jax.config.jax_enable_preemption_service
    request.addfinalizer(lambda: jax.config.update("jax_enable_preemption_service", before))
    jax.config.update("jax_enable_preemption_service", True)  # a command run here may leave it off
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils,
        "reached_preemption_sync_point",
        lambda number: asked.append(number) or number > 10**9,
    )
    assert not any(processes.stop_asked() for _ in range(3))
    assert asked == list(range(asked[0], asked[0] + 3))


def test_open_mpi_without_an_address_asks_for_it_alone(monkeypatch):
    started = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *a, **k: started.append(a))
    for name, value in {"SIZE": "4", "RANK": "2"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(ValueError, match="give --coordinator=HOST:PORT"):
        processes.start()
    processes.start("a:1")
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "4096.0;tcp://10.0.0.1:5")
    processes.start()
    assert started == [("a:1", 4, 2, None), ()]


@pytest.mark.parametrize(
    "args, says",
    [
        (("localhost:1", 2, None), "go together"),
        (("localhost:1", 2, 2), "from 0 to 1, got 2"),
        (("localhost", 1, 0), "must be HOST:PORT of process 0, got localhost"),
    ],
)
def test_half_a_cluster_is_refused(args, says):
    with pytest.raises(ValueError, match=says):
        processes.start(*args)

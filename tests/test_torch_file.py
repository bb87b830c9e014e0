"""PyTorch's files and other pickles: what they hold, and that nothing in them is run or endless."""

import builtins
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from helpers import TESTS, Call, importable, persistent, rezip, run_program

from pdae_jax.convert import torch_calls, torch_file
from pdae_jax.convert.torch_file import Placeholder, TorchFileError, state_dict_of

ZIP, OLD = {}, {"_use_new_zipfile_serialization": False}


def saved(path: Path, value, how=ZIP) -> Path:
    torch.save(value, path, **how)
    return path


def pickled(path: Path, value, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def refused(path: Path) -> str:
    """The one line that refuses a file, without its path."""
    with pytest.raises(TorchFileError) as caught:
        torch_file.read(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and line.isprintable(), line
    return line.removeprefix(f"{path}: ")


# What the files hold.


@pytest.mark.parametrize("how", [ZIP, OLD], ids=["zip", "old"])
def test_reads_every_tensor_that_torch_saves(tmp_path, how):
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "float": base,
        "half": base.half(),
        "double": base.double(),
        "long": base.long(),
        "int": base.int(),
        "short": base.short(),
        "char": base.char(),
        "byte": base.byte(),
        "bool": base > 3,
        "complex": base * 1j,
        "uint16": base.to(torch.uint16),
        "transposed": base.t(),
        "view": base[1:, ::2],
        "parameter": torch.nn.Parameter(base + 1),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(3, 1).expand(3, 500),
        "numpy": np.arange(3),
    }
    more = {
        "bfloat16": base.bfloat16(),
        "float8": base.to(torch.float8_e4m3fn),
        "nested": [{"a": (base[2],)}],
        "number": 3,
        "storage": base.byte().untyped_storage(),
        "dtype": torch.float16,
    }
    contents = torch_file.read(saved(tmp_path / "a.pt", value | more, how))
    found = contents.value
    for name, tensor in value.items():
        tensor = np.asarray(tensor.detach() if torch.is_tensor(tensor) else tensor)
        assert np.array_equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert not found[name].flags.writeable, name
    assert found["bfloat16"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(found["bfloat16"].astype(np.float32), base.numpy())
    assert found["float8"].dtype == ml_dtypes.float8_e4m3fn and found["float8"][0, 3] == 3
    assert np.array_equal(found["nested"][0]["a"][0], base[2].numpy()) and found["number"] == 3
    assert (
        np.array_equal(found["storage"], np.arange(24)) and found["dtype"].name == "torch.float16"
    )
    assert np.shares_memory(found["float"], found["transposed"])  # one storage, as it was saved
    assert contents.placeholders == ()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_plain_pickles_of_every_protocol(tmp_path, protocol):
    value = {
        "array": np.arange(6.0).reshape(2, 3).T,
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "nothing": np.zeros((0, 3)),
        "half": np.float16(3),
        "tensor": torch.arange(6).reshape(2, 3).t(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    plain = {
        "set": {1, 2.5, "c", None},
        "numbers": [-5, 300, 70000, 10**30, True, 1.5, 0.1],
        "text": "h\u00e9 \n'\u20ac",
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        3: {"a": [[]]},
    }
    inert = {"texts": np.array(["a"]), "objects": np.array([None])}
    contents = torch_file.read(pickled(tmp_path / "a.pkl", value | plain | inert, protocol))
    for name, array in value.items():
        array = np.asarray(array.detach() if torch.is_tensor(array) else array)
        assert np.array_equal(contents.value[name], array), name
        assert contents.value[name].dtype == array.dtype, name
    assert {name: contents.value[name] for name in plain} == plain
    assert all(isinstance(contents.value[name], Placeholder) for name in inert)
    assert contents.placeholders == ()


def test_reads_what_python_2_pickled(tmp_path):
    """Strings are bytes there, those of an array too, and an OrderedDict a list of pairs."""
    path = tmp_path / "a.pkl"
    path.write_bytes(
        b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'w\\xc3\\xa9'\naI12\naa(lp2\nS'x'\nacnumpy.core."
        b"multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRp3\n(I1\n(I1\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntRp4\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80\\xbf'\ntba"
        b"atR."
    )
    found = torch_file.read(path).value
    assert found["w\u00e9"] == 12 and found["x"] == np.float32(-1)


def test_lpips_own_file(tmp_path):
    path = TESTS / "data" / "alex.pth"
    for name, tensor in torch.load(path, "cpu", weights_only=True).items():
        assert np.array_equal(torch_file.read(path).value[name], tensor.numpy())


@pytest.mark.parametrize("how", [ZIP, OLD], ids=["zip", "old"])
def test_reading_needs_neither_torch_nor_lightning_nor_the_memory(tmp_path, how):
    """A 256 MB file is opened in a process without PyTorch, by far less memory than it holds."""
    state = {"big": torch.zeros(64 * 2**20)}
    with importable("pytorch_lightning.a", ModelCheckpoint=type("ModelCheckpoint", (), {})) as pl:
        value = {"state_dict": state, "callbacks": {pl.ModelCheckpoint: pl.ModelCheckpoint()}}
        saved(tmp_path / "a.ckpt", value, how)
    done = run_program("read_torch_file", tmp_path / "a.ckpt")
    assert "ModelCheckpoint" in done.stdout and done.stdout.splitlines()[-1] == "['torch']"


class Layers(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 3, bias=False)
        self.block = torch.nn.Sequential(torch.nn.BatchNorm2d(width), torch.nn.Linear(width, 2))
        self.again = self.block[1]  # one module at two places
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("frequencies", torch.arange(3))
        self.nothing = None


def is_state_of(found: dict, module: torch.nn.Module) -> bool:
    state = module.state_dict()
    return list(found) == list(state) and all(
        np.array_equal(found[name], tensor.numpy()) for name, tensor in state.items()
    )


@pytest.mark.parametrize("how", [ZIP, OLD, None], ids=["zip", "old", "pickle"])
def test_the_state_dict_of_a_pickled_module(tmp_path, how):
    module, path = Layers(4), tmp_path / "a.pt"
    pickled(path, [module]) if how is None else saved(path, [module], how)
    contents = torch_file.read(path)
    (found,) = contents.value
    assert is_state_of(state_dict_of(found), module)
    assert found.class_name == "Layers" and found.attributes["training"] is True
    assert "torch.nn.modules.linear.Linear" in contents.placeholders


def save_persistent(path: Path) -> torch.nn.Module:
    """A file in the layout of EDM's network pickles, whose source code would leave its trace."""
    source = f"open({str(path.parent / 'pwned')!r}, 'w')"
    inner, outer = Layers(4), torch.nn.Module()
    outer.model = inner

    def _reconstruct_persistent_obj(meta):
        raise AssertionError

    easy = type("EasyDict", (dict,), {})
    with (
        importable(
            "torch_utils.persistence", _reconstruct_persistent_obj=_reconstruct_persistent_obj
        ),
        importable("dnnlib.util", EasyDict=easy),
    ):
        outer._modules["model"] = persistent("SongUNet", source, inner, model_channels=4)
        kwargs = {"img_resolution": 32, "more": easy(a=1)}
        network = persistent("EDMPrecond", source, outer, **kwargs)
        loss = persistent("EDMLoss", source, torch.nn.Module())
        pickled(path, {"ema": network, "loss_fn": loss, "augment_pipe": None})
    outer._modules["model"] = inner
    return outer


def test_nvidias_persistent_objects_without_their_source(tmp_path):
    module = save_persistent(tmp_path / "a.pkl")
    contents = torch_file.read(tmp_path / "a.pkl")
    network = contents.value["ema"]
    assert network.class_name == "EDMPrecond" and network.init_kwargs["img_resolution"] == 32
    assert network.init_kwargs["more"].entries == {"a": 1}
    (unet,) = network.attributes["_modules"].values()
    assert unet.class_name == "SongUNet" and unet.init_kwargs == {"model_channels": 4}
    state = state_dict_of(network)
    assert is_state_of(state, module) and "model.conv.weight" in state
    assert {"EDMPrecond", "SongUNet", "dnnlib.util.EasyDict"} <= set(contents.placeholders)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]
    stack, seen = [contents.value], []  # of the source nothing is left
    while stack:
        value = stack.pop()
        seen.append(value)
        if isinstance(value, Placeholder):
            stack += [value.args, value.state, value.entries]
        elif isinstance(value, dict | list | tuple):
            stack += value.values() if isinstance(value, dict) else value
    assert len(seen) > 50 and not any(isinstance(v, str) and "pwned" in v for v in seen)


def module_of(state=None, **changes) -> Placeholder:
    parts = {"_parameters": {}, "_buffers": {}, "_modules": {}} | changes
    return Placeholder("a.B", (), None, parts if state is None else state)


def test_what_is_no_module_has_no_state_dict():
    for wrong in (None, {}, 3, Placeholder("a.B"), module_of(state=[])):
        with pytest.raises(TorchFileError, match="the object is no torch.nn.Module but "):
            state_dict_of(wrong)
    with pytest.raises(TorchFileError, match="x.w is no tensor that can be read, but an object of"):
        state_dict_of(module_of(_modules={"x": module_of(_parameters={"w": module_of()})}))
    itself, twice = module_of(), module_of()
    itself.state["_modules"]["x"] = itself
    for _ in range(60):
        twice = module_of(_modules={"a": twice, "b": twice})
    for endless in (itself, twice):
        with pytest.raises(TorchFileError, match="nested without end"):
            state_dict_of(endless)


# What is never run.


def test_calls_and_classes_are_inert_and_named(tmp_path):
    """Whatever a pickle calls that makes no array or container is a placeholder."""
    trap = str(tmp_path / "pwned")
    calls = [
        Call(os.system, f"touch {trap}"),
        Call(eval, f"open({trap!r}, 'w')"),
        Call(subprocess.check_output, ["touch", trap]),
        Call(Path, trap),
        Call(getattr, {}, "pop"),
        Call(pickle.loads, b"N."),
        Call(torch.load, trap),
        Call(torch.hub.load, trap, "x"),
        Call(np.save, trap, 1),
        Call(json.dump, {}, "x"),
        Call(builtins.__import__, "antigravity"),
    ]
    for path in (saved(tmp_path / "a.pt", calls), saved(tmp_path / "b.pt", calls, OLD)):
        contents = torch_file.read(path)
        assert [type(value) for value in contents.value] == [Placeholder] * len(calls)
        assert contents.value[0].args == (f"touch {trap}",)
        names = contents.placeholders
        assert len(names) == len(calls) and f"{os.name}.system" in names[:8]
        assert "os" in repr(contents.value[0]) and "torch.hub.load" in names[-3:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]
    assert "antigravity" not in sys.modules


GLOBAL = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
STATE = b"}X\x01\x00\x00\x00aK\x01sb."


@pytest.mark.parametrize(
    "data, says",
    [
        # BUILD with a state upon what reads tensors, upon a class, upon a placeholder's class.
        (GLOBAL + STATE, "tries to change torch._utils._rebuild_tensor_v2, which has no state"),
        (b"\x80\x02ccollections\nOrderedDict\n" + STATE, "tries to change collections.OrderedDict"),
        (b"\x80\x02cx\ny\n" + STATE, "tries to change x.y"),
        (b"\x80\x02cx\ny\nNNs.", "sets the entries of what is no dict"),
        (b"\x80\x02cx\ny\nNa.", "appends to what is no list"),
        (b"\x80\x02N)R.", "calls a NoneType"),
        (GLOBAL + b")R.", "cannot be read"),
        (GLOBAL + b"(" + b"N" * 20 + b"tR.", "with other arguments"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "storage of an unknown kind"),
        (b"\x80\x02.", "cannot be read"),
        (b"\x80\x02", "is cut short"),
        (b"\x80\x09N.", "of a version that is not known"),
        (b"\x80\x02\x82\x01.", "an instruction 0x82 that none needs"),
        (b"\x80\x02cx\n\x1b[31m\nc\x1b\ny\n" + STATE, r"tries to change '\\x1b.y'"),
        (b"\x80\x02}(cx\ny\nNK\x01K\x02]K\x03u.", "key, or a set's member, is a list"),
    ],
)
def test_crafted_pickles(tmp_path, data, says):
    (tmp_path / "a.pkl").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", data)
    for path in (tmp_path / "a.pkl", tmp_path / "a.pt"):
        assert re.search(says, refused(path))


# What would never end, or fill the memory.

N = 300_000


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


STORAGE = b"(" + text(b"storage") + name("torch", "FloatStorage") + text(b"1") + text(b"cpu")
STORAGE += b"K\x04tQ"
TENSOR = name("torch._utils", "_rebuild_tensor_v2") + b"q\x00(" + STORAGE
TENSOR += b"K\x00K\x04\x85K\x01\x85\x89Ntq\x01"
SIXTY = b")" + b"2\x86" * 60  # a tuple that holds itself twice, sixty times over
SYSTEM = name("os", "system") + b"q\x00"
MANY = b"h\x00h\x01R" * (N // 10) + b"l."  # calls the same with the same, over and over


def old_file(body: bytes) -> bytes:
    """A file of before 1.6 with one storage of four floats."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {})
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    return head + body + pickle.dumps(["1"], 2) + struct.pack("<q", 4) + bytes(16)


# A name, a small file, and the answer.
ENDLESS = {
    "tuple in tuple": (b"\x80\x02)" + b"\x85" * N + b".", "nested more than 100 deep"),
    "list in list": (b"\x80\x02" + b"]" * N + b"a" * (N - 1) + b".", "more than 100 deep"),
    "dict in dict": (b"\x80\x02" + b"}N" * N + b"}" + b"s" * N + b".", "more than 100 deep"),
    "deep and dropped": (b"\x80\x02)" + b"\x85" * N + b"0N.", "read"),
    "marks": (b"\x80\x02" + b"(" * N + b".", "cannot be read"),
    "call in call": (b"\x80\x02" + SYSTEM + b"h\x00" * N + b"N" + b"\x85R" * N + b".", "read"),
    "list in itself": (b"\x80\x02]q\x00h\x00a.", "hold themselves"),
    "lists in a ring": (b"\x80\x02]q\x00]q\x01h\x00aa.", "hold themselves"),
    "doubled": (b"\x80\x02" + SIXTY + b".", "written out would be more than"),
    "doubled text": (b"\x80\x02" + text(b"a" * 9**6) + b"2\x86" * 20 + b".", "written out would"),
    "key": (b"\x80\x02}" + SIXTY + b"Ns.", "key, or a set's member, is a tuple"),
    "member": (b"\x80\x04\x8f(" + SIXTY + b"\x90.", "key, or a set's member, is a tuple"),
    "frozen": (b"\x80\x04(" + SIXTY + b"\x91.", "key, or a set's member, is a tuple"),
    "set": (b"\x80\x02" + name("builtins", "set") + b"(" + SIXTY + b"l\x85R.", "is a tuple"),
    "names": (
        b"\x80\x02(" + b"".join(b"cm\n%d\n" % k for k in range(300_000)) + b"l.",
        "too many, or too long, names",
    ),
    "long name": (
        b"\x80\x04" + text(b"a" * (N // 2)) + b"q\x00(" + b"h\x00h\x00\x93" * (N // 10) + b"l.",
        "too many, or too long, names",
    ),
    "memo": (b"\x80\x02]r\xff\xff\xff\xff.", "read"),
    "length": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "is cut short"),
    "instructions": (b"\x80\x02" + b"N0" * 2_500_000 + b"N.", "more than 5,000,000 instructions"),
    "encoded": (
        b"\x80\x02" + name("_codecs", "encode") + b"q\x00" + text(b"a" * N) + text(b"latin1")
        + b"\x86q\x01(" + MANY,
        "the same bytes over and over",
    ),
    "sets": (
        b"\x80\x02" + name("builtins", "set") + b"q\x00(" + b"N" * N + b"l\x85q\x01(" + MANY,
        "the same bytes over and over",
    ),
    "dicts": (
        b"\x80\x02" + name("collections", "OrderedDict") + b"q\x00(" + b"NN\x86" * N
        + b"l\x85q\x01(" + MANY,
        "the same bytes over and over",
    ),
    "arguments": (
        b"\x80\x02" + name("torch", "Size") + b"q\x00(" + b"N" * N + b"tq\x01(" + MANY,
        "with other arguments",
    ),
    "equal keys": (
        b"\x80\x02" + text(b"a" * N) + b"q\x000" + text(b"a" * N) + b"q\x010}"
        + b"h\x00Nsh\x01Ns" * (N // 12) + b".",
        "key, or a set's member, is a str",
    ),
    "colliding keys": (
        b"\x80\x02}("
        + b"".join(
            b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + b"N" for k in range(N // 15)
        )
        + b"u.",
        "key, or a set's member, is 11529215046068469755",
    ),
    "integer": (b"\x80\x02\x8b" + struct.pack("<I", N) + b"\x7f" * N + b".", "integer of 300,000"),
    "decimals": (b"(L" + b"9" * N + b"L\nl.", "integer of 300,001 digits"),
    "no line": (b"c" + b"a" * N + b".", "is cut short"),
    "file in file": (
        b"\x80\x04" + name("torch.storage", "_load_from_bytes") + b"q\x00B"
        + struct.pack("<I", N // 2) + old_file(STORAGE + b".").ljust(N // 2, b".")
        + b"\x85q\x01(" + MANY,
        "the same bytes over and over",
    ),
    "tensors": (old_file(b"\x80\x02" + TENSOR + b"(" + MANY), "read"),
    "numbers": (
        old_file(STORAGE.replace(b"K\x04", b"\x8a\x09" + b"\x7f" * 9) + b"."),
        "should have 2,351,923,699,311,548,792,703 numbers",
    ),
    "expanded": (
        old_file(
            TENSOR.replace(b"K\x04\x85K\x01", b"J\xff\xff\xff\x7f\x85K\x00") + b"h\x00h\x01R."
        ),
        "2,147,483,647 numbers stands for 4 stored ones",
    ),
    "no numbers": (
        old_file(
            TENSOR.replace(
                b"K\x04\x85K\x01\x85",
                b"(K\x00" + b"J\xff\xff\xff\x7f" * 20 + b"t(" + b"K\x01" * 21 + b"t",
            )
            + b"h\x00h\x01R."
        ),
        "larger than its 4 stored numbers",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_every_file_is_answered_in_time_and_memory(tmp_path):
    for title, (data, _) in ENDLESS.items():
        (tmp_path / title).write_bytes(data)
    done = run_program("answer_torch_files", tmp_path)
    answers = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert answers.keys() == ENDLESS.keys()
    for title, (_, says) in ENDLESS.items():
        assert says in answers[title], (title, answers[title])


def nested_file(depth: int) -> bytes:
    """A storage in a file, in a file..."""
    data = old_file(STORAGE + b".")
    for _ in range(depth):
        data = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(data)) + data
        data += b"\x85R."
    return data


def test_files_are_nested_once(tmp_path):
    for depth in (1, 2, 900):
        (tmp_path / f"{depth}.pkl").write_bytes(nested_file(depth))
    assert np.array_equal(torch_file.read(tmp_path / "1.pkl").value, np.zeros(4))
    assert "a file within a file within a file" in refused(tmp_path / "2.pkl")
    assert "a file within a file within a file" in refused(tmp_path / "900.pkl")


# Damage. Of every kind of file, small ones with bits flipped, bytes cut, doubled and overwritten.


def mutant(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, n = rng.randrange(len(changed)), rng.randrange(1, 9)
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice(b"\x00\x7f\x80\xff.()]}RbQts\x85\x86\x93")
            case 2:
                del changed[at : at + n]
            case 3:
                changed[at:at] = changed[at - n : at]
            case 4:
                other = rng.randrange(len(changed))
                changed[at : at + n] = changed[other : other + n]
            case 5:
                changed[at:] = changed[at:][: rng.randrange(len(changed))]
        if not changed:
            return b"\x80"
    return bytes(changed)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for title, data in files.items():
            archive.writestr(title, data)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "pickle in a zip", "old", "plain", "persistent", "numpy"])
def test_damage_is_one_line_and_takes_no_time(tmp_path, kind):
    """1,000 files of each kind, from one seed; and what is read can be printed."""
    path, rng = tmp_path / "a", random.Random(kind)
    small = {"w": torch.ones(2, 3).t(), "p": torch.nn.Parameter(torch.ones(2)), "n": [1, (2, "x")]}
    small |= {"h": torch.ones(2).to(torch.uint16), "s": {1}, "c": Call(os.getcwd), "f": 0.5}
    match kind:
        case "zip" | "pickle in a zip":
            saved(path, small)
        case "old":
            saved(path, small, OLD)
        case "plain":
            pickled(path, small | {"m": torch.nn.Linear(2, 2)})
        case "persistent":
            save_persistent(path)
        case "numpy":
            pickled(path, [np.ones((2, 3)), np.float32(1), np.array(["a"])], rng.choice((0, 2, 5)))
    data = path.read_bytes()
    files = {}
    if kind == "pickle in a zip":
        with zipfile.ZipFile(path) as archive:
            files = {title: archive.read(title) for title in archive.namelist()}
    answers = {"read": 0, "refused": 0}
    for _ in range(1000):
        if files:
            pickle_of = next(title for title in files if title.endswith("data.pkl"))
            path.write_bytes(zip_of(files | {pickle_of: mutant(files[pickle_of], rng)}))
        else:
            path.write_bytes(mutant(data, rng))
        start = time.perf_counter()
        try:
            assert repr(torch_file.read(path).value)
            answers["read"] += 1
        except TorchFileError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, repr(str(error))
            answers["refused"] += 1
        assert time.perf_counter() - start < 5
    assert answers["refused"] > 500
    assert not list(tmp_path.glob("pwned"))


def edited(path: Path, change) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def damaged(kind: str, path: Path) -> str:
    """Writes a damaged or hostile zip; returns what the refusal must say."""
    saved(path, {"a": torch.ones(30), "b": torch.ones(2, 3)})
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-20])
            return "a zip that is damaged or cut short"
        case "version":
            edited(path, lambda data: data.__setitem__(data.index(b"PK\x01\x02") + 6, 255))
            return "a zip that is damaged or cut short"
        case "disks":
            end = path.read_bytes().index(b"PK\x06\x07")
            edited(path, lambda data: data.__setitem__(end + 16, 2))
            return "a zip that is damaged or cut short.*span multiple disks"
        case "compressed":
            rezip(path, lambda title, data: (title, data), zipfile.ZIP_DEFLATED)
            return "is compressed, which torch.save never does"
        case "storage too short":
            rezip(path, lambda title, data: (title, data[:8] if "/data/1" in title else data))
            return "data/1 should hold 6 numbers of 4 bytes and has 8 bytes"
        case "storage missing":
            rezip(path, lambda title, data: (title.replace("/data/1", "/data/x"), data))
            return "data/1, which it does not hold"
        case "path traversal":
            rezip(path, lambda title, data: (title.replace("/data/1", "/data/../../../x"), data))
            return "outside the archive; refused"
        case "duplicate":
            with pytest.warns(UserWarning, match="Duplicate"):
                rezip(path, lambda title, data: (title.replace("/data/1", "/data/0"), data))
            return "two entries are named a/data/0; refused"
        case "overlapping":

            def overlap(data):  # both storages where the first one is
                first = data.index(b"a/data/0", data.index(b"PK\x01\x02")) - 46
                second = data.index(b"a/data/1", first) - 46
                data[second + 42 : second + 46] = data[first + 42 : first + 46]

            edited(path, overlap)
            return "entry a/data/. overlaps; refused"
        case "flipped bit":
            edited(path, lambda data: data.__setitem__(data.index(b"\x00\x00\x80\x3f"), 1))
            return "checksum of data/0 is wrong"
        case "escape":
            rezip(path, lambda title, data: (title.replace("/data/1", "/../\x1b[31m"), data))
            return r"named 'a/../\\x1b\[31m'"
    raise ValueError(kind)


DAMAGED = re.findall(r'^        case "(.*?)":', Path(__file__).read_text(), re.M)
DAMAGED = DAMAGED[DAMAGED.index("truncated") :]


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_zips(tmp_path, kind):
    assert re.search(damaged(kind, tmp_path / "a.pt"), refused(tmp_path / "a.pt"))


def test_an_old_file_that_is_cut_short(tmp_path):
    path = saved(tmp_path / "a.pt", {"a": torch.ones(30), "b": torch.ones(2)}, OLD)
    data = path.read_bytes()
    for n in (1, 50, 100):
        path.write_bytes(data[:-n])
        assert "is cut short; fetch the file again" in refused(path)
    path.write_bytes(data.replace(struct.pack("<q", 30), struct.pack("<q", 29)))
    assert "should have 30 numbers" in refused(path)


@pytest.mark.filterwarnings("ignore")  # such tensors are deprecated, or in beta
@pytest.mark.parametrize("how", [ZIP, OLD], ids=["zip", "old"])
def test_tensors_that_are_not_read_are_named(tmp_path, how):
    quantized = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    rows = torch.eye(3).to_sparse_csr()
    for tensor, says in (
        (quantized, "quantized|QInt8Storage"),
        (torch.eye(3).to_sparse(), "sparse tensors; save their to_dense"),
        (rows, "sparse tensors; save their to_dense"),
        (torch.empty(2, device="meta"), "device meta"),
        (torch.ones(2, dtype=torch.complex64).conj().imag, "lazily; save its clone"),
    ):
        assert re.search(says, refused(saved(tmp_path / "a.pt", [tensor], how)))


# What is given in their place.


def npz(path):
    np.savez(path, a=np.ones(2))
    path.with_name(path.name + ".npz").rename(path)


def tar(path):
    with tarfile.open(path, "w") as file:
        file.add(__file__, "a/b.pt")


def script(path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def first_tar(path):
    """PyTorch 0.1's file of one tensor of two floats: {"w": ones(2)}."""
    members = {
        "sys_info": pickle.dumps({}, 2),
        "storages": pickle.dumps(1, 2)
        + b"\x80\x02" + text(b"7") + text(b"cpu") + name("torch", "FloatStorage") + b"\x87."
        + struct.pack("<q2f", 2, 1, 1) + pickle.dumps([], 2),
        "tensors": pickle.dumps(1, 2)
        + b"\x80\x02K\x05" + text(b"7") + name("torch", "FloatTensor") + b"\x87."
        + struct.pack("<iiqqq", 1, 0, 2, 1, 0),
        "pickle": b"\x80\x02}" + text(b"w") + b"K\x05Qs.",
    }  # fmt: skip
    with tarfile.open(path, "w") as file:
        for title, data in members.items():
            info = tarfile.TarInfo(title)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


FOREIGN = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>", "an HTML page, not the file"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(99), "a NumPy array, not a PyTorch file"),
    "npz": (npz, "a NumPy .npz, not a PyTorch file"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "a safetensors file.*end with .safetensors"),
    "gguf": (b"GGUF" + bytes(99), "a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(99), "an ONNX file"),
    "tensorflow": (bytes(99) + bytes.fromhex("57fb808b247547db"), "a TensorFlow checkpoint"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "compressed; unpack it"),
    "tar": (tar, "a tar archive; unpack it and give the file in it"),
    "first tar": (first_tar, "PyTorch's first versions.*if you trust it.*weights_only=False"),
    "script": (script, "a TorchScript program; save its weights: .*jit.load"),
    "zip": (zip_of({"hello.txt": b"hello"}), "not one that torch.save wrote: it holds hello.txt"),
    "packed": (zip_of({"a/b.pth": b"x"}), "not one that torch.save wrote; unpack it and give a/b"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), r"not a PyTorch file \(it begins with b'.x89PNG"),
    "escape": (b"\x1b[31m" + bytes(99), r"not a PyTorch file \(it begins with b'.x1b"),
    "empty": (b"", "empty; fetch it again"),
    "folder": (lambda path: path.mkdir(), "a folder; give the file in it"),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named(tmp_path, kind):
    data, says = FOREIGN[kind]
    path = tmp_path / "a.pt"
    path.write_bytes(data) if isinstance(data, bytes) else data(path)
    assert re.search(says, refused(path))


@pytest.mark.parametrize("kind", ["first tar", "script"])
def test_the_advice_works(tmp_path, kind):
    """Typed as it is printed, with PyTorch; the result is read."""
    write, _ = FOREIGN[kind]
    write(tmp_path / "a.pt")
    code, old, new = re.findall(r'python -c "(.*)" (\S+) (\S+)$', refused(tmp_path / "a.pt"))[0]
    (tmp_path / "a.pt").rename(tmp_path / old)
    subprocess.run([sys.executable, "-c", code, old, new], cwd=tmp_path, check=True)
    found = torch_file.read(tmp_path / new).value
    assert np.array_equal(found["w"], np.ones(2)) if kind == "first tar" else found["weight"].size


def test_the_names_that_are_understood_are_those_of_todays_libraries():
    """Each can still be imported, so that a misspelt one is seen."""
    gone = {"torch._utils._rebuild_xla_tensor", "torch._utils._rebuild_sparse_csr_tensor"}
    for full in torch_calls.CALLS.keys() - gone - {"torch.tensor._rebuild_from_type"}:
        module, _, attribute = full.rpartition(".")
        if module.startswith("torch_utils"):
            continue
        module = module.replace("numpy.core", "numpy._core")
        __import__(module)
        assert hasattr(sys.modules[module], attribute), full

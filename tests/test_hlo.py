"""Read off the text of compiled programs: written by hand, and of a real one."""

import jax
import jax.numpy as jnp
import pytest

from pdae_jax.cost import hlo

PROGRAM = """HloModule step

%fused (x: bf16[16,64]) -> bf16[16,64] {
  %x = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %y = bf16[16,64]{1,0:T(8,128)(2,1)} exponential(%x)
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %c = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main (p: bf16[16,64], w: bf16[3,256]) -> f32[128,4] {
  %p = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[3,256]{1,0:T(8,128)(2,1)} parameter(1)
  %f = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"700"}
  %g = f32[64]{0:T(128)S(1)} fusion(%f, %f), kind=kInput, calls=%fused, backend_config={"estimated_cycles":"300"}
  %s = ((bf16[3,256]{1,0:T(8,128)(2,1)}), bf16[1,256]{1,0:T(2,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[0:1], [0:256]}
  %d = bf16[1,256]{1,0:T(2,128)(2,1)S(1)} slice-done(%s)
  %c = (bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, bf16[16,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%p)
  %cd = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} copy-done(%c)
  %r = f32[128,4]{1,0} all-reduce(f32[128,4]{1,0} %x), channel_id=1, to_apply=%sum
  %q = (f32[8]{0}, bf16[16]{0}) all-reduce-start(f32[8]{0} %y, bf16[16]{0} %z)
  %h = (bf16[16,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) all-gather-start(%p), dimensions={0}
  %hd = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather-done(%h)
  %e = (bf16[16,64]{1,0:T(8,128)(2,1)}, s32[], bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) dynamic-slice-start(%p, %i)
  ROOT %t = bf16[64]{0:T(256)} all-gather(bf16[16]{0} %w2), dimensions={0}
}
"""


INNER = """%start (k: bf16[16,64]) -> bf16[64,64] {
  %k = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %k1 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%k), channel_id=4, dimensions={0}
}

%done (l: bf16[16,64]) -> bf16[64,64] {
  %l = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %l1 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%l), channel_id=4, dimensions={0}
  ROOT %l2 = bf16[64,64]{1,0:T(8,128)(2,1)} copy(%l1)
}

%all-reduce-scatter (m: f32[64,256]) -> f32[16,256] {
  %m = f32[64,256]{1,0:T(8,128)} parameter(0)
  %m1 = f32[64,256]{1,0:T(8,128)} all-reduce(%m), channel_id=5, to_apply=%sum
  ROOT %m2 = f32[16,256]{1,0:T(8,128)} dynamic-slice(%m1, %i), dynamic_slice_sizes={16,256}
}

"""


def traffic(text):
    """Bytes that all of a program's kernels move."""
    return sum(kernel.moved for kernel in hlo.kernels(text))


def test_shapes_are_padded_to_their_tiles():
    assert hlo.arrays("bf16[16,64]{1,0:T(8,128)(2,1)S(1)}") == [(16 * 128 * 2, True)]
    assert hlo.arrays("f32[16,60,4]{1,0,2:T(8,128)}") == [(16 * 128 * 4 * 4, False)]
    assert hlo.arrays("(f32[3]{0:T(128)}, pred[])") == [(512, False), (1, False)]


def test_traffic_is_what_main_memory_sees():
    fusion, one_slice, copy = 16 * 128 * 2, 2 * 256 * 2, 16 * 128 * 2
    collectives = 128 * 4 * 4 + (32 + 32) + 256 * 2 + (16 + 64) * 128 * 2
    dynamic_slice = 8 * 128 * 2
    assert traffic(PROGRAM) == fusion + one_slice + copy + collectives + dynamic_slice


GPU = """HloModule step

%gemm (a: bf16[32,64], b: bf16[64,16]) -> bf16[32,16] {
  %a = bf16[32,64]{1,0} parameter(0)
  %b = bf16[64,16]{1,0} parameter(1)
  ROOT %d = bf16[32,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[2,8,8,3], k: bf16[5,3,3,3], g: bf16[2,8,8,5], p: bf16[32,64], q: bf16[64,16]) -> bf16[32,16] {
  %x = bf16[2,8,8,3]{3,2,1,0} parameter(0)
  %k = bf16[5,3,3,3]{3,2,1,0} parameter(1)
  %g = bf16[2,8,8,5]{3,2,1,0} parameter(2)
  %p = bf16[32,64]{1,0} parameter(3)
  %q = bf16[64,16]{1,0} parameter(4)
  %c = (bf16[2,8,8,5]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %i = (bf16[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %f = (bf16[5,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %m = bf16[32,16]{1,0} custom-call(%p, %q), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %t = bf16[32,16]{1,0} fusion(%p, %q), kind=kCustom, calls=%gemm
}
"""


def test_a_gpus_kernels_are_counted_with_their_flop_and_bytes():
    conv, dot = 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3), 2 * 32 * 16 * 64
    kernels = hlo.kernels(GPU)
    assert [kernel.flops for kernel in kernels] == [conv, conv, conv, dot, dot]
    x, k, g = 2 * 8 * 8 * 3 * 2, 5 * 3 * 3 * 3 * 2, 2 * 8 * 8 * 5 * 2
    product = (32 * 64 + 64 * 16 + 32 * 16) * 2
    assert [kernel.moved for kernel in kernels] == [x + k + g] * 3 + [product] * 2


def test_attention_of_cudnn_counts_its_products():
    """Two forward; five on the way back, of which one is made anew."""
    line = """\
  %a = (bf16[2,4,16,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"algorithm":{"algo_id":"0"},"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","4","16","16"]},"bmm1_dot_dimension_numbers":{"lhs_contracting_dimensions":["3"]}}}
"""
    back = line.replace("%a =", "%b =").replace("Softmax", "SoftmaxBackward")
    text = "ENTRY %main (q: bf16[2,16,4,8]) -> bf16[] {\n"
    text += "  %q = bf16[2,16,4,8]{3,2,1,0} parameter(0)\n" + line + back + "}\n"
    product = 2 * (2 * 4 * 16 * 16) * 8
    assert [kernel.flops for kernel in hlo.kernels(text)] == [2 * product, 5 * product]


def test_cycles_are_those_of_what_runs():
    assert hlo.cycles(PROGRAM) == 1000
    assert hlo.cycles("ENTRY %main () -> f32[] {\n}\n") is None


def test_what_is_called_runs():
    called = PROGRAM.replace("fusion(%p), kind=kLoop, calls=%fused", "call(%p), to_apply=%fused")
    called = called.replace("fusion(%f, %f), kind=kInput, calls=%fused", "negate(%f)")
    assert traffic(called) == traffic(PROGRAM) + 16 * 128 * 2  # within: read and written


def test_collectives_within_fusions():
    """One that runs beside computing counts once; a slice of an all-reduce is a reduce-scatter."""
    fused = PROGRAM.replace("ENTRY", INNER + "ENTRY").replace(
        "  ROOT %t = ",
        """\
  %u = bf16[64,64]{1,0} fusion(%p), calls=%start
  %v = bf16[64,64]{1,0} fusion(%u), calls=%done
  %o = f32[16,256]{1,0} fusion(%x), calls=%all-reduce-scatter
  ROOT %t = """,
    )
    plain, found = hlo.collectives(PROGRAM), hlo.collectives(fused)
    assert found.pop("reduce-scatter") == (1, 16 * 256 * 4)
    count, size = plain["all-gather"]
    assert found == plain | {"all-gather": (count + 1, size + 64 * 128 * 2)}


def test_collectives_by_kind():
    assert hlo.collectives(PROGRAM) == {
        "all-reduce": (2, 4 * 512 + 32 + 32),
        "all-gather": (2, 256 * 2 + 64 * 128 * 2),
    }


def test_a_real_program():
    n = 512
    text = (
        jax.jit(lambda a, b: jnp.tanh(a @ b))
        .lower(*[jax.ShapeDtypeStruct((n, n), jnp.float32)] * 2)
        .compile()
        .as_text()
    )
    matmul, tanh = 3 * n * n * 4, 2 * n * n * 4
    assert traffic(text) in (matmul, matmul + tanh)  # fused or not
    assert hlo.cycles(text) is None and not hlo.collectives(text)


@pytest.mark.parametrize("n", [2, 20])
def test_a_loops_body_counts_once(n):
    def loop(x):
        return jax.lax.fori_loop(0, n, lambda i, x: jnp.sin(x), x)

    text = jax.jit(loop).lower(jax.ShapeDtypeStruct((1 << 16,), jnp.float32)).compile().as_text()
    assert 2 * 4 << 16 <= traffic(text) < 3 * (2 * 4 << 16)

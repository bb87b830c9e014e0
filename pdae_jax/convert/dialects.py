"""Dialects: what each project calls the parts of the one UNet (`networks.unet`) in its files.

A name is a format string. {k}: the block's number on its way, as guided-diffusion counts; {level}
and {up}: its level, from the finest and from the coarsest; {place}: its number within the level;
{size} and {next}: the sides of its level's maps and of the next one's on its way; {last}: 1, or
2 behind an attention.
"""

from typing import NamedTuple


class Residual(NamedTuple):
    """The parts of a residual block, behind its own name."""

    norm_in: str
    conv_in: str
    time: str
    norm_out: str
    conv_out: str
    skip: str


class Attending(NamedTuple):
    """The parts of an attention. qkv: one layer's name, or those of three.

    axes: of the kernels, "linear" [out, in], "1d" [out, in, 1] or "2d" [out, in, 1, 1]. order: of
    one layer's channels where it is none of `Architecture.qkv_order`: "[head][c][q,k,v]".
    """

    norm: str
    qkv: tuple[str, ...]
    proj: str
    axes: str
    order: str = ""


class Dialect(NamedTuple):
    """A project's names. of: the project. down_conv, up_conv: resampling by a convolution.

    known_by: a tensor that every such UNet has, and no other dialect's.
    """

    of: str
    known_by: str
    time: tuple[str, str]
    stem: str
    down: str
    down_attention: str
    down_conv: str
    down_residual: str
    middle: tuple[str, str, str]
    up: str
    up_attention: str
    up_conv: str
    up_residual: str
    norm: str
    out: str
    residual: Residual
    attention: Attending
    classes: str = ""  # the embedding of classes, where there may be one

    @property
    def project(self) -> str:
        """The project, whichever of its dialects this is."""
        return self.of.partition(" ")[0]


GUIDED = Dialect(
    of="guided-diffusion",
    known_by="input_blocks.0.0.weight",
    time=("time_embed.0", "time_embed.2"),
    stem="input_blocks.0.0",
    down="input_blocks.{k}.0",
    down_attention="input_blocks.{k}.1",
    down_conv="input_blocks.{k}.0.op",
    down_residual="input_blocks.{k}.0",
    middle=("middle_block.0", "middle_block.1", "middle_block.2"),
    up="output_blocks.{k}.0",
    up_attention="output_blocks.{k}.1",
    up_conv="output_blocks.{k}.{last}.conv",
    up_residual="output_blocks.{k}.{last}",
    norm="out.0",
    out="out.2",
    residual=Residual(
        "in_layers.0",
        "in_layers.2",
        "emb_layers.1",
        "out_layers.0",
        "out_layers.3",
        "skip_connection",
    ),
    attention=Attending("norm", ("qkv",), "proj_out", "1d"),
    classes="label_emb",
)

DIFFUSERS = Dialect(
    of="diffusers",
    known_by="time_embedding.linear_1.weight",
    time=("time_embedding.linear_1", "time_embedding.linear_2"),
    stem="conv_in",
    down="down_blocks.{level}.resnets.{place}",
    down_attention="down_blocks.{level}.attentions.{place}",
    down_conv="down_blocks.{level}.downsamplers.0.conv",
    down_residual="down_blocks.{level}.downsamplers.0",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    up="up_blocks.{up}.resnets.{place}",
    up_attention="up_blocks.{up}.attentions.{place}",
    up_conv="up_blocks.{up}.upsamplers.0.conv",
    up_residual="up_blocks.{up}.upsamplers.0",
    norm="conv_norm_out",
    out="conv_out",
    residual=Residual("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
    attention=Attending("group_norm", ("to_q", "to_k", "to_v"), "to_out.0", "linear"),
    classes="class_embedding",
)

DDIM = Dialect(
    of="DDIM",
    known_by="temb.dense.0.weight",
    time=("temb.dense.0", "temb.dense.1"),
    stem="conv_in",
    down="down.{level}.block.{place}",
    down_attention="down.{level}.attn.{place}",
    down_conv="down.{level}.downsample.conv",
    down_residual="",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    up="up.{level}.block.{place}",
    up_attention="up.{level}.attn.{place}",
    up_conv="up.{level}.upsample.conv",
    up_residual="",
    norm="norm_out",
    out="conv_out",
    residual=Residual("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"),
    attention=Attending("norm", ("q", "k", "v"), "proj_out", "2d"),
)

MONAI = Dialect(
    of="MONAI",
    known_by="conv_in.conv.weight",
    time=("time_embed.0", "time_embed.2"),
    stem="conv_in.conv",
    down="down_blocks.{level}.resnets.{place}",
    down_attention="down_blocks.{level}.attentions.{place}",
    down_conv="down_blocks.{level}.downsampler.op.conv",
    down_residual="down_blocks.{level}.downsampler",
    middle=("middle_block.resnet_1", "middle_block.attention", "middle_block.resnet_2"),
    up="up_blocks.{up}.resnets.{place}",
    up_attention="up_blocks.{up}.attentions.{place}",
    up_conv="up_blocks.{up}.upsampler.postconv.conv",
    up_residual="up_blocks.{up}.upsampler",
    norm="out.0",
    out="out.2.conv",
    residual=Residual(
        "norm1", "conv1.conv", "time_emb_proj", "norm2", "conv2.conv", "skip_connection.conv"
    ),
    attention=Attending("norm", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.out_proj", "linear"),
    classes="class_embedding",
)

EDM = Dialect(
    of="EDM",
    known_by="map_layer0.weight",
    time=("map_layer0", "map_layer1"),
    stem="enc.{size}x{size}_conv",
    down="enc.{size}x{size}_block{place}",
    down_attention="enc.{size}x{size}_block{place}",
    down_conv="",
    down_residual="enc.{next}x{next}_down",
    middle=("dec.{size}x{size}_in0", "dec.{size}x{size}_in0", "dec.{size}x{size}_in1"),
    up="dec.{size}x{size}_block{place}",
    up_attention="dec.{size}x{size}_block{place}",
    up_conv="",
    up_residual="dec.{next}x{next}_up",
    norm="out_norm",
    out="out_conv",
    residual=Residual("norm0", "conv0", "affine", "norm1", "conv1", "skip"),
    attention=Attending("norm2", ("qkv",), "proj", "2d", "[head][c][q,k,v]"),
    classes="map_label",
)

# MONAI's with use_combined_linear.
MONAI_JOINED = MONAI._replace(
    of="MONAI (use_combined_linear)",
    attention=MONAI.attention._replace(qkv=("attn.qkv",)),
)

DIALECTS = {dialect.of: dialect for dialect in (GUIDED, DIFFUSERS, DDIM, MONAI, MONAI_JOINED, EDM)}

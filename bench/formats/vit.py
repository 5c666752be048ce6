"""Plain ViTs under timm's own names, which MAE, DeiT, DINO and MoCo v3 took over: they differ in what lies around."""

from bench.formats import IMAGENET, Format

VIT = (r"blocks\.0\.attn\.qkv\.weight$", r"patch_embed\.proj\.weight$", r"pos_embed$|cls_token$")

FORMATS = (
    Format(
        name="MAE, pretraining",
        method="mae",
        marks=(*VIT, r"decoder_embed\.weight$", r"decoder_blocks\.0\.", r"mask_token$"),
        leftover=(r"decoder_", r"mask_token$"),
        normalisation=IMAGENET,
        source="models_mae.py of MAE",
    ),
)

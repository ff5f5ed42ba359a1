"""Cost of any module: which models of timm and transformers are traced, and whether the counts are torch's and the papers'.

The survey takes the smallest model of every module of `timm.list_modules()`, on the meta device (shapes without weights), at the
first of its own size and 256, 224, 192, 160, 128 and 64 pixels at which it runs in eager; one that runs at none is listed, not
counted. The models are those whose published parameter count is smallest; modules that this table does not know use their first.
Models of transformers are built from the default configuration of their type, with two layers where that is one number.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from netwright.bench.cells import Cells, Values
from netwright.bench.claim import Claim
from netwright.core.errors import TraceError
from netwright.design.models import VARIANTS
from netwright.design.record import Failed, record
from netwright.design.trace import hollow, trace
from netwright.design.zoo import timm_model, transformers_model

BOUNDS: dict[str, tuple[str, float]] = {
    "timm_families_traced": (">=", 0.95),
    "macs_within_1pct": (">=", 1.0),
    "timm_macs_are_torchs": (">=", 1.0),
    "timm_parameters_counted": (">=", 0.95),
    "published_parameters_exact": (">=", 1.0),
    "transformers_traced": (">=", 1.0),
    "transformers_parameters_exact": (">=", 1.0),
    "transformers_macs_are_torchs": (">=", 1.0),
}
SIDES = (256, 224, 192, 160, 128, 64)
SMALLEST = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet", "cait": "cait_xxs24_224",
    "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext",
    "cpubone": "cpubone_b0_bfrobust", "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_l", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m", "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b", "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1", "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m", "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224", "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small",
    "iformer": "iformer_h", "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_base", "levit": "levit_128s",
    "lowformer": "lowformer_b0", "mambaout": "test_mambaout", "maxxvit": "maxvit_pico_rw_256", "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "mobilenetv3_small_050", "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny", "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge", "nest": "nest_tiny", "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large", "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002", "repghost": "repghostnet_050", "repvit": "repvit_m0_9", "res2net": "res2next50",
    "resnest": "resnest14d", "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100",
    "selecsls": "selecsls42", "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s", "shvit": "shvit_s1",
    "sknet": "skresnet18", "starnet": "starnet_s050", "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224", "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224", "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m", "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny",
    "vision_transformer": "test_vit", "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_rpn_224", "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224", "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception",
    "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip


ENCODERS = (
    "bert roberta distilbert albert electra deberta-v2 mpnet modernbert "
    "vit deit beit swin dinov2 convnext clip_vision_model wav2vec2"
)
DECODERS = "gpt2 gpt_neo gpt_neox opt bloom llama mistral qwen2 qwen3 gemma phi falcon olmo mixtral mamba mamba2 rwkv"
BOTH = "t5 bart pegasus marian whisper"
LARGE = 6e8  # parameters beside embeddings that are not made for a second count
UNEVEN = frozenset({"swin", "convnext", "gpt_neo"})  # whose layers are not one number


@dataclass(frozen=True)
class Published:
    """What a paper or its repository prints: parameters and MACs as texts, in millions and 10^9, at a side in pixels.

    `other` (MACs) and `other_parameters` say what a figure is where it is not what we count; it is printed and not compared.
    """

    model: str
    parameters: str
    macs: str
    side: int
    source: str
    other: str = ""
    other_parameters: str = ""


SWIN, NEXT, INCEPTION, LOW = ("Liu et al., Swin Transformer (V2), README", "Liu et al., ConvNeXt, README",
                              "Yu et al., InceptionNeXt, README", "Nottebaum et al., LowFormer, README")  # fmt: skip
PYCLS, TIMM = "pycls, dev/model_complexity.json", "timm, results of inference"
HORNET = "Rao et al., HorNet, README; the networks are ours"
PUBLISHED = (
    Published("convit_tiny", "5.71", "1.26", 224, TIMM),
    Published("convit_small", "27.78", "5.76", 224, TIMM),
    Published("convit_base", "86.54", "17.52", 224, TIMM),
    Published("hornet_tiny_7x7", "22", "4.0", 224, HORNET),
    Published("hornet_small_7x7", "50", "8.8", 224, HORNET),
    Published("nasnetalarge", "88.9", "23.8", 331, "TF-slim, NASNet-A Large, README",
              other_parameters="counts the 196,668 running statistics too; with them 88.9498"),
    Published("swin_tiny_patch4_window7_224", "28", "4.5", 224, SWIN),
    Published("swin_small_patch4_window7_224", "50", "8.7", 224, SWIN),
    Published("swin_base_patch4_window7_224", "88", "15.4", 224, SWIN),
    Published("swin_base_patch4_window12_384", "88", "47.1", 384, SWIN),
    Published("swin_large_patch4_window7_224", "197", "34.5", 224, SWIN),
    Published("swin_large_patch4_window12_384", "197", "103.9", 384, SWIN),
    Published("swinv2_tiny_window8_256", "28", "5.9", 256, SWIN),
    Published("swinv2_small_window8_256", "50", "11.5", 256, SWIN),
    Published("swinv2_base_window8_256", "88", "20.3", 256, SWIN),
    Published("convnext_tiny", "28", "4.5", 224, NEXT),
    Published("convnext_small", "50", "8.7", 224, NEXT),
    Published("convnext_base", "89", "15.4", 224, NEXT),
    Published("convnext_large", "198", "34.4", 224, NEXT),
    Published("convnext_xlarge", "350", "60.9", 224, NEXT),
    Published("inception_next_atto", "4.2", "0.51", 224, INCEPTION,
              "the figure counts more than MACs: torch's counter sees 0.5030 as we do and timm prints 0.50; with an addition for "
              "the bias of every convolution's output it is 0.5067"),
    Published("inception_next_tiny", "28", "4.2", 224, INCEPTION),
    Published("inception_next_small", "49", "8.4", 224, INCEPTION),
    Published("inception_next_base", "87", "14.9", 224, INCEPTION),
    Published("inception_next_base", "87", "43.6", 384, INCEPTION),
    Published("regnety_040", "20.646656", "3.973301", 224, PYCLS),
    Published("efficientnet_b0", "5.288548", "0.385825", 224, PYCLS),
    Published("resnet50", "25.557032", "4.089185", 224, PYCLS),
    Published("inception_v4", "42.68", "12.28", 299, TIMM),
    Published("inception_resnet_v2", "55.84", "13.18", 299, TIMM),
    Published("lowformer_b0", "14.1", "0.944", 224, LOW),
    Published("lowformer_b1", "17.9", "1.41", 224, LOW),
    Published("lowformer_b15", "33.9", "2.573", 224, LOW),
    Published("lowformer_b3", "57.1", "6.098", 224, LOW),
    Published("lowformer_e1", "", "1.35", 224, LOW),
    Published("lowformer_e2", "", "3.8", 224, LOW),
    Published("lowformer_e3", "", "5.35", 224, LOW,
              "the figure is not of the published network: torch's counter sees 4.8656 in the authors' own code too "
              "(lowformer_model.py with configs/cls/imagenet/E3.yaml, 41.317 M parameters); their other six fit"),
)  # fmt: skip


def prints_as(value: float, printed: str) -> bool:
    """A number says what was printed, to its last digit, rounded or cut off."""
    digits = len(printed.partition(".")[2])
    return printed in (f"{value:.{digits}f}", f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}")


def torch_macs(module: nn.Module, *inputs: torch.Tensor) -> float:
    """Half of the flops that torch's counter sees: convolutions, matrix products, attention."""
    module.requires_grad_(False)
    math = sdpa_kernel(SDPBackend.MATH)  # the fused one is not counted on CPUs
    with torch.no_grad(), math, FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 2


class _Fixed(TorchDispatchMode):
    """Adds up the products, by torch's own formulas, of operations that no input reaches."""

    def __init__(self, *inputs: torch.Tensor):
        super().__init__()
        self.reached, self.macs = WeakIdKeyDictionary(), 0.0
        for x in inputs:
            self.reached[x] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if any(isinstance(t, torch.Tensor) and t in self.reached for t in tree_leaves((args, kwargs))):
            written = [args[0]] if func._schema.is_mutable and args else []
            for t in tree_leaves((out, written)):
                if isinstance(t, torch.Tensor):
                    self.reached[t] = True
        elif formula := flop_registry.get(func._overloadpacket):
            self.macs += formula(*args, **kwargs, out_val=out) / 2
        return out


def fixed_macs(name: str, side: int) -> Values:
    """MACs of a timm model that torch's counter sees and that are the same for every input: tables of positions made by
    products with one-hot rows, say. A Graph computes them once."""
    module = hollow(lambda: timm_model(name)).requires_grad_(False)
    x = torch.zeros(1, 3, side, side, device="meta" if any(p.is_meta for p in module.parameters()) else "cpu")
    with torch.no_grad(), _Fixed(x) as counter:
        module(x)
    return {"macs": counter.macs}


def survey(name: str, side: int | None) -> Values:
    """Trace one model of timm; everything that the claims and the table of failures need."""
    module = hollow(lambda: timm_model(name))
    device = "meta" if any(p.is_meta for p in module.parameters()) else "cpu"
    tried = {}
    for size in dict.fromkeys([min(side or 224, 256), *SIDES]):
        x = torch.zeros(1, 3, size, size, device=device)
        try:
            macs = torch_macs(module, x)
            break
        except Exception as error:
            tried[str(size)] = (str(error).splitlines() or [type(error).__name__])[0][:160]
    else:
        return {"runs": False, "why": tried}
    found: Values = {"runs": True, "side": size, "device": device, "parameters": sum(p.numel() for p in module.parameters())}
    try:
        graph = trace(module, x)
        found |= {"traced": True, "nodes": len(graph.nodes), "counted": graph.parameters, "macs": graph.macs, "torch_macs": macs}
        found["resized"] = sum(n.macs for n in graph if n.op == "matmul" and "upsample" in n.name)
        found["unnamed"] = sorted({n.op for n in graph if "." in n.op})
    except TraceError as error:
        found |= {"traced": False, "why": str(error)}
        try:
            found["recorded_macs"] = record(module, (x,)).macs
        except Failed as failed:
            found["why"] += f" Recording failed too: {failed}"
    return found


def of_transformers(kind: str) -> Values:
    """Trace one type of transformers' models, without its weights.

    Where torch cannot run it on the meta device (some look at values to build a mask) and it is not too large, both count it
    with a vocabulary of 1,000 (whole where padding has a higher number) once more, on the CPU.
    """
    fields: dict[str, Any] = {} if kind in UNEVEN else {"num_hidden_layers": 2}
    module = hollow(lambda: transformers_model(kind, **fields))
    device = "meta" if any(p.is_meta for p in module.parameters()) else "cpu"
    inputs = tuple(x.to(device) for x in module.inputs)  # type: ignore[union-attr]
    found: Values = {"parameters": sum(p.numel() for p in module.parameters()), "unread": {}}
    try:
        graph = trace(module, inputs, counting=True)
    except TraceError as error:
        return found | {"traced": False, "why": str(error)}
    unnamed = sorted({n.op for n in graph if "." in n.op})
    found |= {"traced": True, "counted": graph.parameters, "macs": graph.macs, "nodes": len(graph.nodes), "unnamed": unnamed}
    try:
        found |= {"torch_macs": torch_macs(module, *inputs), "unread": unread(module, *inputs)}
    except Exception as error:
        found["why not on meta"] = (str(error).splitlines() or [type(error).__name__])[0][:160]
        config = module.model.config  # type: ignore[union-attr]
        if found["parameters"] - 2 * config.vocab_size * config.hidden_size < LARGE:  # type: ignore[union-attr,operator]
            small = {} if (config.pad_token_id or 0) >= 1000 else {"vocab_size": 1000}  # type: ignore[union-attr,operator]
            module = transformers_model(kind, **small, **fields)
            inputs = tuple(module.inputs)  # type: ignore[arg-type]
            found |= {"macs": trace(module, inputs, counting=True).macs, "torch_macs": torch_macs(module, *inputs)}
            found["unread"] = unread(module, *inputs)
    return found


class _Reads(TorchDispatchMode):
    """Keeps the tensors that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in tree_leaves((args, kwargs or {})):
            if isinstance(t, torch.Tensor):
                self.read[t] = True
        return func(*args, **(kwargs or {}))


def unread(module: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """Name and size of the parameters that no operation of one run reads: no output can need them."""
    with torch.no_grad(), _Reads() as reads:
        module(*inputs)
    return {name: p.numel() for name, p in module.named_parameters() if p not in reads.read}


def count(name: str, side: int) -> Values:
    """Our MACs and parameters of a network of ours or a timm model, without its weights."""
    build = VARIANTS[name].build if name in VARIANTS else partial(timm_model, name)
    graph = trace(hollow(build), torch.zeros(1, 3, side, side), counting=True)
    return {"macs": graph.macs, "parameters": graph.parameters}


@dataclass
class Costs:
    """The measurements, each giving claims; every model is a cell."""

    cells: Cells
    progress: Any = None

    @cached_property
    def versions(self) -> dict[str, str]:
        timm_model("test_vit")
        return {"timm": importlib.import_module("timm").__version__, "torch": torch.__version__}

    def families(self) -> Iterator[tuple[str, Values]]:
        """Module of timm -> what the survey found."""
        versions, timm = self.versions, importlib.import_module("timm")
        modules = timm.list_modules()
        for i, family in enumerate(modules):
            names = timm.list_models(module=family)
            if not names:
                continue
            name = SMALLEST.get(family, names[0])
            name = name if name in names else names[0]
            config = timm.get_pretrained_cfg(name, allow_unregistered=True)
            side = config.input_size[-1] if config else None
            key = {**versions, "model": name, "side": side, "recipe": 2}
            yield family, {"model": name} | self.cells.get(f"timm-{family}", key, partial(survey, name, side))
            if self.progress is not None:
                self.progress(i + 1, len(modules), "estimate: timm's families")

    def timm(self) -> Iterator[Claim]:
        found = dict(self.families())
        ran = {k: v for k, v in found.items() if v["runs"]}
        traced = {k: v for k, v in ran.items() if v["traced"]}
        facts: dict[str, Any] = {"failed": {k: f"{v['model']}: {v['why']}" for k, v in ran.items() if k not in traced},
                 "not run": {k: f"{v['model']}: {v['why']}" for k, v in found.items() if k not in ran}}  # fmt: skip
        unit = "share of the modules that run at 64 to 256 pixels"
        yield Claim("timm_families_traced", len(traced) / len(ran), unit, "counted", len(ran), None, facts)
        off, left = dict[str, float](), {"bicubic resizing, which a Graph writes as matrix products": ""}
        for k, v in traced.items():
            fixed = 0.0
            if abs((v["macs"] - v["resized"]) / v["torch_macs"] - 1) > 0.01:
                key = {**self.versions, "model": v["model"], "side": v["side"], "recipe": 1}
                fixed = self.cells.get(f"timm-{k}-fixed", key, partial(fixed_macs, v["model"], v["side"]))["macs"]
                left |= {f"{k}: products that no input reaches": f"{fixed:,.0f} MACs"} if fixed else {}
            if abs((ratio := (v["macs"] - v["resized"]) / (v["torch_macs"] - fixed)) - 1) > 0.01:
                off[k] = round(ratio, 4)
        facts = {"off": off, "left out": left}
        unit = "share within 1 % of torch's flop counter"
        yield Claim("timm_macs_are_torchs", 1 - len(off) / len(traced), unit, "counted", len(traced), None, facts)
        less = {k: v["counted"] - v["parameters"] for k, v in traced.items() if v["counted"] != v["parameters"]}
        unit = "share whose parameters are all counted; the others have some that no output needs"
        yield Claim("timm_parameters_counted", 1 - len(less) / len(traced), unit, "counted", len(traced), None, {"off": less})

    def figures(self) -> Iterator[tuple[Published, Values]]:
        """Each published figure and our count of the same network."""
        for p in PUBLISHED:
            key = {**self.versions, "model": p.model, "side": p.side, "recipe": 2}
            yield p, self.cells.get(f"published-{p.model}-{p.side}", key, partial(count, p.model, p.side))

    def published(self) -> Iterator[Claim]:
        """The printed figures of models that timm has."""
        rows = list(self.figures())
        compared = {f"{p.model} {p.side}": (v["macs"] / 1e9, p.macs) for p, v in rows if not p.other}
        off = {k: f"{found:.4f}, printed {text}" for k, (found, text) in compared.items() if abs(found / float(text) - 1) > 0.01}
        others = {f"{p.model} {p.side}": f"{v['macs'] / 1e9:.4f}, printed {p.macs}: {p.other}" for p, v in rows if p.other}
        share, facts = 1 - len(off) / len(compared), {"off": off, "left out": others}
        yield Claim("macs_within_1pct", share, "share of published figures", "counted", len(compared), None, facts)
        kept = {p.model: (v["parameters"] / 1e6, p.parameters) for p, v in rows if p.parameters and not p.other_parameters}
        off = {k: f"{found:.6f}, printed {text}" for k, (found, text) in kept.items() if not prints_as(found, text)}
        others = {p.model: f"{v['parameters'] / 1e6:.4f}, printed {p.parameters}: {p.other_parameters}"
                  for p, v in rows if p.other_parameters}  # fmt: skip
        share, facts = 1 - len(off) / len(kept), {"off": off, "left out": others}
        yield Claim("published_parameters_exact", share, "share that prints alike", "counted", len(kept), None, facts)

    def language(self) -> Iterator[Claim]:
        """Encoders, decoders and both of transformers."""
        transformers_model("bert")
        versions = {"transformers": importlib.import_module("transformers").__version__, "torch": torch.__version__}
        kinds, found = f"{ENCODERS} {DECODERS} {BOTH}".split(), dict[str, Values]()
        for i, kind in enumerate(kinds):
            key = {**versions, "kind": kind, "recipe": 2}
            found[kind] = self.cells.get(f"transformers-{kind}", key, partial(of_transformers, kind))
            if self.progress is not None:
                self.progress(i + 1, len(kinds), "estimate: transformers")
        traced = {k: v for k, v in found.items() if v["traced"]}
        failed = {k: v["why"] for k, v in found.items() if k not in traced}
        share, facts = len(traced) / len(found), {"failed": failed}
        yield Claim("transformers_traced", share, "share of the types", "counted", len(found), None, facts)
        read = {k: v["parameters"] - sum(v["unread"].values()) for k, v in traced.items()}
        less = {k: v["counted"] - read[k] for k, v in traced.items() if v["counted"] != read[k]}
        share, facts = (
            1 - len(less) / len(traced),
            {"off": less, "unread": {k: v["unread"] for k, v in traced.items() if v["unread"]}},
        )
        unit = "share whose parameters are all counted, but those that no operation reads"
        yield Claim("transformers_parameters_exact", share, unit, "counted", len(traced), None, facts)
        both = {k: v["macs"] / v["torch_macs"] for k, v in traced.items() if v.get("torch_macs")}
        off = {k: round(r, 4) for k, r in both.items() if abs(r - 1) > 0.01}
        facts = {"off": off, "not compared": {k: v["why not on meta"] for k, v in traced.items() if k not in both}}
        unit = "share within 1 % of torch's flop counter"
        yield Claim("transformers_macs_are_torchs", 1 - len(off) / len(both), unit, "counted", len(both), None, facts)

    def stages(self) -> dict[str, tuple[Callable[[], Iterator[Claim]], tuple[str, ...]]]:
        return {
            "timm's families": (self.timm, ("timm_families_traced", "timm_macs_are_torchs", "timm_parameters_counted")),
            "transformers": (
                self.language,
                ("transformers_traced", "transformers_parameters_exact", "transformers_macs_are_torchs"),
            ),
            "published figures": (self.published, ("macs_within_1pct", "published_parameters_exact")),
        }

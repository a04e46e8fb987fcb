"""Tiny random networks of every family that `wrap` should take, and what is tried with each.

The table on the page "Any network" and tests/test_models.py are both made of this.
"""

import copy

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from masktune.data.benchmark import Benchmark
from masktune.data.split import Split
from masktune.evaluation.metrics import evaluate
from masktune.methods.erm import ERM
from masktune.models.network import eval_mode
from masktune.models.probing import logits_in, probe_images
from masktune.models.wrap import wrap
from masktune.saliency.cam import cam

TINY = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2)
TINY |= dict(num_hidden_layers=3, num_labels=3)


def hf(config, model, **kw):
    "A network of transformers with random weights, from a small config"

    def make():
        import transformers

        cfg = getattr(transformers, config)(**kw)
        return getattr(transformers, model)(cfg)

    return make


def hf_tower(config, model, **kw):
    "An image classifier on the vision tower of a two-tower network"

    def make():
        import transformers

        transformers.logging.set_verbosity_error()  # of texts that are not read here
        cfg = getattr(transformers, config)(vision_config=kw, num_labels=3)
        return getattr(transformers, model)(cfg)

    return make


def tv(name, **kw):
    return lambda: getattr(torchvision.models, name)(num_classes=3, **kw)


def tm(name, **kw):
    return lambda: timm.create_model(name, num_classes=3, **kw)


class Branches(nn.Module):
    "Checks a shape, branches on the data, flattens with view, returns a dict"

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.hidden, self.fc = nn.Linear(16 * 16, 32), nn.Linear(32, 3)

    def forward(self, x):
        assert x.shape[1] == 3 and x.shape[2:] == (64, 64)
        if x.mean() > 0.5:
            x = x * 1.0
        h = self.conv2(self.conv1(x).relu()).relu()
        h = nn.functional.adaptive_avg_pool2d(h, 4)
        h = h.view(h.size(0), -1)
        return dict(embedding=h, logits=self.fc(self.hidden(h).relu()))


class Tuple(Branches):
    def forward(self, x):
        out = super().forward(x)
        return out["logits"], out["embedding"]


class Lightning(nn.Module):
    "Shaped like a LightningModule: the network inside, steps and hyperparameters around it"

    def __init__(self):
        super().__init__()
        self.model = torchvision.models.resnet18(num_classes=3)
        self.hparams = dict(lr=0.1)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, i):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class LinearHead(nn.Module):
    "A linear head on a backbone of transformers, as people build it"

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.backbone(x).pooler_output)


def ending(end):
    def make():
        return nn.Sequential(torchvision.models.resnet18(num_classes=3), end)

    return make


def small_convnext():
    return ConvNeXt(
        [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], num_classes=3
    )


def small_swin():
    return torchvision.models.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=3
    )


def small_vgg():
    plan = [8, "M", 16, "M", 24, "M", 32, "M", 32, "M"]
    return timm.models.vgg.VGG(plan, num_classes=3, mlp_ratio=1 / 64)


def small_vit():
    return torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=3)


VIT = dict(image_size=64, patch_size=16) | TINY
SWIN = dict(
    image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
    window_size=4, num_labels=3,
)  # fmt: skip
CONV = dict(hidden_sizes=[16, 32], depths=[2, 2], num_labels=3)
TOWER = {k: v for k, v in VIT.items() if k != "num_labels"}

FAMILIES = {  # family -> (how to make one, (H, W) of its images)
    "transformers ViT": (hf("ViTConfig", "ViTForImageClassification", **VIT), 64),
    "transformers DeiT": (
        hf("DeiTConfig", "DeiTForImageClassification", **VIT),
        64,
    ),
    "transformers BEiT": (
        hf("BeitConfig", "BeitForImageClassification", **VIT),
        64,
    ),
    "transformers DINOv2": (
        hf("Dinov2Config", "Dinov2ForImageClassification", **VIT),
        64,
    ),
    "transformers DINOv2 with registers": (
        hf(
            "Dinov2WithRegistersConfig",
            "Dinov2WithRegistersForImageClassification",
            **VIT,
        ),
        64,
    ),
    "transformers DINOv3, linear head": (
        lambda: LinearHead(
            hf("DINOv3ViTConfig", "DINOv3ViTModel", num_register_tokens=4, **VIT)()
        ),
        64,
    ),
    "transformers Swin": (
        hf("SwinConfig", "SwinForImageClassification", **SWIN),
        64,
    ),
    "transformers Swin v2": (
        hf("Swinv2Config", "Swinv2ForImageClassification", **SWIN),
        64,
    ),
    "transformers ConvNeXt": (
        hf(
            "ConvNextConfig",
            "ConvNextForImageClassification",
            num_stages=2,
            layer_scale_init_value=1.0,
            **CONV,
        ),
        64,
    ),
    "transformers ResNet": (
        hf(
            "ResNetConfig",
            "ResNetForImageClassification",
            embedding_size=16,
            layer_type="basic",
            **CONV,
        ),
        64,
    ),
    "transformers RegNet": (
        hf(
            "RegNetConfig",
            "RegNetForImageClassification",
            embedding_size=16,
            groups_width=8,
            **CONV,
        ),
        64,
    ),
    "transformers MobileNet v1": (
        hf(
            "MobileNetV1Config",
            "MobileNetV1ForImageClassification",
            depth_multiplier=0.25,
            num_labels=3,
        ),
        64,
    ),
    "transformers MobileNet v2": (
        hf(
            "MobileNetV2Config",
            "MobileNetV2ForImageClassification",
            depth_multiplier=0.35,
            num_labels=3,
        ),
        64,
    ),
    "transformers EfficientNet": (
        hf(
            "EfficientNetConfig",
            "EfficientNetForImageClassification",
            width_coefficient=0.25,
            depth_coefficient=0.3,
            hidden_dim=320,
            num_labels=3,
        ),
        64,
    ),
    "transformers CLIP tower": (
        hf_tower("CLIPConfig", "CLIPForImageClassification", **TOWER),
        64,
    ),
    "transformers SigLIP tower": (
        hf_tower("SiglipConfig", "SiglipForImageClassification", **TOWER),
        64,
    ),
    "transformers ViT MSN": (
        hf("ViTMSNConfig", "ViTMSNForImageClassification", **VIT),
        64,
    ),
    "transformers Data2Vec": (
        hf("Data2VecVisionConfig", "Data2VecVisionForImageClassification", **VIT),
        64,
    ),
    "transformers I-JEPA": (
        hf("IJepaConfig", "IJepaForImageClassification", **VIT),
        64,
    ),
    "transformers ConvNeXt v2": (
        hf(
            "ConvNextV2Config",
            "ConvNextV2ForImageClassification",
            num_stages=2,
            **CONV,
        ),
        64,
    ),
    "transformers BiT": (
        hf(
            "BitConfig",
            "BitForImageClassification",
            embedding_size=16,
            num_groups=4,
            **CONV,
        ),
        64,
    ),
    "transformers FocalNet": (
        hf(
            "FocalNetConfig",
            "FocalNetForImageClassification",
            image_size=64,
            embed_dim=16,
            hidden_sizes=[16, 32],
            depths=[2, 2],
            focal_levels=[2, 2],
            focal_windows=[3, 3],
            num_labels=3,
        ),
        64,
    ),
    "transformers PoolFormer": (
        hf(
            "PoolFormerConfig",
            "PoolFormerForImageClassification",
            num_labels=3,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
        ),
        64,
    ),
    "transformers SegFormer": (
        hf(
            "SegformerConfig",
            "SegformerForImageClassification",
            num_labels=3,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
        ),
        64,
    ),
    "transformers PVT": (
        hf(
            "PvtConfig",
            "PvtForImageClassification",
            image_size=64,
            num_labels=3,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
        ),
        64,
    ),
    "transformers PVT v2": (
        hf(
            "PvtV2Config",
            "PvtV2ForImageClassification",
            image_size=64,
            num_labels=3,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
        ),
        64,
    ),
    "transformers MobileViT": (
        hf(
            "MobileViTConfig",
            "MobileViTForImageClassification",
            image_size=64,
            num_labels=3,
        ),
        64,
    ),
    "transformers MobileViT v2": (
        hf(
            "MobileViTV2Config",
            "MobileViTV2ForImageClassification",
            image_size=64,
            num_labels=3,
            width_multiplier=0.5,
        ),
        64,
    ),
    "transformers CvT": (
        hf(
            "CvtConfig",
            "CvtForImageClassification",
            num_labels=3,
            embed_dim=[8, 16, 32],
            num_heads=[1, 2, 2],
            depth=[1, 2, 3],
        ),
        64,
    ),
    "transformers LeViT": (
        hf(
            "LevitConfig",
            "LevitForImageClassification",
            image_size=64,
            num_labels=3,
            hidden_sizes=[16, 32, 48],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        ),
        64,
    ),
    "transformers Hiera": (
        hf(
            "HieraConfig",
            "HieraForImageClassification",
            image_size=[64, 64],
            num_labels=3,
            embed_dim=16,
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 4, 8],
        ),
        64,
    ),
    "transformers TextNet": (
        hf(
            "TextNetConfig",
            "TextNetForImageClassification",
            image_size=[64, 64],
            num_labels=3,
        ),
        64,
    ),
    "transformers HGNet v2": (
        hf("HGNetV2Config", "HGNetV2ForImageClassification", num_labels=3),
        64,
    ),
    "transformers PP-LCNet": (
        hf(
            "PPLCNetConfig",
            "PPLCNetForImageClassification",
            num_labels=3,
            scale=0.25,
        ),
        64,
    ),
    "torchvision ResNet": (tv("resnet18"), 64),
    "torchvision DenseNet": (tv("densenet121"), 64),
    "torchvision MobileNet v3": (tv("mobilenet_v3_small"), 64),
    "torchvision EfficientNet": (tv("efficientnet_b0"), 64),
    "torchvision ConvNeXt": (small_convnext, 64),
    "torchvision Swin": (small_swin, 64),
    "torchvision ViT": (small_vit, 64),
    "torchvision ResNet, 64×96": (tv("resnet18"), (64, 96)),
    "timm ResNet": (tm("resnet10t"), 64),
    "timm VGG": (small_vgg, 64),
    "timm MobileViT": (tm("mobilevit_xxs"), 64),
    "timm DINOv3": (
        tm(
            "vit_small_patch16_dinov3",
            img_size=64,
            depth=3,
            embed_dim=48,
            num_heads=2,
        ),
        64,
    ),
    "timm ViT with registers": (
        tm("vit_tiny_patch16_224", img_size=64, depth=3, reg_tokens=4),
        64,
    ),
    "timm ConvNeXt": (tm("convnext_atto"), 64),
    "timm Swin": (
        tm(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=24,
            depths=(2, 2),
            num_heads=(2, 4),
        ),
        64,
    ),
    "branches, view, dict": (Branches, 64),
    "branches, view, tuple": (Tuple, 64),
    "like a LightningModule": (Lightning, 64),
    "DataParallel": (lambda: nn.DataParallel(tv("resnet18")()), 64),
    "torch.compile": (lambda: torch.compile(tv("resnet18")()), 64),
    "ends in softmax": (ending(nn.Softmax(1)), 64),
    "ends in log-softmax": (ending(nn.LogSoftmax(1)), 64),
}
FOREIGN = [f for f in FAMILIES if f.startswith("transformers")]


def two_heads():
    "SwiftFormer takes the mean of two heads, so no linear layer gives its logits"
    kw = dict(image_size=64, depths=[1, 1, 1, 1], embed_dims=[16, 16, 32, 32])
    kw |= dict(num_labels=3)
    return hf("SwiftFormerConfig", "SwiftFormerForImageClassification", **kw)()


class Prior(nn.Module):
    "Adds the logarithm of how frequent each class was"

    def forward(self, z):
        return z + z.new_tensor([0.5, 0.3, 0.2]).log()


REFUSED = {  # network -> (how to make one, what the sentence says)
    "transformers SwiftFormer": (two_heads, "two heads"),
    "torchvision SqueezeNet": (
        lambda: torchvision.models.squeezenet1_1(num_classes=3),
        "a linear layer that gives 3 outputs",
    ),
    "a prior after the head": (ending(Prior()), "a prior"),
    "a perceptron": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)),
        "no convolution and no attention",
    ),
    "another size": (small_vit, "refuses an image of 48×48 pixels"),
}


def refused(name) -> str:
    "The sentence that refuses a network"
    with torch.random.fork_rng(devices=[]):
        net = REFUSED[name][0]()
        try:
            wrap(net.eval(), size=48 if name == "another size" else 64)
        except ValueError as e:
            return str(e)
    return "taken"


def build(family):
    "A network of the family in evaluation mode, its weights drawn by a fixed seed"
    make, size = FAMILIES[family]
    size = (size, size) if isinstance(size, int) else size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
        for m in net.modules():
            if isinstance(m, nn.Linear) and m.out_features == 3:
                nn.init.normal_(m.weight, 0, 0.2)
    return net.eval(), size


def outputs(net, x):
    "What a foreign network gives: uncompiled, so that a test need not wait for a compiler"
    with torch.no_grad():
        return logits_in(getattr(net, "_orig_mod", net)(x))


def tiny_benchmark(size):
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (8, 4, 4):
        x = torch.randint(
            256, (n, 3, *size), generator=generator, dtype=torch.uint8
        )
        labels = torch.arange(n) % 3
        parts.append(Split.from_tensors(x, labels, class_names=["a", "b", "c"]))
    train, val, test = parts
    return Benchmark("noise", train, val, dict(test=test))


def tried(family) -> dict:
    "What was tried with one family, and how it went"
    net, size = build(family)
    plain = getattr(net, "_orig_mod", net)
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    x = probe_images(net, size, 3)
    model = wrap(net, size=size)
    with eval_mode(model), torch.no_grad():
        difference = (model(x) - outputs(net, x)).abs().max().item()
    heat = cam(model, x)
    bench = tiny_benchmark(size)
    fitted = ERM(epochs=1, batch_size=8, lr=0.01, device="cpu").fit(model, bench)
    report = evaluate(fitted, bench.tests["test"])
    unchanged = all(v.equal(before[k]) for k, v in plain.state_dict().items())
    other = copy.deepcopy(plain)
    fitted.model_.into(other)
    with eval_mode(fitted.model_), eval_mode(other), torch.no_grad():
        learned = fitted.model_.logits(x).softmax(1)
        y = outputs(other, x)
        if family != "ends in softmax":
            y = y.softmax(1)
        back = (learned - y).abs().max().item()
    moved = max((p - before[k]).abs().max() for k, p in other.state_dict().items()
                if p.is_floating_point())  # fmt: skip
    return {
        "parts": "hooks" if hasattr(model.backbone, "cut") else "torch.fx",
        "difference": difference,
        "map": "×".join(map(str, heat.shape[1:])),
        "blank maps": int((heat.amax((1, 2)) == 0).sum()),
        "extra tokens": model.n_extra_tokens,
        "finite": bool(report.predictions.logits.isfinite().all()),
        "trained": bool(moved > 0) and unchanged,
        "back": back,
    }

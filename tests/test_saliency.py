"Maps against pytorch-grad-cam, family by family; and that looking leaves no trace."

import gc

import psutil
import pytest
import pytorch_grad_cam as oracle_lib
import timm
import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from masktune.data.split import Split
from masktune.models.wrap import wrap
from masktune.models.zoo import create_model
from masktune.saliency.cam import cam
from masktune.saliency.maps import compute_maps
from masktune.training.augment import View

TEN = [str(k) for k in range(10)]
ORACLES = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
}
FAMILIES = {  # how to make it, size of the image, and the layer that ends its features
    "small_cnn": (lambda: create_model("small_cnn", 10), 28, lambda n: n.backbone),
    "resnet32": (lambda: create_model("resnet32", 10), 32, lambda n: n.backbone),
    "resnet18": (
        lambda: torchvision.models.resnet18(num_classes=10),
        96,
        lambda n: n.layer4[-1],
    ),
    "vgg_bn": (lambda: small_vgg(), 64, lambda n: n.features[-2]),
    "densenet121": (
        lambda: torchvision.models.densenet121(num_classes=10),
        64,
        None,
    ),
    "mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        96,
        lambda n: n.features[-1],
    ),
    "efficientnet_b0": (
        lambda: torchvision.models.efficientnet_b0(num_classes=10),
        96,
        lambda n: n.features[-1],
    ),
    "convnext_tiny": (
        lambda: ConvNeXt(
            [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], num_classes=10
        ),
        64,
        lambda n: n.features[-1],
    ),
    "swin_t": (
        lambda: torchvision.models.SwinTransformer(
            [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=10
        ),
        64,
        lambda n: n.permute,
    ),
    "vit_b_16": (
        lambda: torchvision.models.VisionTransformer(
            64, 16, 3, 4, 48, 96, num_classes=10
        ),
        64,
        lambda n: n.encoder.layers[-1].ln_1,
    ),
    "timm/resnet18": (
        lambda: timm.create_model("resnet18", num_classes=10),
        96,
        lambda n: n.layer4[-1],
    ),
    "timm/convnext_atto": (
        lambda: timm.create_model("convnext_atto", num_classes=10),
        96,
        lambda n: n.stages[-1],
    ),
    "timm/efficientnet_b0": (
        lambda: timm.create_model("efficientnet_b0", num_classes=10),
        96,
        lambda n: n.bn2,
    ),
    "timm/swin_tiny": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=10,
            img_size=64,
            window_size=4,
            embed_dim=24,
            depths=(2, 2),
            num_heads=(2, 4),
        ),
        64,
        lambda n: n.norm,
    ),
    "timm/vit_tiny": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", num_classes=10, img_size=96
        ),
        96,
        lambda n: n.blocks[-1].norm1,
    ),
}


def small_vgg():
    "torchvision's VGG with batch norm, few channels, and a small head"
    vgg = torchvision.models.VGG(
        torchvision.models.vgg.make_layers([16, "M", 32, "M", 64, 64, "M"], True),
        10,
    )
    vgg.avgpool, vgg.classifier = (
        nn.AdaptiveAvgPool2d(3),
        nn.Sequential(
            nn.Linear(64 * 9, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10)
        ),
    )
    return vgg


def built(name):
    "A network with random weights whose maps aren't flat: own batch statistics, no layer that starts at zero"
    make, size, layer = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
        x = nn.functional.interpolate(
            torch.rand(4, 3, 7, 7) ** 2, (size, size), mode="bicubic"
        ).clamp(0, 1)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 1.0
                nn.init.normal_(m.bias, 0.2, 0.3)
            if type(m).__name__ in ("CNBlock", "ConvNeXtBlock"):
                for p in m.parameters(recurse=False):
                    nn.init.normal_(p, 0, 0.5)
        for m in net.modules():
            if isinstance(m, nn.Linear) and m.out_features == 10:
                nn.init.normal_(m.weight, 0, 0.3)
        with torch.no_grad():
            net.train()(x)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.1
    return net.eval(), x, layer and layer(net)


def trained(net, x):
    "A few steps of training, so that the weights aren't random"
    net.train()
    opt = torch.optim.AdamW(net.parameters(), 1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3):
            nn.functional.cross_entropy(
                net(x), torch.arange(len(x)) % 10
            ).backward()
            opt.step()
            opt.zero_grad()
    return net.eval()


def scaled(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def oracle(net, x, layer, method, target, shape):
    "pytorch-grad-cam's map, scaled, before its resize"
    cls = getattr(oracle_lib, ORACLES[method])
    small = type(
        "Small", (cls,), dict(get_target_width_height=lambda self, x: shape[::-1])
    )

    def reshape(t):
        if t.ndim == 3:
            t = t[:, -shape[0] * shape[1] :].transpose(1, 2).unflatten(2, shape)
        return t if t.shape[2:] == shape else t.permute(0, 3, 1, 2)

    with small(net, [layer], reshape_transform=reshape) as explain:
        return torch.from_numpy(
            explain(
                x.clone().requires_grad_(),
                [ClassifierOutputTarget(int(k)) for k in target],
            )
        )


@pytest.mark.parametrize(
    "weights", ["trained", pytest.param("random", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_those_of_pytorch_grad_cam(family, weights):
    net, x, layer = built(family)
    if weights == "trained":
        trained(net, x)
    ours = wrap(net, size=x.shape[-1])
    if layer is None:
        net, layer = (
            ours,
            ours.backbone,
        )  # the activation is a function, not a layer: compare at our seam
    with torch.no_grad():
        assert torch.allclose(ours(x), net(x), atol=1e-5), (
            "cutting a network doesn't change what it says"
        )
    for method in ORACLES:
        each = torch.stack([cam(ours, x, method, k) for k in range(10)])
        target = each.amax((2, 3)).argmax(
            0
        )  # a class that something speaks for: a map of zeros would show nothing
        got = each[target, torch.arange(len(x))]
        if (
            method != "gradcam++"
        ):  # which divides by sums that negative features turn round
            assert got.amax((1, 2)).gt(0).all(), f"{method}: blank maps"
        assert (
            scaled(got)
            - scaled(oracle(net, x, layer, method, target, tuple(got.shape[1:])))
        ).abs().max() < 1e-4, method


@pytest.mark.parametrize("method", ["eigencam", "hirescam", "scorecam"])
@pytest.mark.parametrize("family", ["small_cnn", "timm/vit_tiny"])
def test_other_methods_by_name(family, method):
    net, x, layer = built(family)
    maps = cam(net, x, method)
    assert maps.shape == cam(net, x).shape and maps.min() >= 0 and maps.max() > 0


def test_the_target_can_be_given():
    net, x, _ = built("resnet18")
    predicted = net(x).argmax(1)
    assert cam(net, x, target=predicted).equal(cam(net, x)) and not cam(
        net, x, target=(predicted + 1) % 10
    ).equal(cam(net, x))
    split = Split.from_tensors(
        (x * 255).byte(), ((predicted + 1) % 10).tolist(), class_names=TEN
    )
    by_label, by_class = (
        compute_maps(net, split, target="label"),
        compute_maps(net, split, target=3),
    )
    assert not by_label.values.equal(
        compute_maps(net, split).values
    ) and not by_class.values.equal(by_label.values)
    with pytest.raises(
        ValueError, match="target='labels' is not known. Did you mean 'label'"
    ):
        compute_maps(net, split, target="labels")


@pytest.mark.parametrize("method", ["xgradcam", "eigencam"])
@pytest.mark.parametrize("family", ["small_cnn", "resnet18", "timm/vit_tiny"])
def test_looking_leaves_no_trace(family, method):
    net, x, _ = built(family)
    net.train()
    next(net.children()).eval()
    first = next(net.parameters())
    first.requires_grad_(False)
    last = list(net.parameters())[-1]
    last.grad = torch.ones_like(last)
    before = [
        (
            m.training,
            len(m._forward_hooks),
            len(m._backward_hooks),
            len(m._forward_pre_hooks),
        )
        for m in net.modules()
    ]
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    cam(net, x, method)
    with pytest.raises(ValueError):
        cam(net, x, method, target=99)
    assert [
        (
            m.training,
            len(m._forward_hooks),
            len(m._backward_hooks),
            len(m._forward_pre_hooks),
        )
        for m in net.modules()
    ] == before
    assert (
        all(p.grad is None for p in net.parameters() if p is not last)
        and last.grad.eq(1).all()
    )
    assert not first.requires_grad and last.requires_grad
    assert all(v.equal(weights[k]) for k, v in net.state_dict().items()), (
        "batch statistics included"
    )


def test_under_no_grad_inference_mode_and_autocast():
    net, x, _ = built("small_cnn")
    plain = cam(net, x)
    with torch.no_grad():
        assert cam(net, x).equal(plain)
    with torch.inference_mode():
        assert cam(net, x.clone()).equal(plain)
    with torch.autocast("cpu", torch.bfloat16):
        rough = cam(net, x)
        assert (
            rough.dtype == torch.float32
            and 0 < (scaled(rough) - scaled(plain)).abs().max() < 0.2
        )
    assert cam(net.double(), x.double()).dtype == torch.float64, (
        "the model's own precision"
    )


@pytest.mark.slow
def test_under_compile():
    net, x, _ = built("small_cnn")
    assert torch.allclose(cam(torch.compile(net), x), cam(net, x), atol=1e-6)


def tiny(*layers, size):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(
            nn.Sequential(*(make(*args) for make, *args in layers)), size=size
        )


def test_memory_does_not_grow():
    net = tiny(
        (nn.Conv2d, 3, 4, 3),
        (nn.ReLU,),
        (nn.AdaptiveAvgPool2d, 1),
        (nn.Flatten,),
        (nn.Linear, 4, 2),
        size=8,
    )
    mlp = tiny(
        (nn.Conv2d, 3, 4, 3), (nn.ReLU,), (nn.Flatten,), (nn.Linear, 144, 2), size=8
    )
    x = torch.zeros(2, 3, 8, 8)

    def used():
        gc.collect()
        return psutil.Process().memory_info().rss

    for _ in range(200):
        cam(net, x)
        cam(mlp, x)
    before = used()
    for _ in range(1500):
        cam(net, x)
        cam(mlp, x)
    assert used() - before < 6e6


def test_maps_of_a_split(tmp_path, monkeypatch):
    net, _, _ = built("small_cnn")
    g = torch.Generator().manual_seed(0)
    split = Split.from_tensors(
        torch.randint(256, (1000, 3, 28, 28), generator=g, dtype=torch.uint8),
        [0] * 1000,
        class_names=TEN,
    )
    whole = compute_maps(net, split, batch_size=64)
    assert torch.allclose(
        whole.values.float(), scaled(cam(net, split.images / 255)), atol=2e-3
    )
    assert (whole.correct == (net(split.images / 255).argmax(1) == 0)).all()
    whole.save(tmp_path / "maps")
    assert (tmp_path / "maps").stat().st_size / 1000 < 140, (
        "64 places: 128 bytes an image and little else"
    )

    import masktune.saliency.maps as module

    real, calls = module._maps_and_logits, []

    def stopped(*a, **kw):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*a, **kw)

    monkeypatch.setattr(module, "_maps_and_logits", stopped)
    with pytest.raises(KeyboardInterrupt):
        compute_maps(net, split, batch_size=64, file=tmp_path / "resumed")
    part = (tmp_path / "resumed.part").read_bytes()
    assert (tmp_path / "resumed.part").exists() and not (
        tmp_path / "resumed"
    ).exists()
    resumed = compute_maps(net, split, batch_size=64, file=tmp_path / "resumed")
    assert (
        len(calls) < 16 + 9
        and resumed.values.equal(whole.values)
        and not (tmp_path / "resumed.part").exists()
    )
    for size in (
        48,
        100,
        600,
    ):  # another batch size goes on after the whole batches of that size; here 600 images were not reached
        (tmp_path / f"{size}.part").write_bytes(part)
        other = compute_maps(
            net, split, batch_size=size, file=tmp_path / str(size)
        ).values
        assert len(other) == len(whole) and torch.allclose(
            other.float(), whole.values.float(), atol=2e-3
        )
    whole.save(tmp_path / "done.part")
    assert compute_maps(
        net, split, batch_size=7, file=tmp_path / "done"
    ).values.equal(whole.values), "nothing was left to do"
    (tmp_path / "resumed").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        compute_maps(net, split, file=tmp_path / "resumed")


def test_seven_by_seven_maps_take_98_bytes(tmp_path):
    split = Split.from_tensors(
        torch.zeros(2000, 3, 28, 28, dtype=torch.uint8),
        [0] * 2000,
        class_names=["a", "b"],
    )
    net = tiny(
        (nn.Conv2d, 3, 4, 4, 4),
        (nn.ReLU,),
        (nn.AdaptiveAvgPool2d, 1),
        (nn.Flatten,),
        (nn.Linear, 4, 2),
        size=28,
    )
    compute_maps(net, split).save(tmp_path / "maps")
    assert (tmp_path / "maps").stat().st_size / 2000 <= 120


def test_masks_of_a_view_lie_where_the_view_was():
    "A bright spot, seen through a resized and cropped view, is hidden in the picture itself"
    net = tiny(
        (nn.Conv2d, 3, 1, 8, 8),
        (nn.ReLU,),
        (nn.AdaptiveAvgPool2d, 1),
        (nn.Flatten,),
        (nn.Linear, 1, 2),
        size=56,
    )
    with torch.no_grad():
        net.backbone.get_submodule("0").bias.zero_()
        net.backbone.get_submodule("0").weight.fill_(1.0)
        net.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net.head.bias.zero_()
    image = torch.zeros(1, 3, 80, 100, dtype=torch.uint8)
    image[:, :, 30:42, 60:72] = 255
    split = Split.from_tensors(image, [0], class_names=["a", "b"])
    maps = compute_maps(net, split, view=View(crop=56, resize=64))
    hidden = maps.masks(top_fraction=0.1)[torch.tensor([0])][0]
    assert maps.box == view_box(80, 100) and hidden.shape == (80, 100)
    assert hidden[30:42, 60:72].float().mean() > 0.9 and hidden.sum() < 4 * 144


def view_box(H, W):
    return View(crop=56, resize=64).box(H, W)


def test_families_that_cannot_be_cut_say_so():
    with torch.random.fork_rng(devices=[]):
        squeeze = torchvision.models.squeezenet1_1()
    with pytest.raises(
        ValueError, match="a linear layer that gives 1000 outputs.*Name them"
    ):
        wrap(squeeze, size=64)
    with pytest.raises(
        ValueError, match="refuses an image of 32×32 pixels; name the size"
    ):
        tiny(
            (nn.Conv2d, 3, 4, 3),
            (nn.ReLU,),
            (nn.Flatten,),
            (nn.Linear, 144, 2),
            size=32,
        )


def test_lower_precision_says_how_many_mask_pixels_agree():
    net, x, _ = built("small_cnn")
    split = Split.from_tensors((x * 255).byte(), [0] * len(x), class_names=TEN)
    rough, exact = (
        compute_maps(net, split, bf16=True),
        compute_maps(net, split, bf16=False),
    )
    agree = (
        (rough.masks()[torch.arange(4)] == exact.masks()[torch.arange(4)])
        .float()
        .mean()
        .item()
    )
    assert (
        exact.agreement > 0.9999
        and 0.9 < rough.agreement < 1
        and abs(rough.agreement - agree) < 1e-3
    )
    assert "of mask pixels agree with full precision" in rough._repr_markdown_()

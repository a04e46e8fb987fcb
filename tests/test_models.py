"Networks of every family: taken apart, looked at, trained, and the way back; files of other programs."

import copy
import json

import families
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from masktune.auditing.audit import audit
from masktune.auditing.folder import load_network
from masktune.core.files import fingerprint
from masktune.core.random import make_generator
from masktune.data.benchmark import Benchmark
from masktune.data.resize import resize_like
from masktune.data.split import Split
from masktune.evaluation.features import extract_features
from masktune.evaluation.metrics import evaluate, predict
from masktune.methods.erm import ERM
from masktune.methods.last_layer import LastLayerRetraining
from masktune.methods.masktune import MaskTune
from masktune.models.network import Network, eval_mode
from masktune.models.probing import read_processor
from masktune.models.wrap import as_network, use_channels_last, wrap
from masktune.models.zoo import (
    _images_of_weights,
    create_model,
    load_model,
    save_model,
)
from masktune.plots.browser import Browser
from masktune.saliency.cam import cam
from masktune.saliency.maps import SaliencyMaps, compute_maps
from masktune.saliency.writing import write_maps


@pytest.mark.parametrize("family", families.FAMILIES)
def test_family(family):
    if family in families.FOREIGN:
        pytest.importorskip("transformers")
    found = families.tried(family)
    assert found["difference"] < 1e-4, "wrap(net)(x) equals net(x)"
    assert found["back"] < 1e-4, "the user's network gives what was learned"
    assert found["finite"] and found["trained"]
    tokens = {"DeiT": 2, "registers": 5, "DINOv3": 5, " ViT": 1, "Swin": 0}
    for name, n in tokens.items():
        if name in family and not (name == " ViT" and "registers" in family):
            assert found["extra tokens"] == n
            break
    h, w = map(int, found["map"].split("×"))
    assert min(h, w) >= 2 and (h == w or family.endswith("64×96"))


@pytest.mark.parametrize("name", families.REFUSED)
def test_what_cannot_be_taken_apart_is_refused(name):
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    assert families.REFUSED[name][1] in families.refused(name)


@pytest.mark.parametrize("n_registers", [0, 1, 4, 5, 8])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (64, 96), (224, 224)])
def test_register_tokens_are_counted(n_registers, size):
    "Of a class token and n registers nothing is left in the map, whatever the size"
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=3,
            img_size=size,
            depth=1,
            reg_tokens=n_registers,
        )
    assert wrap(net, size=size).n_extra_tokens == 1 + n_registers
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert cam(net, x).shape[1:] == (size[0] // 16, size[1] // 16)


def small(n_outputs=3, end=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_outputs)]
        return nn.Sequential(*layers, *([end] if end else []))


def images(n=6, size=(24, 24)):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, *size), generator=generator, dtype=torch.uint8)


def split(n_classes=3, size=(24, 24), n=6):
    names = [str(k) for k in range(n_classes)]
    labels = torch.arange(n) % n_classes
    return Split.from_tensors(images(n, size), labels, class_names=names)


class Act(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


def test_what_follows_the_head():
    x = images() / 255
    for end in (
        nn.Softmax(1),
        nn.LogSoftmax(1),
        Act(lambda z: z / 3),
        nn.Sigmoid(),
    ):
        net = small(end=end).eval()
        model = wrap(net, size=24)
        assert torch.allclose(model(x), net(x), atol=1e-5), end
        assert model.logits(x).argmax(1).equal(net(x).argmax(1))
    net = small(end=nn.Softmax(1)).eval()
    assert torch.allclose(
        predict(net, x).probabilities.float(), net(x), atol=1e-5
    ), "probabilities are those of the network, not their softmax"
    for wrong in (
        lambda z: -z,
        lambda z: z.flip(1),
        lambda z: z + torch.tensor([1.0, 0, 0]),
        lambda z: torch.where(torch.tensor([True, True, False]), z, -1e9),
    ):
        with pytest.raises(ValueError, match="changes the order or the meaning"):
            wrap(small(end=Act(wrong)), size=24)


@pytest.mark.parametrize("end", [None, nn.Sigmoid(), Act(lambda z: z[:, 0])])
def test_one_logit_is_two_classes_everywhere(end):
    net, two = small(1, end).eval(), split(2)
    x = two.images / 255
    z = small(1).eval()(x)[:, 0]
    model = wrap(net, size=24)
    assert model.n_classes == 2
    assert torch.allclose(model(x).softmax(1)[:, 1], z.sigmoid(), atol=1e-6)
    assert predict(net, two).predicted.equal((z > 0).long())
    right = ((z > 0).long() == two.labels).double().mean().item()
    assert evaluate(net, two).accuracy == right
    assert (compute_maps(net, two).correct == ((z > 0).long() == two.labels)).all()
    assert cam(net, x, target=0).shape == (6, 9, 9)
    bench = families.tiny_benchmark((24, 24))
    parts = [split(2, n=n) for n in (8, 4, 4)]
    bench = type(bench)("two", parts[0], parts[1], dict(test=parts[2]))
    fitted = ERM(epochs=1, batch_size=8, device="cpu").fit(net, bench)
    back = fitted.into(copy.deepcopy(net)).eval()
    y = back(x).flatten()
    y = y if isinstance(end, nn.Sigmoid) else y.sigmoid()
    assert torch.allclose(
        predict(fitted, x).probabilities[:, 1].float(), y, atol=1e-5
    )
    head = nn.utils.skip_init(nn.Linear, 4, 1)
    with pytest.raises(ValueError, match="has one output"):
        Network(nn.Identity(), nn.Identity(), head)


def test_the_number_of_classes_is_checked():
    net = wrap(small(3), size=24)
    for ask in (predict, evaluate, compute_maps):
        with pytest.raises(ValueError, match="3 outputs, the data 5 classes"):
            ask(net, split(5))
    for ask in (evaluate, compute_maps):
        with pytest.raises(ValueError, match="3 outputs, the data 2 classes"):
            ask(net, split(2))


def test_nothing_comes_of_a_network_that_diverged():
    net = wrap(small(3), size=24)
    with torch.no_grad():
        net.head.bias[1] = float("nan")
    for ask in (predict, evaluate, compute_maps):
        with pytest.raises(ValueError, match="not finite"):
            ask(net, split())


def test_every_entry_takes_the_same_values():
    net, x = create_model("small_cnn", 3), images(4)
    logits, heat = predict(net, x).logits, cam(net, x)
    assert heat.amax() > 0
    for same in (x / 255, x.double() / 255, x.numpy(), x.numpy() / 255):
        assert torch.allclose(predict(net, same).logits, logits, atol=1e-5)
        assert torch.allclose(cam(net, same), heat, atol=1e-5)
    not_finite = x / 255 * float("nan")
    wrong = {
        "look normalised": (x / 255 - 0.45) / 0.22,
        "look like bytes": x.float(),
        "not torch.int64": x.long(),
        "channels come last": x.permute(0, 2, 3, 1),
        "a dimension is missing": x[0],
        "the list": [Image.new("RGB", (24, 24))],
        "not finite": not_finite,
    }
    for says, values in wrong.items():
        for ask in (predict, cam):
            with pytest.raises((ValueError, TypeError), match=says):
                ask(net, values)
    for ask in (evaluate, compute_maps):
        with pytest.raises(TypeError, match="split must be Split, not the Tensor"):
            ask(net, x)


@pytest.mark.parametrize(
    "family", ["branches, view, dict", "torchvision ResNet, 64×96"]
)
def test_sizes_in_every_entry(family):
    net, size = families.build(family)
    data = split(3, size)
    expected = families.outputs(net, data.images / 255)
    assert torch.allclose(predict(net, data).logits, expected, atol=1e-5)
    assert evaluate(net, data).accuracy == predict(net, data).accuracy
    maps = compute_maps(net, data)
    assert maps.size == size
    heat = cam(net, data.images)
    assert maps.values.shape == heat.shape
    if size[0] == size[1]:
        with pytest.raises(ValueError, match="refuses an image of 32×32 pixels"):
            predict(net, images(2, (32, 32)))


class Wide(families.Branches):
    "Takes 48×64 pixels, and nothing else"

    def forward(self, x):
        assert x.shape[2:] == (48, 64)
        h = self.conv2(self.conv1(x).relu()).relu()
        h = nn.functional.adaptive_avg_pool2d(h, 4).flatten(1)
        return self.fc(self.hidden(h).relu())


@pytest.mark.parametrize(
    "end",
    [
        lambda z: -z,
        lambda z: z + z.new_tensor([0.5, 0.3, 0.2]).log(),
        lambda z: z[:, [1, 0, 2]],
        lambda z: z.masked_fill(torch.tensor([False, True, False]), -1e4),
        lambda z: z.clamp(-10, 10),
        lambda z: 10 * torch.tanh(z / 10),
        lambda z: z.relu(),
        lambda z: nn.functional.normalize(z),
        lambda z: z**3,
    ],
    ids="negated prior order mask limit tanh relu unit cube".split(),
)
def test_an_end_that_changes_the_answer_is_refused(end):
    with pytest.raises(ValueError, match="changes the order or the meaning"):
        wrap(small(end=Act(end)).eval(), size=24)


def test_one_size_that_is_not_square_from_end_to_end(tmp_path):
    size = (48, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Wide().eval()
    bench = families.tiny_benchmark(size)
    data = bench.tests["test"]
    features = extract_features(net, data)
    x = data.images / 255
    assert features.values.shape == (4, 32)
    fitted = MaskTune(device="cpu", batch_size=4).fit(wrap(net, size=size), bench)
    refit = LastLayerRetraining().fit(fitted, bench)
    expected = refit.model_.eval()(x)
    assert torch.allclose(refit.into(net)(x), expected, atol=1e-5)
    table = write_maps(net, data, tmp_path, others={"MaskTune": fitted})
    assert Image.open(tmp_path / "overlays" / "0.png").size == (64, 48)
    assert table["hottest column"].max() < 64 > 48 > table["hottest row"].max()
    right = evaluate(fitted, data).predictions.correct
    assert table["MaskTune is right"].tolist() == right.tolist()
    assert len(audit(net, split(3, size, 30)).table)


def test_a_fitted_method_is_taken_wherever_a_network_is():
    bench = families.tiny_benchmark((24, 24))
    fitted = ERM(epochs=1, batch_size=8, device="cpu").fit(small(), bench)
    data, net = bench.tests["test"], fitted.model_
    assert predict(fitted, data).logits.equal(predict(net, data).logits)
    assert evaluate(fitted, data).accuracy == evaluate(net, data).accuracy
    assert cam(fitted, data.images).equal(cam(net, data.images))
    assert compute_maps(fitted, data).values.equal(compute_maps(net, data).values)
    assert as_network(fitted) is net
    Browser(data, {"fitted": fitted})
    with pytest.raises(ValueError, match="has not been fitted yet"):
        predict(ERM(), data)


class View(nn.Module):
    "Feature maps are flattened with view, which channels_last does not survive"

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2), nn.Linear(4 * 121, 3)

    def forward(self, x):
        h = self.conv(x).relu()
        return self.fc(h.view(len(h), -1))


def test_a_view_of_features_survives():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = View().eval()
    data = split()
    expected = cam(net, data.images)
    maps = compute_maps(net, data)
    assert maps.agreement == 1 and maps.values.shape == expected.shape
    model = copy.deepcopy(wrap(net, size=24))
    assert not use_channels_last(model, (24, 24)) and not model.allows_channels_last
    x = (data.images / 255).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(x), net(data.images / 255), atol=1e-6)
    assert use_channels_last(copy.deepcopy(wrap(small(), size=24)), (24, 24))
    parts = [split(n=n) for n in (8, 4, 4)]
    bench = families.tiny_benchmark((24, 24))
    bench = type(bench)("view", parts[0], parts[1], dict(test=parts[2]))
    ERM(epochs=1, batch_size=8, device="cpu").fit(net, bench)


class Counting(nn.Module):
    "Counts the images that a layer works on"

    def __init__(self, layer):
        super().__init__()
        self.layer, self.n = layer, 0

    def forward(self, x):
        self.n += len(x)
        return self.layer(x)


def test_maps_cost_one_pass_of_the_backbone():
    "Whichever way a network was taken apart, what is before the cut runs once for each image"
    for family in ("branches, view, dict", "torchvision ResNet"):
        net, size = families.build(family)
        net.conv1 = seen = Counting(net.conv1)
        model, before = wrap(net, size=size), seen.n
        cam(model, images(16, size))
        assert seen.n - before <= 16 + 1, "a black image may be looked at once"


def test_layers_can_be_named():
    net, _ = families.build("torchvision ResNet")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for layer, shape in (("layer3", (4, 4)), ("layer4.1.conv2", (2, 2))):
        model = wrap(net, size=64, layer=layer, head="fc")
        assert torch.allclose(model(x), net(x), atol=1e-5)
        assert cam(model, x).shape[1:] == shape
    with pytest.raises(ValueError, match=r"Layers with maps or tokens: layer4"):
        wrap(net, size=64, layer="layer9")
    with pytest.raises(ValueError, match="conv1 is not a linear layer"):
        wrap(net, size=64, head="conv1")


def test_looking_through_hooks_leaves_no_trace():
    net, size = families.build("branches, view, dict")
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    cam(net, images(3, size))
    assert net.training and all(p.grad is None for p in net.parameters())
    for m in net.modules():
        assert not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
        assert "forward" not in vars(m)
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())


def test_how_much_a_rule_would_hide():
    values = torch.zeros(4, 2, 2, dtype=torch.half)
    values[1, 0, 0] = values[2] = 1.0
    values[3] = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    maps = SaliencyMaps(values, torch.ones(4).bool(), (8, 8), {})
    none, half = maps.masks(n_std=3.0), maps.masks(top_fraction=0.25)
    assert maps.n_blank == 1 and none.n_blank == 4 and none.masked_fraction() == 0
    assert half.n_blank == 1 and half.hidden_pixels()[0] == 0
    assert half.masked_fraction() == half[torch.arange(4)].float().mean().item()


# --- files -----------------------------------------------------------------------------


def same(a, b, x):
    with eval_mode(a), eval_mode(b), torch.no_grad():
        return torch.allclose(a(x), b(x), atol=1e-5)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."]
)
@pytest.mark.parametrize("entry", [None, "state_dict", "model"])
def test_state_dicts_under_any_name(tmp_path, prefix, entry):
    net = small()
    weights = {prefix + k: v for k, v in net.state_dict().items()}
    torch.save(
        {entry: weights, "epoch": 3} if entry else weights, tmp_path / "a.pt"
    )
    other = small()
    nn.init.zeros_(other[0].weight)
    loaded = load_model(tmp_path / "a.pt", network=wrapped_at_24(other))
    assert fingerprint(other) == fingerprint(net) and not loaded.training


def wrapped_at_24(net):
    net.image_size = 24
    return net


def test_state_dicts_of_torchvision_by_name(tmp_path):
    with torch.random.fork_rng(devices=[]):
        net = torchvision.models.resnet18(num_classes=4)
    torch.save(net.state_dict(), tmp_path / "r18.pt")
    loaded = load_model(tmp_path / "r18.pt", network="resnet18")
    assert loaded.n_classes == 4 and loaded.mean is not None
    loaded.mean = loaded.std = None
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert same(loaded, net, x)
    with pytest.raises(
        ValueError, match="does not fit resnet34, .* tensors differ"
    ):
        load_model(tmp_path / "r18.pt", network="resnet34")
    with pytest.raises(ValueError, match="does not say of which network"):
        load_model(tmp_path / "r18.pt")


def test_lightning_checkpoints(tmp_path):
    lightning, _ = families.build("like a LightningModule")
    kept = {"state_dict": lightning.state_dict(), "epoch": 1, "global_step": 9}
    kept |= {"pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}}
    torch.save(kept, tmp_path / "last.ckpt")
    inner, _ = families.build("torchvision ResNet")
    load_model(tmp_path / "last.ckpt", network=inner)
    assert inner.state_dict()["fc.weight"].equal(lightning.model.fc.weight)


def test_safetensors(tmp_path):
    st = pytest.importorskip("safetensors.torch")
    net = create_model("small_cnn", 3)
    save_model(net, tmp_path / "a.safetensors")
    save_model(net, tmp_path / "b.bin", format="safetensors")
    assert fingerprint(load_model(tmp_path / "a.safetensors")) == fingerprint(net)
    assert (
        st.load((tmp_path / "b.bin").read_bytes()).keys() == net.state_dict().keys()
    )
    plain = small()
    st.save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    other = wrapped_at_24(small())
    nn.init.zeros_(other[0].weight)
    load_model(tmp_path / "plain.safetensors", network=other)
    assert other[0].weight.equal(plain[0].weight)


@pytest.mark.parametrize("family", ["transformers ViT", "transformers ResNet"])
def test_save_pretrained_there_and_back(tmp_path, family):
    pytest.importorskip("transformers")
    net, size = families.build(family)
    net.save_pretrained(tmp_path / "net")
    processor = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3, do_normalize=True)
    processor |= dict(size={"height": 64, "width": 64})
    (tmp_path / "net" / "preprocessor_config.json").write_text(
        json.dumps(processor)
    )
    model = load_model(tmp_path / "net")
    assert (
        model.preprocessing["size"] == (64, 64) and model.std.flatten()[0] == 0.25
    )
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        model(x), families.outputs(net, (x - 0.5) / 0.25), atol=1e-5
    )
    bench = families.tiny_benchmark(size)
    fitted = ERM(epochs=1, batch_size=8, device="cpu").fit(model, bench)
    fitted.into(net).save_pretrained(tmp_path / "tuned")
    again = type(net).from_pretrained(tmp_path / "tuned", local_files_only=True)
    expected = fitted.model_.eval()(x)
    assert torch.allclose(
        families.outputs(again.eval(), (x - 0.5) / 0.25), expected, atol=1e-5
    )


def test_a_saved_folder_may_be_named_by_its_weights(tmp_path):
    pytest.importorskip("transformers")
    net, size = families.build("transformers ViT")
    net.save_pretrained(tmp_path / "one")
    net.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    index = tmp_path / "many" / "model.safetensors.index.json"
    assert index.is_file()
    for path in (tmp_path / "one" / "model.safetensors", index, index.parent):
        with pytest.warns(UserWarning, match="images are not normalised"):
            model = load_model(path)
        assert torch.allclose(model(x), families.outputs(net, x), atol=1e-5)
    other = families.build("transformers ViT")[0]
    with torch.no_grad():
        other.classifier.weight.zero_()
    load_model(tmp_path / "one" / "model.safetensors", network=other)
    assert other.classifier.weight.equal(net.classifier.weight), "filled as asked"


def test_the_state_dict_of_a_wrapped_network_by_name(tmp_path):
    model = create_model("resnet18", 3, mean=[0.4] * 3, std=[0.2] * 3)
    torch.save(model.state_dict(), tmp_path / "wrapped.pt")
    loaded = load_model(tmp_path / "wrapped.pt", network="resnet18")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), model.eval()(x)) and not loaded.untrained


def test_audit_takes_a_plain_state_dict(tmp_path):
    with torch.random.fork_rng(devices=[]):
        net = torchvision.models.resnet18(num_classes=3)
    torch.save(dict(model=net.state_dict()), tmp_path / "r18.pt")
    loaded = load_network(3, tmp_path / "r18.pt", "resnet18")
    assert loaded.head.weight.equal(net.fc.weight)
    with pytest.raises(ValueError, match="does not say of which network"):
        load_network(3, tmp_path / "r18.pt")


@pytest.fixture
def classifier():
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self, n_classes=3, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.model = small(n_classes)

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, i):
            return nn.functional.cross_entropy(self(batch[0] / 255), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.lr)

    return Classifier


def lightning_checkpoint(module, file):
    "Train `module` for one epoch with Lightning and save what it saves"
    import lightning

    quiet = dict(enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        default_root_dir=file.parent,
        **quiet,
    )
    data = torch.utils.data.TensorDataset(images(12), torch.arange(12) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(module, loader)
    trainer.save_checkpoint(file)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_lightning_modules_and_their_checkpoints(tmp_path, classifier):
    module, x = classifier(), images() / 255
    before = module.model[0].weight.detach().clone()
    lightning_checkpoint(module, tmp_path / "last.ckpt")
    assert not module.model[0].weight.equal(before), "Lightning trained it"
    module.eval()
    expected = module(x).detach()
    assert torch.allclose(wrap(module, size=24)(x), expected, atol=1e-5)
    for network in (classifier(), small()):
        model = load_model(tmp_path / "last.ckpt", network=network)
        assert torch.allclose(model(x), expected, atol=1e-5)
    with pytest.raises(
        ValueError, match="does not fit Classifier.*model.6.bias is"
    ):
        load_model(tmp_path / "last.ckpt", network=classifier(n_classes=4))
    bench = Benchmark("noise", split(n=12), split(), dict(test=split()))
    fitted = ERM(epochs=1, batch_size=4, device="cpu").fit(module, bench)
    assert torch.equal(module(x), expected), "fit changes nothing that it is given"
    assert fitted.into(module) is module
    learned = fitted.model_.eval()(x)
    assert not torch.allclose(learned, expected)
    assert torch.allclose(module.eval()(x), learned, atol=1e-5)


def test_no_file_makes_anything_be_fetched(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("something would be fetched")

    monkeypatch.setattr(timm, "create_model", forbidden)
    monkeypatch.setattr(torchvision.models, "get_model", forbidden)
    weights = create_model("small_cnn", 2).state_dict()
    for name in ("timm/hf-hub:a/b", "hf_hub:a/b", "timm/local-dir:/etc", 3, None):
        source = dict(name=name, n_classes=2, mean=None, std=None)
        kept = dict(format="masktune network", source=source, fresh=False)
        torch.save(kept | dict(weights=weights), tmp_path / "hostile.pt")
        with pytest.raises(ValueError, match="a file may not choose"):
            load_model(tmp_path / "hostile.pt")
    source = dict(name="small_cnn", n_classes=2, pretrained=True)
    kept = dict(
        format="masktune network", source=source, fresh=False, weights=weights
    )
    torch.save(kept, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="a file may not choose"):
        load_model(tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="would be fetched from a hub"):
        create_model("timm/hf-hub:a/b", 2)


def test_pickled_code_does_not_run(tmp_path):
    torch.save(small(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="holds Python objects, which are not run"):
        load_model(tmp_path / "whole.pt", network=small())


def test_preprocessing_is_read():
    net, _ = families.build("timm ResNet")
    model = wrap(net, size=64, processor="own")
    assert model.preprocessing["crop_pct"] == net.default_cfg["crop_pct"]
    assert tuple(model.mean.flatten().tolist()) == pytest.approx(
        net.default_cfg["mean"]
    )
    assert resize_like(model).crop_share == net.default_cfg["crop_pct"]
    with pytest.raises(ValueError, match="does not say how images are normalised"):
        wrap(small(), size=24, processor="own")


def test_our_own_networks_go_into_each_other():
    one, other = (create_model("small_cnn", 3, seed=s) for s in (0, 1))
    x = torch.rand(2, 3, 28, 28, generator=make_generator(0))
    assert one.into(other) is other and torch.equal(one.eval()(x), other.eval()(x))


def test_weights_that_are_filled_in_are_trained(tmp_path):
    net = create_model("small_cnn", 3)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    assert not load_model(
        tmp_path / "a.pt", network=create_model("small_cnn", 3)
    ).untrained


def test_safetensors_of_our_own_network_are_read_by_its_name(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    net = create_model("small_cnn", 3)
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    assert (
        load_model(tmp_path / "a.safetensors", network="small_cnn").n_classes == 3
    )


class OneSize(torch.nn.Module):
    "A network that takes 16×24 pixels and nothing else"

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        if tuple(x.shape[-2:]) != (16, 24):
            raise RuntimeError("16×24 pixels, please")
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_features_of_images_that_are_not_square():
    x = torch.zeros(4, 3, 16, 24, dtype=torch.uint8)
    split = Split.from_tensors(x, torch.tensor([0, 1, 0, 1]))
    assert extract_features(OneSize().eval(), split).values.shape == (4, 4)


PROCESSORS = """ViT DeiT Beit Bit CLIP Siglip ConvNext EfficientNet MobileNetV1 MobileNetV2 PoolFormer
Segformer Pvt Levit DINOv3ViT""".split()


@pytest.mark.parametrize("changes", [{}, dict(do_normalize=False)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_come_out_as_of_the_processor(tmp_path, name, changes):
    "Size, crop, interpolation, mean and std: what the network gets is what transformers would give it"
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{name}ImageProcessor")(**changes)
    noise = images(1, (20, 30))[0].permute(1, 2, 0).numpy()
    photo = Image.fromarray(noise).resize((450, 300), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.png")
    expected = torch.from_numpy(processor(photo, return_tensors="np").pixel_values)
    known = read_processor(processor)
    net = wrap(small(), size=32, processor=processor)
    x = Split.from_files([tmp_path / "a.png"], [0], like=net).images / 255
    assert x.shape == expected.shape and known["mean"] is not None
    off = (x - net.mean) / net.std - expected
    assert (off * net.std).abs().mean() < 1 / 255, (
        "Pillow and torch round differently"
    )


def test_a_processor_that_flips_channels_is_followed(tmp_path):
    "What the first layer gets is what transformers' MobileViT gives it, also from files"
    transformers = pytest.importorskip("transformers")
    settings = dict(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.MobileViTImageProcessor(**settings)
    processor.save_pretrained(tmp_path)
    noise = images(1, (20, 30))[0].permute(1, 2, 0).numpy()
    photo = Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.png")
    expected = torch.from_numpy(processor(photo, return_tensors="np").pixel_values)
    assert (expected - expected.flip(1)).abs().mean() > 0.05, "red is not like blue"
    for given in (
        processor,
        tmp_path,
        dict(do_flip_channel_order=True, **settings),
    ):
        assert read_processor(given)["channel_order"] == (2, 1, 0)
    plain = small()
    net = wrap(plain, size=32, processor=tmp_path).eval()
    x = Split.from_files([tmp_path / "a.png"], [0], like=net).images / 255
    seen = []
    net.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    net(x)
    assert (seen[0] - expected).abs().mean() < 1 / 255
    save_model(net, tmp_path / "net.pt")
    again = wrap(small(), size=32, processor=processor)
    assert load_model(tmp_path / "net.pt", network=again)(x).equal(net(x))
    with pytest.raises(ValueError, match="channel_order"):
        load_model(tmp_path / "net.pt", network=wrap(small(), size=32))
    back = net.into(small()).eval()
    assert torch.allclose(back(x.flip(1)), net(x), atol=1e-6)


def test_features_kept_for_another_order_of_channels_are_not_taken():
    net = create_model("small_cnn", 2)
    before = net.features_fingerprint()
    net.set_normalisation(None, None, (2, 1, 0))
    assert net.features_fingerprint() != before


def test_other_ranges_and_orders_of_channels():
    pixels = dict(rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    assert read_processor(pixels) == dict(mean=[0.5] * 3, std=[0.5] * 3)
    raw = dict(do_rescale=False, image_mean=[127.5] * 3, image_std=[51.0] * 3)
    assert read_processor(raw) == dict(mean=[0.5] * 3, std=[0.2] * 3)
    levit = dict(
        image_processor_type="LevitImageProcessor", size={"shortest_edge": 224}
    )
    assert read_processor(levit)["crop_pct"] == 224 / 256
    assert (
        read_processor(
            levit | dict(image_processor_type="MobileViTImageProcessor")
        )["crop_pct"]
        == 1
    )  # "mobilevit" ends like "levit"
    with pytest.raises(ValueError, match="may mean either side or the shorter one"):
        read_processor(dict(size=224))
    crop = dict(size={"shortest_edge": 224}, crop_size=256, do_center_crop=True)
    with pytest.raises(ValueError, match="scales to 224 and crops 256"):
        read_processor(crop)


def test_timm_squashes_then_crops(tmp_path):
    config = dict(input_size=(3, 8, 8), crop_pct=0.5, crop_mode="squash")
    net = nn.Identity()
    net.pretrained_cfg = config
    pixels = torch.zeros(32, 64, 3, dtype=torch.uint8)
    pixels[8:24, 16:48] = 255  # the inner half of either side
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    split = Split.from_files([tmp_path / "a.png"], [0], like=net)
    assert (
        split.images.shape == (1, 3, 8, 8)
        and split.images[..., 1:7, 1:7].min() == 255
    )
    assert "cuts off 75 %" in repr(split)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "vit_h_14"])
def test_pretrained_torchvision_networks_know_their_images(tmp_path, name):
    "Nothing is fetched here: the weights' own transform is compared with `like=`"
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    noise = images(1, (20, 30))[0].permute(1, 2, 0).numpy()
    photo = Image.fromarray(noise).resize((900, 700), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.png")
    known = _images_of_weights(name)
    net = wrap(small(), known["mean"], known["std"], 32)
    net.preprocessing = known
    x = Split.from_files([tmp_path / "a.png"], [0], like=net).images / 255
    expected = preset(photo)[None]
    assert x.shape == expected.shape
    off = (x - net.mean) / net.std - expected
    assert (off * net.std).abs().mean() < 1 / 255


def test_a_file_of_text_is_no_checkpoint(tmp_path):
    (tmp_path / "a.pt").write_text("garbage\n")
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        load_model(tmp_path / "a.pt", network="resnet18")

"What a user might write, with every public name in it: mypy reads it (tests/test_style.py), nobody runs it."

from pathlib import Path

import torch

import masktune as mt
from masktune.all import *


def data(root: Path) -> None:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    split = Split.from_tensors(images, [0, 1, 0, 1], groups=[0, 1, 2, 3])
    for batch in split.batches(2, shuffle=True, seed=0):
        assert isinstance(batch, Batch)
        print(batch.x.shape, batch.y.tolist(), batch.group, batch.index)
    rest, held_out = split.random_split(0.5, seed=0)
    bench = Benchmark("mine", rest, held_out, {"test": split})
    print(bench.n_classes, bench.class_names, split.image_size, split.fingerprint())
    for name in list_benchmarks():
        make_miniature(name, root)
    birds = load_benchmark("waterbirds", root, size=224)
    for made in (biased_mnist(), make_glyphs("OQ"), colored_mnist(), spuco_mnist()):
        print(made.name)
    print(dominoes(), birds)


def networks(root: Path, own: torch.nn.Module) -> Network:
    net = create_model("resnet18", 2, pretrained=True)
    save_model(net, root / "net.pt")
    again = load_model(root / "net.pt")
    print(wrap(own).n_classes, again.features, mt.Network)
    return net


def seeing(net: Network, bench: Benchmark) -> None:
    x = next(bench.val.batches(4)).x
    heat = cam(net, x, method="gradcam")
    print(saliency_methods(), heat.shape)
    maps: SaliencyMaps = compute_maps(net, bench.val)
    masks: SaliencyMasks = maps.masks(n_std=2.0)
    print(
        masks.masked_fraction(),
        pointing_game(maps, torch.ones(32, 32, dtype=torch.bool)),
    )
    overlay_heatmap(x[0], heat[0])


def measuring(net: Network, bench: Benchmark) -> None:
    said: Predictions = predict(net, bench.val)
    report: Report = evaluate(net, bench.val, train=bench.train)
    print(said.accuracy, report.worst_group_accuracy, report.mean_group_accuracy)
    curve = risk_coverage(selective_scores(said))
    print(curve.aurc)


def methods(net: Network, bench: Benchmark) -> None:
    erm = ERM(epochs=3, lr=0.01, augment=Augment(flip=0.5)).fit(net, bench)
    tuned = MaskTune(n_std=2.0).fit(erm, bench)
    print(tuned.model_, tuned.history_, erm.last_)
    for whole in (RandomMask(), ULE(), JTT(), GroupDRO()):
        print(whole.fit(erm.model_, bench).model_)
    for head in (LastLayerRetraining(), DFR(), AFR(), NeuronTune(tune_on="val")):
        print(head.fit(erm, bench).labels_used)
    print(SpuriosityRanking(spurious="groups").fit(erm, bench).ranking_)
    for abstaining in (DeepGamblers(), SelfAdaptiveTraining(), SelectiveNet()):
        print(abstaining.fit(net, bench).model_)


def looking(net: Network, bench: Benchmark) -> None:
    plot_grid(bench.val.images[:4], titles=["a"] * 4)
    plot_rows({"input": bench.val.images[:4]})
    plot_curves({"loss": [3.0, 2.0, 1.0]})
    table = results_table("runs", against="ERM")
    plot_bars(table.frame, ["mean"])
    Browser(bench.val, {"ERM": net}).page("class 0")
    report = audit(net, bench.val, root="photos")
    report.save_html("audit.html")
    print(report.table)


def running(root: Path) -> None:
    print(fit_folder("photos", root / "fit"))
    print(run_experiment("biased_mnist", root / "run", seed=1))
    sweep("biased_mnist", {"seed": [0, 1]}, out=root)
    print(run_status(root), compare_methods)

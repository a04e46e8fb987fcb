"""Find out what an image classifier is really looking at, and make it look further, without group labels.

The names below are imported when they are first used, so that `import masktune` costs nothing.
"""
__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING

_HOMES = {   # module -> the public names it defines
    "data.batches": "Batch",
    "data.split": "Split",
    "data.benchmark": "Benchmark",
    "data.registry": "load_benchmark list_benchmarks",
    "data.planted_cues": "biased_mnist",
    "data.glyphs": "make_glyphs",
    "data.synthetic": "colored_mnist spuco_mnist dominoes",
    "data.miniatures": "make_miniature",
    "models.network": "Network",
    "models.wrap": "wrap",
    "models.zoo": "create_model save_model load_model",
    "evaluation.metrics": "predict evaluate Predictions Report",
    "evaluation.selective": "selective_scores risk_coverage",
    "evaluation.localisation": "pointing_game",
    "training.augment": "Augment",
    "saliency.cam": "cam saliency_methods",
    "saliency.maps": "compute_maps SaliencyMaps SaliencyMasks",
    "methods.erm": "ERM",
    "methods.masktune": "MaskTune RandomMask",
    "methods.ule": "ULE",
    "methods.last_layer": "LastLayerRetraining DFR AFR",
    "methods.neurontune": "NeuronTune",
    "methods.spuriosity": "SpuriosityRanking",
    "methods.group_dro_jtt": "JTT GroupDRO",
    "methods.abstaining": "DeepGamblers SelfAdaptiveTraining SelectiveNet",
    "plots.images": "plot_grid plot_rows overlay_heatmap",
    "plots.charts": "plot_bars plot_curves",
    "plots.browser": "Browser",
    "runs.execute": "run_experiment",
    "runs.record": "fit_folder",
    "runs.compare": "compare_methods",
    "runs.tables": "results_table",
    "runs.sweep": "sweep run_status",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = list(_MODULE_OF)


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'masktune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"masktune.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:   # for editors and type checkers; tests/test_project.py holds it equal to _HOMES
    from .data.batches import Batch as Batch
    from .data.split import Split as Split
    from .data.benchmark import Benchmark as Benchmark
    from .data.registry import load_benchmark as load_benchmark, list_benchmarks as list_benchmarks
    from .data.planted_cues import biased_mnist as biased_mnist
    from .data.glyphs import make_glyphs as make_glyphs
    from .data.synthetic import colored_mnist as colored_mnist, spuco_mnist as spuco_mnist
    from .data.synthetic import dominoes as dominoes
    from .data.miniatures import make_miniature as make_miniature
    from .models.network import Network as Network
    from .models.wrap import wrap as wrap
    from .models.zoo import create_model as create_model, save_model as save_model
    from .models.zoo import load_model as load_model
    from .evaluation.metrics import predict as predict, evaluate as evaluate
    from .evaluation.metrics import Predictions as Predictions, Report as Report
    from .evaluation.selective import selective_scores as selective_scores
    from .evaluation.selective import risk_coverage as risk_coverage
    from .evaluation.localisation import pointing_game as pointing_game
    from .training.augment import Augment as Augment
    from .saliency.cam import cam as cam, saliency_methods as saliency_methods
    from .saliency.maps import compute_maps as compute_maps, SaliencyMaps as SaliencyMaps
    from .saliency.maps import SaliencyMasks as SaliencyMasks
    from .methods.erm import ERM as ERM
    from .methods.masktune import MaskTune as MaskTune, RandomMask as RandomMask
    from .methods.ule import ULE as ULE
    from .methods.last_layer import LastLayerRetraining as LastLayerRetraining, DFR as DFR
    from .methods.last_layer import AFR as AFR
    from .methods.neurontune import NeuronTune as NeuronTune
    from .methods.spuriosity import SpuriosityRanking as SpuriosityRanking
    from .methods.group_dro_jtt import JTT as JTT, GroupDRO as GroupDRO
    from .methods.abstaining import DeepGamblers as DeepGamblers
    from .methods.abstaining import SelfAdaptiveTraining as SelfAdaptiveTraining
    from .methods.abstaining import SelectiveNet as SelectiveNet
    from .plots.images import plot_grid as plot_grid, plot_rows as plot_rows
    from .plots.images import overlay_heatmap as overlay_heatmap
    from .plots.charts import plot_bars as plot_bars, plot_curves as plot_curves
    from .plots.browser import Browser as Browser
    from .runs.execute import run_experiment as run_experiment
    from .runs.record import fit_folder as fit_folder
    from .runs.compare import compare_methods as compare_methods
    from .runs.tables import results_table as results_table
    from .runs.sweep import sweep as sweep, run_status as run_status

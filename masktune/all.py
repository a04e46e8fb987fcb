"Everything that notebooks and scripts need: `from masktune.all import *`"
from masktune.core import *
from masktune.plots import *
from masktune.data import *
from masktune.download import *
from masktune.glyphs import *
from masktune.miniatures import *
from masktune.shortcuts import *
from masktune.synthetic import *
from masktune.archives import *
from masktune.benchmarks import *
from masktune.models import *
from masktune.metrics import *
from masktune.training import *
from masktune.masking import *
from masktune.saliency import *
from masktune.finetune import *
from masktune.runs import *

"The public names, for notebooks: `from masktune.all import *`."
from masktune import *
from masktune import __all__ as __all__

"The public names, for notebooks: `from masktune.all import *`."
from masktune import *

"""Runs a command line (all arguments) where no file may grow beyond the bytes of the first one."""

import resource
import sys

from pdae_jax.main import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(["pdae_jax", *sys.argv[2:]]))

"""Runs the converter (all arguments) where no file may grow beyond the bytes of the first one."""

import resource
import runpy
import sys

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")

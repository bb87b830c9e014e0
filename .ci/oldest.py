"""Prints pip constraints: the oldest version that setup.cfg allows of each package it bounds."""

import configparser
import re
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).parent.parent / "setup.cfg")
for line in config["options"]["install_requires"].splitlines():
    if bounded := re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", line):
        print("==".join(bounded.groups()))

"""Real servers for the tests, from Debian packages, without root.

    servers.library("libfaketime.so.1")     the path of a shared library
    servers.program("etcd")                 a path, and the environment that it needs
    python -m tests.servers [NAME …]        provide everything, or these rows of the catalogue

What is installed on the machine is used as it is. Else the packages are downloaded and unpacked under
.cache/servers: nothing is installed, no maintainer script runs, no service starts. Where that is impossible,
`Missing` names the one command that mends it.
"""

from tests.servers.catalogue import CATALOGUE, Need
from tests.servers.fetch import Missing, Program, library, program, provide

__all__ = ["CATALOGUE", "Missing", "Need", "Program", "library", "program", "provide"]

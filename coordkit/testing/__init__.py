"""For tests: of programs that use coordkit, and of backends that others write.

    from coordkit import testing

    with testing.faults("orders") as faults:        # electors on memory://orders
        faults.cut()                                # nothing gets through, until faults.heal()

`pytest_plugins = ["coordkit.testing.fixtures"]` brings the fixtures; `coordkit.testing.contract` is the suite that
every backend passes; `coordkit.testing.virtual` runs the core on virtual time.
"""

from coordkit.testing.faults import StoreFaults, faults

__all__ = ["StoreFaults", "faults"]

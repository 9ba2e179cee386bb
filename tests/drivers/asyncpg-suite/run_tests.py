"""Runs asyncpg's own tests against the server that PGHOST and PGPORT name.

    run_tests.py SOURCES LEFT_OUT [--all] [MODULE[.CLASS[.TEST]] ...]

SOURCES is the unpacked sdist; asyncpg itself comes from its installed wheel. LEFT_OUT is a file of the tests that are
not run, see its head; --all runs those too. The further arguments, such as test_prepare, are all that is run. The last
line says how many passed; the status is 1 if any failed.
"""

import fnmatch
import importlib.util
import pathlib
import signal
import sys
import time
import unittest

import asyncpg

# A test that waits for what never comes must not stop the others.
SECONDS_PER_TEST = 120


def main(sources, left_out, *arguments):
    only = [name for name in arguments if not name.startswith("--")]
    patterns = [] if "--all" in arguments else read_patterns(left_out)
    add_tests_package(sources)
    tests = all_tests(sources)
    suite = unittest.TestSuite(test for test in tests if selected(identity(test), only, patterns))
    outcome = suite.run(Outcome())
    outcome.failed = [name for name in outcome.failed if not fnmatches(name, patterns)]
    for pattern in patterns:
        # The fixtures of a class, which no list of tests has.
        if not pattern.endswith("Class") and not fnmatch.filter(map(identity, tests), pattern):
            outcome.failed.append(f"{pattern} is left out, but there is no such test")
    for name in outcome.failed:
        print(f"FAILED {name}")
    result = f"{len(outcome.passed)} passed"
    if outcome.failed:
        result = f"{len(outcome.failed)} failed, {result}"
    print(f"asyncpg-suite {asyncpg.__version__}: {result}")
    return 1 if outcome.failed else 0


def read_patterns(path):
    lines = pathlib.Path(path).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def add_tests_package(sources):
    """Makes `tests` importable, but not the `asyncpg` next to it, which has no compiled parts."""
    package = importlib.util.spec_from_file_location("tests", pathlib.Path(sources) / "tests" / "__init__.py",
                                                     submodule_search_locations=[str(pathlib.Path(sources) / "tests")])
    sys.modules["tests"] = importlib.util.module_from_spec(package)


def all_tests(sources):
    names = sorted(path.stem for path in (pathlib.Path(sources) / "tests").glob("test_*.py"))
    modules = [importlib.import_module(f"tests.{name}") for name in names]
    return [test for module in modules for test in flatten(unittest.defaultTestLoader.loadTestsFromModule(module))]


def selected(name, only, patterns):
    if only and not any(f"{name}.".startswith(f"{prefix}.") for prefix in only):
        return False
    return not fnmatches(name, patterns)


def fnmatches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def identity(test):
    # A fixture that fails is called "tearDownClass (tests.test_x.TestY)".
    fixture, _, of = test.id().partition(" (")
    return f"{of.rstrip(')')}.{fixture}".removeprefix("tests.") if of else test.id().removeprefix("tests.")


class Outcome(unittest.TestResult):
    """Prints what fails when it does, and counts the rest."""

    def __init__(self):
        super().__init__()
        self.passed, self.failed = [], []

    def startTest(self, test):
        super().startTest(test)
        self.started, self.bad = time.monotonic(), False
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS_PER_TEST)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)
        took = time.monotonic() - self.started
        if took > 5:
            print(f"slow: {identity(test)} took {took:.1f} s", flush=True)

    def addSuccess(self, test):
        self.passed.append(identity(test))

    def addSkip(self, test, reason):
        print(f"skipped by itself: {identity(test)}: {reason}", flush=True)

    def addExpectedFailure(self, test, error):
        self.passed.append(identity(test))

    def addUnexpectedSuccess(self, test):
        self.passed.append(identity(test))

    def addError(self, test, error):
        self.fail(test, error)

    def addFailure(self, test, error):
        self.fail(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.fail(test, error)

    def fail(self, test, error):
        print(f"---- {identity(test)}\n{self._exc_info_to_string(error, test)}", flush=True)
        if identity(test) not in self.failed:
            self.failed.append(identity(test))


def too_long(_signal, _frame):
    raise TimeoutError(f"not done after {SECONDS_PER_TEST} s")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

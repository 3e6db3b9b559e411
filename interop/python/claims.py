"""A runner for unittest that says one line for every claim that was proven or
not, in the words of interop/run, and the whole error below those that were not."""

import sys
import textwrap
import unittest


class _Claims(unittest.TestResult):
    def _say(self, word, test, detail=""):
        print(f"{word}  python: {test.shortDescription() or test.id()}")
        if detail:
            print(textwrap.indent(detail, "        "))
        sys.stdout.flush()

    def addSuccess(self, test):
        super().addSuccess(test)
        self._say("proven", test)

    def addError(self, test, err):
        super().addError(test, err)
        self._say("FAILED", test, self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._say("FAILED", test, self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._say("FAILED", test, "left out: " + reason)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._say("FAILED", test, "expected to fail, and did not")


def main(module):
    """Run every claim of a module, and exit with 1 unless all were proven."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[module])
    result = _Claims()
    suite.run(result)
    sys.exit(0 if result.testsRun and result.wasSuccessful() else 1)

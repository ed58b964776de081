"""What is taken out of the answers of a plugin in Python: the same as in TypeScript."""

import json
import unittest
from pathlib import Path

import support  # noqa: F401 - makes the package importable
from ipcctl._redact import Redactor

VECTORS = Path(__file__).resolve().parents[1] / "vectors/redact.json"


class RedactTest(unittest.TestCase):
    def test_each_case_is_as_in_typescript(self) -> None:
        cases = json.loads(VECTORS.read_text())
        self.assertGreater(len(cases), 100)
        for case in cases:
            with self.subTest(case["name"], value=case["value"]):
                self.assertEqual(Redactor([case["credential"]]).value(case["value"]), case["clean"])

    def test_what_is_clean_comes_back_as_it_is(self) -> None:
        value = {"a": ["something", 1, None, True], "b": {"c": "else"}}
        self.assertIs(Redactor(["correct-horse"]).value(value), value)
        self.assertIs(Redactor([]).value(value), value)
        text = '{"a":1.50,  "b":"x"}'
        self.assertIs(Redactor(["correct-horse"]).json(text), text)

    def test_of_several_each_is_found(self) -> None:
        one = Redactor(["abcdefgh", "abcdefghijkl", "zyxwvuts"])
        self.assertEqual(one.text("abcdefghijkl zyxwvuts abcdefgh"), "[redacted] [redacted] [redacted]")


if __name__ == "__main__":
    unittest.main()
